"""Clips of any length in six classes: a disc of one colour goes to and fro along one axis.

    (seed, index) --> Scene --places--> (x, y) of every frame --render--> uint8 [T, H, W, 3]

A class is a colour and an axis. The disc never leaves the frame and never changes its speed, so
that a clip never ends.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from pusa_jax.demo.world import BACKGROUNDS, COLOURS, coverage, paint

SIZE, RADIUS, SPEED = 32, 6.0, 1.0
"""Pixels of a frame's side, of the disc's radius, and per frame."""

LOW, HIGH = RADIUS + 1, SIZE - RADIUS - 1
"""Between which its centre stays."""

AXES = {"sideways": 0, "up and down": 1}
"""Name -> which of (x, y) changes."""

CLASSES = tuple((colour, axis) for axis in AXES for colour in ("red", "green", "blue"))
"""Label -> colour and axis, names."""

FRESH = 1_000_000
"""Number of the first scene that no training has seen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth about a clip of any length.

    Attributes:
      label: number of the class.
      phase: where the disc is on its way to and fro at first, in pixels of way from `HIGH`.
      aside: its place along the other axis, in pixels.
    """

    label: int
    phase: float
    aside: float

    def places(self, frames: int) -> Float[np.ndarray, "T 2"]:
        """(x, y) of the centre in each frame, pixels."""
        way, room = self.phase + SPEED * np.arange(frames), HIGH - LOW
        along = HIGH - np.abs(way % (2 * room) - room)
        both = [along, np.full(frames, self.aside)]
        return np.stack(both[:: 1 - 2 * AXES[CLASSES[self.label][1]]], axis=1)


def draw(seed: int, index: int) -> Scene:
    """Scene `index` of the sequence that a seed stands for."""
    rng = np.random.default_rng((seed, index))
    return Scene(
        label=int(rng.integers(len(CLASSES))),
        phase=rng.uniform(0, 2 * (HIGH - LOW)),
        aside=rng.uniform(LOW, HIGH),
    )


def render(scene: Scene, frames: int) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a scene."""
    cover = coverage("circle", RADIUS, scene.places(frames), SIZE)
    return paint(cover, COLOURS[CLASSES[scene.label][0]], BACKGROUNDS["black"])
