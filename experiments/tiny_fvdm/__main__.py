"""Trains a tiny FVDM from nothing, in minutes, and makes a clip of every kind: `make tiny-fvdm`.

    python -m experiments.tiny_fvdm --output runs/tiny-fvdm

    OUTPUT/vae/         the autoencoder, as Diffusers publishes it
    OUTPUT/fvdm.pt      LatteVIDEO of six classes, as FVDM's trainer writes it
    OUTPUT/clips/       a clip of every kind, made from the two

Then `pusa-jax t2v --model OUTPUT --label 2 --cfg_scale 1.5`, and all other tasks. Files that are
there are replaced.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from experiments.tiny_fvdm import autoencoder, checking, denoiser, world
from pusa_jax.progress import Console
from pusa_jax.testing.latte import write_dit, write_vae


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is trained.

    Attributes:
      clips: of the world.
      pictures: steps of the autoencoder.
      videos: steps of the denoiser.
    """

    clips: int = 1024
    pictures: int = 500
    videos: int = 6000


QUICK = Amount(clips=16, pictures=2, videos=2)


def main() -> None:
    """Trains and writes both networks, then tries them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/tiny-fvdm"))
    parser.add_argument("--quick", action="store_true", help="prove that it runs; learns nothing")
    args = parser.parse_args()
    with Console() as console:
        train(args.output, QUICK if args.quick else Amount(), console)
        clips = checking.parts()
        if args.quick:
            clips = {name: clips[name] for name in ("class-0", "i2v")}
        found = checking.make_all(args.output, clips, console)
    for name, seen in found.items():
        print(f"{args.output / 'clips' / name}.mp4: {checking.in_words(seen)}")
    guided = f"--label 2 --cfg_scale {checking.GUIDANCE}"
    print(f"next: pusa-jax t2v --model {args.output} {guided}")
    print("labels:", ", ".join(f"{i} {' '.join(x)}" for i, x in enumerate(world.CLASSES)))


def train(folder: Path, amount: Amount, on_progress: Console) -> None:
    """Trains the autoencoder, then on its latents the denoiser; writes both."""
    scenes = [world.draw(0, i) for i in range(amount.clips)]
    clips = np.stack([world.render(scene, denoiser.FRAMES) for scene in scenes])
    frames = clips.reshape(-1, *clips.shape[2:])

    def on_picture(*progress) -> None:
        on_progress("autoencoder", *progress)

    def on_video(*progress) -> None:
        on_progress("denoiser", *progress)

    leaves = autoencoder.trained(frames, amount.pictures, on_picture)
    latents = autoencoder.encoded(leaves, frames)
    mean = latents.mean(axis=(0, 1, 2))
    latents -= mean
    scale = float(1 / latents.std())
    config = dataclasses.replace(autoencoder.VAE, scaling_factor=scale)
    write_vae(folder, autoencoder.centred(leaves, mean), config)
    latents = (latents * scale).reshape(*clips.shape[:2], *latents.shape[1:])
    labels = np.asarray([scene.label for scene in scenes])
    trained = denoiser.trained(latents, labels, amount.videos, on_video)
    write_dit(folder, trained, denoiser.DIT)


if __name__ == "__main__":
    sys.exit(main())
