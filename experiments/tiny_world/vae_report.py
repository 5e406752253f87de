"""How good is the tiny VAE? PSNR on fresh whole clips, beside the best linear codec of its size.

    python -m experiments.tiny_world.vae_report --model runs/tiny-world/model

The linear codec keeps 16 principal components of the same blocks: 8x8 pixels of the first frame,
4x8x8 of the others. It is fitted to clips of the world it is measured on.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.tiny_world.codec import Codec
from experiments.tiny_world.train_vae import HELD_OUT, held_out
from pusa_jax.demo.judge import judge
from pusa_jax.demo.world import NARROW, WIDE, World, draw, render

COEFFICIENTS = 16


def main() -> None:
    """Prints one JSON object per world."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64, help="clips that are measured")
    parser.add_argument("--fit", type=int, default=256, help="clips the linear codec is fitted to")
    args = parser.parse_args()
    codec = Codec(args.model)
    for name, world in (("narrow", NARROW), ("wide", WIDE)):
        print(json.dumps({"world": name, "clips": args.count} | compare(codec, world, args)))


def compare(codec: Codec, world: World, args: argparse.Namespace) -> dict[str, float]:
    """PSNR of both, and what the stick says of the VAE's clips."""
    first, later = fit(world, args.fit)
    ours, linear, seen = [], [], []
    shapes: dict[str, list[float]] = {name: [] for name in world.shapes}
    for i, video in enumerate(held_out(world, args.count)):
        made = codec.decode(codec.encode(video[None]))[0]
        ours.append(frame_errors(made, video))
        projected = through(video, first, later)
        linear.append(frame_errors(projected, video))
        scene = draw(world, HELD_OUT, i)
        verdict = judge(made, scene)
        seen.append((verdict.colour, verdict.coherent))
        shapes[scene.shape].append(verdict.shape)
    ours, linear = np.stack(ours), np.stack(linear)
    colour, coherent = np.mean(seen, axis=0)
    return {
        "vae_db": decibels(ours),
        "first_frame_db": decibels(ours[:, 0]),
        "last_frames_db": decibels(ours[:, -4:]),
        "linear_db": decibels(linear),
        "colour": float(colour),
        "coherent": float(coherent),
    } | {f"{name}_seen": float(np.mean(right)) for name, right in shapes.items()}


def frame_errors(made: np.ndarray, video: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame, RGB in 0..255."""
    return np.mean((made.astype(np.float64) - video) ** 2, axis=(1, 2, 3))


def decibels(errors: np.ndarray) -> float:
    """PSNR of a mean squared error."""
    return float(10 * np.log10(255**2 / errors.mean()))


def blocks(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of the first frame [n, 192] and of the others [m, 768]."""
    t, h, w, _ = video.shape
    cut = video.astype(np.float64).reshape(t, h // 8, 8, w // 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    later = cut[1:].reshape(t // 4, 4, h // 8, w // 8, -1).transpose(0, 2, 3, 1, 4)
    return cut[0].reshape(-1, 192), later.reshape(-1, 768)


def unblocked(first: np.ndarray, later: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The video of these blocks."""
    t, h, w, _ = shape
    rest = later.reshape(t // 4, h // 8, w // 8, 4, 192).transpose(0, 3, 1, 2, 4)
    cut = np.concatenate([first.reshape(1, -1), rest.reshape(t - 1, -1)])
    cut = cut.reshape(t, h // 8, w // 8, 8, 8, 3)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


Basis = tuple[np.ndarray, np.ndarray]


def fit(world: World, count: int) -> tuple[Basis, Basis]:
    """Mean and principal components of both kinds of blocks."""
    pairs = [blocks(render(draw(world, 0, i))) for i in range(count)]
    first, later = (principal(np.concatenate(kind)) for kind in zip(*pairs, strict=True))
    return first, later


def principal(samples: np.ndarray) -> Basis:
    """Mean, and the directions of greatest variance as columns."""
    mean = samples.mean(0)
    _, vectors = np.linalg.eigh(np.cov(samples.T))
    return mean, vectors[:, -COEFFICIENTS:]


def through(video: np.ndarray, first: Basis, later: Basis) -> np.ndarray:
    """A clip through the linear codec."""
    opening, rest = (
        (samples - mean) @ basis @ basis.T + mean
        for samples, (mean, basis) in zip(blocks(video), (first, later), strict=True)
    )
    return np.clip(unblocked(opening, rest, video.shape), 0, 255)


if __name__ == "__main__":
    main()
