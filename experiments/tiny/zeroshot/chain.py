"""Extension of an extension: each round continues the last four latent frames of the one before."""

import jax
import numpy as np

from experiments.tiny.measuring import (
    Row,
    encoded,
    extension,
    fresh,
    given_frames,
    summary,
    velocity,
)
from experiments.tiny_world.evaluate import Model, Sampling, generate
from pusa_jax.demo.judge import judge
from pusa_jax.demo.world import DIRECTIONS, Scene, render


def drift(model: Model, sampling: Sampling, count: int, seed: int, rounds: int) -> Row:
    """Extends true clips again and again.

    Returns:
      of every round i, about the frames made in it: `coherent i`, `colour i` and `background i`;
      `sideways i`, how far the object has left its line, in pixels; `speed i` in its direction, in
      pixels per frame. The edge of the frame ends the true motion after the first round or two: an
      object that stops or turns there has not drifted, so the speed is to be read with that.
    """
    scenes, seen = fresh(seed, count), []
    for first in range(0, count, sampling.batch):
        batch = scenes[first : first + sampling.batch]
        rows: list[Row] = [{} for _ in batch]
        clips = np.stack([render(scene) for scene in batch])
        for i in range(rounds):
            given = [extension(clip) for clip in clips]
            kept = given_frames(given[0])
            key = jax.random.fold_in(jax.random.key(seed), rounds * first + i)
            made = generate(model, batch, encoded(model, given), sampling, key)
            for row, clip, scene in zip(rows, made, batch, strict=True):
                row |= {f"{n} {i + 1}": x for n, x in _round(clip, scene, kept).items()}
            clips = made[:, -len(kept) :]
        seen += rows
    return summary(seen)


def _round(clip: np.ndarray, scene: Scene, given: tuple[int, ...]) -> Row:
    verdict = judge(clip, scene, given)
    heading = np.array(DIRECTIONS[scene.direction], float)
    across = int(heading[0] != 0)
    places = verdict.places[len(given) :]
    off = np.nan_to_num(np.abs(places[:, across] - scene.positions[0, across]), nan=scene.size / 2)
    return {
        "coherent": verdict.coherent,
        "colour": verdict.colour,
        "background": verdict.background,
        "sideways": float(np.median(off)),
        "speed": float(velocity(places) @ heading),
    }
