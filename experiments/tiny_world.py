"""Trains the models that come along, from nothing to the report: `make tiny-world`.

    python -m experiments.tiny_world --workdir runs/tiny-world

Stages, each done once and gone on with where it was interrupted:

    vae      the tiny VAE                                   WORKDIR/vae-first, vae-last
    model    VAE, text encoder and a fresh DiT as published WORKDIR/start
    clips    clips of three worlds, encoded, and a few for the adapters
    narrow   the DiT, plain text-to-video, narrow world     WORKDIR/narrow -> WORKDIR/narrow-model
    wide     the same, wide world                           WORKDIR/wide -> WORKDIR/wide-model
    base     the same, middle world                         WORKDIR/base -> WORKDIR/model
    pusa     the adapters                                   WORKDIR/pusa -> WORKDIR/model
    report   what the measuring stick says                  WORKDIR/report.json
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pusa_jax.cli_train import open_clips, parse, progress
from pusa_jax.progress import Console
from pusa_jax.tiny_world import dataset, denoiser, publish, recipes, train_vae
from pusa_jax.tiny_world.autoencoder import published_leaves
from pusa_jax.tiny_world.clips import MIDDLE, NARROW
from pusa_jax.tiny_world.codec import Codec
from pusa_jax.tiny_world.evaluate import Sampling
from pusa_jax.tiny_world.measured import report as measure_all
from pusa_jax.training.export import LORA, export_adapters
from pusa_jax.training.loop import train
from pusa_jax.training.result import read_result

STAGES = ("vae", "model", "clips", "narrow", "wide", "base", "pusa", "report")


def main() -> None:
    """Runs the stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/tiny-world"))
    parser.add_argument("--stages", default=",".join(STAGES), help="separated by commas")
    parser.add_argument("--count", type=int, default=200, help="clips per task of the report")
    args = parser.parse_args()
    wanted = args.stages.split(",")
    if unknown := set(wanted) - set(STAGES):
        parser.error(f"unknown stages {', '.join(sorted(unknown))}; known: {', '.join(STAGES)}")
    for stage in STAGES:
        if stage in wanted:
            since = time.perf_counter()
            globals()[stage](args)
            print(f"{stage}: {time.perf_counter() - since:.0f} s", file=sys.stderr)


def vae(args: argparse.Namespace) -> None:
    """Trains the VAE."""
    console, start = Console(), None
    for name, run in (("vae-first", recipes.VAE_FIRST), ("vae-last", recipes.VAE_LAST)):
        on_step = lambda step, steps, note, name=name: console(name, step, steps, note)  # noqa: E731
        start = train_vae.train_vae(run, args.workdir / name, on_step, start).ema
    console.close()


def model(args: argparse.Namespace) -> None:
    """Writes the folder that the DiT's training begins with."""
    folder = args.workdir / "start"
    params = train_vae.trained(args.workdir / "vae-last")
    statistics = train_vae.latent_statistics(params, NARROW, 32)
    publish.write_vae(folder, published_leaves(params, *statistics))
    publish.write_text_encoder(folder, denoiser.TEXT_LEN)
    publish.write_dit(folder, denoiser.start_values(denoiser.DIT, jax.random.key(0)), denoiser.DIT)


def clips(args: argparse.Namespace) -> None:
    """Encodes the clips."""
    folder = args.workdir / "start"
    encode = Codec(folder).encode
    for name, (world, count) in recipes.CLIPS.items():
        console = Console()
        dataset.encode_world(
            folder,
            args.workdir / f"clips-{name}",
            world,
            count,
            encode_clips=encode,
            on_progress=console,
        )
        console.close()


def narrow(args: argparse.Namespace) -> None:
    """Trains the DiT on the narrow world."""
    _train(args, "narrow", "start", "clips-narrow")
    _publish_dit(args, "narrow", "narrow-model")


def wide(args: argparse.Namespace) -> None:
    """Goes on with the wide one."""
    _train(args, "wide", "narrow-model", "clips-wide")
    _publish_dit(args, "wide", "wide-model")


def base(args: argparse.Namespace) -> None:
    """Goes on with the one between."""
    _train(args, "base", "wide-model", "clips-middle")
    _publish_dit(args, "base", "model")


def _publish_dit(args: argparse.Namespace, stage: str, name: str) -> None:
    """The folder with the average of what a stage trained."""
    leaves = dict(read_result(args.workdir / stage, average=True).leaves())
    shutil.copytree(args.workdir / "start", args.workdir / name, dirs_exist_ok=True)
    arrays = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    publish.write_dit(args.workdir / name, arrays, denoiser.DIT)


def pusa(args: argparse.Namespace) -> None:
    """Trains the adapters."""
    _train(args, "pusa", "model", "clips-few")
    work = args.workdir / "exported"
    shutil.rmtree(work, ignore_errors=True)
    export_adapters(read_result(args.workdir / "pusa", average=True), work, naming="pusa_v1")
    shutil.copy(work / LORA, args.workdir / "model" / LORA)


def _train(args: argparse.Namespace, stage: str, weights: str, clips: str) -> None:
    flags = [
        f"--config=configs/tiny_world.py:{stage}",
        f"--config.model.weights={args.workdir / weights}",
        f"--config.data.folder={args.workdir / clips}",
        f"--workdir={args.workdir / stage}",
    ]
    run, _ = parse(flags)
    with progress() as on_step:
        train(run, open_clips(run), args.workdir / stage, on_step)


def report(args: argparse.Namespace) -> None:
    """Measures all."""
    found = measure_all(args.workdir / "model", MIDDLE, args.count, Sampling())
    (args.workdir / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
