"""Trains the models that come along, from nothing to the report: `make tiny-world`.

    python -m experiments.tiny_world --workdir runs/tiny-world

Stages, each done once and gone on with where it was interrupted:

    vae      the tiny VAE, its decoder twice more           WORKDIR/vae-first, ..., vae-pictures
    model    VAE, text encoder and a fresh DiT as published WORKDIR/start
    clips    clips of the world, encoded                    WORKDIR/clips-base, clips-pusa
    base     the DiT, plain text-to-video                   WORKDIR/base -> WORKDIR/model
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

from experiments.tiny_world import dataset, denoiser, publish, settings, train_vae
from experiments.tiny_world.autoencoder import published_leaves, start_values
from experiments.tiny_world.codec import Codec
from experiments.tiny_world.evaluate import Sampling
from experiments.tiny_world.measured import report as measure_all
from pusa_jax.cli.run_flags import parse
from pusa_jax.cli.train import Watch, open_clips
from pusa_jax.convert.foreign import LORA_FILE
from pusa_jax.demo.world import NARROW, WIDE
from pusa_jax.progress import Console
from pusa_jax.training.export import export_adapters
from pusa_jax.training.finished import read_result
from pusa_jax.training.loop import train
from pusa_jax.training.state import Params

STOPPED = "stopped and saved; the same command goes on."
STAGES = ("vae", "model", "clips", "base", "pusa", "report")


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


def vae(args: argparse.Namespace) -> Params:
    """Trains the VAE, its decoder twice more at the end; returns what was trained."""
    console, params = Console(), start_values(settings.VAE_FIRST.seed)
    runs = {
        "vae-first": settings.VAE_FIRST,
        "vae-last": settings.VAE_LAST,
        "vae-decoder": settings.VAE_DECODER,
        "vae-pictures": settings.VAE_PICTURES,
    }
    for name, run in runs.items():
        on_step = lambda step, steps, note, name=name: console(name, step, steps, note)  # noqa: E731
        params = train_vae.train_vae(run, args.workdir / name, params, on_step)
        if params is None:
            sys.exit(STOPPED)
    console.close()
    return params


def model(args: argparse.Namespace) -> None:
    """Writes the folder that the DiT's training begins with."""
    folder = args.workdir / "start"
    params = vae(args)
    statistics = train_vae.latent_statistics(params, NARROW, 32)
    publish.write_vae(folder, published_leaves(params, *statistics))
    publish.write_text_encoder(folder, denoiser.TEXT_LEN)
    publish.write_dit(folder, denoiser.start_values(denoiser.DIT, jax.random.key(0)), denoiser.DIT)


def clips(args: argparse.Namespace) -> None:
    """Encodes the clips."""
    folder = args.workdir / "start"
    encode = Codec(folder).encode
    for name, (world, count) in settings.CLIPS.items():
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


def base(args: argparse.Namespace) -> None:
    """Trains the DiT."""
    _train(args, "base", "start", "clips-base")
    leaves = dict(read_result(args.workdir / "base", average=True).leaves())
    shutil.copytree(args.workdir / "start", args.workdir / "model", dirs_exist_ok=True)
    arrays = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    publish.write_dit(args.workdir / "model", arrays, denoiser.DIT)


def pusa(args: argparse.Namespace) -> None:
    """Trains the adapters."""
    _train(args, "pusa", "model", "clips-pusa")
    work = args.workdir / "exported"
    shutil.rmtree(work, ignore_errors=True)
    export_adapters(read_result(args.workdir / "pusa", average=True), work, naming="pusa_v1")
    shutil.copy(work / LORA_FILE, args.workdir / "model" / LORA_FILE)


def _train(args: argparse.Namespace, stage: str, weights: str, clips: str) -> None:
    flags = [
        f"--config=configs/tiny_world.py:{stage}",
        f"--config.model.weights={args.workdir / weights}",
        f"--config.data.folder={args.workdir / clips}",
        f"--workdir={args.workdir / stage}",
    ]
    run, _ = parse(flags)
    workdir = args.workdir / stage
    with Console() as console:
        watch = Watch(run, console)
        taken = train(
            run, open_clips(run)[0], workdir, watch.on_step, on_progress=watch.on_progress
        )
    if taken < run.steps:
        sys.exit(STOPPED)


def report(args: argparse.Namespace) -> None:
    """Measures all."""
    found = measure_all(args.workdir / "model", WIDE, args.count, Sampling())
    (args.workdir / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
