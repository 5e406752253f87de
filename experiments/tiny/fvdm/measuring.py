"""What is to be seen in clips of this world, and how far it is from the world's rule.

    clip --stick (demo.judge.look)--> objects, area and place per frame --> colour there
    places --the nearest rule of the world--> distance in pixels

A frame in which nothing is seen is half a frame away.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from experiments.tiny.fvdm import world
from experiments.tiny.fvdm.codec import Clips
from experiments.tiny.fvdm.world import Clip, Scene
from experiments.tiny.measuring import Row
from pusa_jax.demo.judge import AREA_TOLERANCE, look
from pusa_jax.demo.world import coverage
from pusa_jax.evaluation import frechet

LOST = world.SIZE / 2
"""Pixels."""

PHASES = np.arange(0, 2 * (world.HIGH - world.LOW), 0.25)
"""Of the rules that places are held against."""

INSIDE = 2.0
"""Radius in pixels of the part of the disc whose colour is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """Of clips, frame by frame.

    Attributes:
      whole: exactly one object, of the right area.
      places: (x, y) of the largest object; NaN where there is none.
      colours: RGB at its centre; NaN likewise.
    """

    whole: Bool[np.ndarray, "B T"]
    places: Float[np.ndarray, "B T 2"]
    colours: Float[np.ndarray, "B T 3"]

    def frames(self, chosen: slice | Sequence[int]) -> "Seen":
        """Some of the frames."""
        return Seen(
            whole=self.whole[:, chosen],
            places=self.places[:, chosen],
            colours=self.colours[:, chosen],
        )


def see(clips: Clips) -> Seen:
    """Looks at every frame."""
    found = [_see_clip(clip) for clip in clips]
    whole, places, colours = (np.stack(x) for x in zip(*found, strict=True))
    return Seen(whole=whole, places=places, colours=colours)


def _see_clip(clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames = [look(frame) for frame in clip]
    right = math.pi * world.RADIUS**2
    whole = [f.objects == 1 and abs(f.area / right - 1) <= AREA_TOLERANCE for f in frames]
    places = np.asarray([frame.place for frame in frames])
    inside = coverage("circle", INSIDE, np.nan_to_num(places, nan=LOST), world.SIZE)[..., None]
    colours = (clip * inside).sum((1, 2)) / inside.sum((1, 2))
    return np.asarray(whole), places, np.where(np.isnan(places[:, :1]), np.nan, colours)


def coherent(seen: Seen) -> Row:
    """Share of the frames with one whole object."""
    return {"coherent": float(seen.whole.mean())}


def truth_of(scenes: Sequence[Scene], frames: int) -> Float[np.ndarray, "B T 2"]:
    """True places."""
    return np.stack([scene.places(frames) for scene in scenes])


def from_truth(seen: Seen, truth: Float[np.ndarray, "*B T 2"]) -> Float[np.ndarray, " B"]:
    """Mean distance of each clip's object from its true places, in pixels."""
    gaps = np.linalg.norm(seen.places - truth, axis=-1)
    return np.nan_to_num(gaps, nan=LOST).mean(axis=1)


def from_rule(seen: Seen) -> Float[np.ndarray, " B"]:
    """The same distance from the places of the world's rule that come nearest."""
    rules = (Scene(colour=world.RED, phase=phase) for phase in PHASES)
    gaps = [from_truth(seen, rule.places(seen.places.shape[1])) for rule in rules]
    return np.min(gaps, axis=0)


def from_rule_through(
    seen: Seen, scenes: Sequence[Scene], chosen: Sequence[int]
) -> Float[np.ndarray, " B"]:
    """The same of the two rules that begin where each scene does, to and fro.

    Args:
      seen: the chosen frames.
      scenes: of each clip.
      chosen: their numbers in the clip.
    """
    back = [dataclasses.replace(scene, phase=-scene.phase) for scene in scenes]
    truths = (truth_of(side, max(chosen) + 1)[:, chosen] for side in (scenes, back))
    return np.min([from_truth(seen, truth) for truth in truths], axis=0)


def from_colour(seen: Seen, true: Seen) -> float:
    """Distance in RGB of 0..255 of the objects' mean colours from the true ones, a median.

    Args:
      seen: of what was made.
      true: of the true clips, through the codec.
    """
    return _median_norm(mean_colours(seen) - mean_colours(true))


def unsteadiness(seen: Seen) -> float:
    """Distance in RGB of a frame's colour from the mean of its clip, a median."""
    return _median_norm((seen.colours - mean_colours(seen)[:, None]).reshape(-1, 3))


def drift(first: Seen, last: Seen) -> float:
    """Distance in RGB between mean colours of two parts of a clip, a median."""
    return _median_norm(mean_colours(last) - mean_colours(first))


def mean_colours(seen: Seen) -> Float[np.ndarray, "B 3"]:
    """Of each clip; of a clip without objects the background's."""
    there = ~np.isnan(seen.colours[..., :1])
    total = np.where(there, seen.colours, 0).sum(axis=1)
    counts = there.sum(axis=1)
    return np.where(counts, total / np.maximum(counts, 1), world.BACKGROUND)


def _median_norm(gaps: Float[np.ndarray, "N 3"]) -> float:
    norms = np.linalg.norm(gaps, axis=-1)
    return float(np.median(norms[~np.isnan(norms)])) if (~np.isnan(norms)).any() else math.nan


def steps_of(seen: Seen) -> Float[np.ndarray, "B T-1"]:
    """How far the object goes from each frame to the next, in pixels."""
    steps = np.linalg.norm(np.diff(seen.places, axis=1), axis=-1)
    return np.nan_to_num(steps, nan=LOST)


def speed(seen: Seen) -> float:
    """Pixels per frame: the median of a clip, its mean over clips."""
    return float(np.median(steps_of(seen), axis=1).mean())


def seam(seen: Seen, seams: Sequence[int]) -> float:
    """By how much more than elsewhere the step into these frames misses the world's, in pixels."""
    misses = np.abs(steps_of(seen) - world.SPEED)
    at = np.zeros(misses.shape[1], bool)
    at[[i - 1 for i in seams]] = True
    return float(misses[:, at].mean() - misses[:, ~at].mean())


def features(seen: Seen) -> Float[np.ndarray, "B D"]:
    """A clip in 14 numbers: places in four frames, colour, speed, coherence, how it moves."""
    places = np.nan_to_num(seen.places, nan=LOST)
    at = np.linspace(0, places.shape[1] - 1, 4).astype(int)
    return np.concatenate(
        [
            places[:, at].reshape(len(places), -1) / world.SIZE,
            mean_colours(seen)[:, ::2] / 255,
            np.abs(np.diff(places, axis=1)).mean(axis=1),
            np.median(steps_of(seen), axis=1)[:, None],
            seen.whole.mean(axis=1)[:, None],
        ],
        axis=1,
    ).astype(np.float32)


def frechet_distance(true: Seen, made: Seen) -> float:
    """Between features of true and of made clips, each in units of its true deviation."""
    of_true, of_made = features(true), features(made)
    scale = np.maximum(of_true.std(axis=0), 0.05)
    sides = (frechet.statistics(side / scale) for side in (of_true, of_made))
    return frechet.distance(*sides)
