"""Clips of any length with a rule: a disc goes to and fro on a line, at one speed.

    (seed, index) --> Scene --places--> (x, y) of every frame --render--> uint8 [T, H, W, 3]

Its colour is any between red and blue, so that it can drift, and it never leaves the frame, so that
a clip never ends.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from pusa_jax.demo.world import coverage, paint

SIZE, RADIUS, SPEED = 16, 3.5, 0.4
"""Pixels of a frame's side, of the disc's radius, and per frame."""

LOW, HIGH = RADIUS + 0.5, SIZE - RADIUS - 0.5
"""Where the disc turns back."""

RED, BLUE = np.asarray([240.0, 64, 32]), np.asarray([32.0, 96, 240])
"""Ends of the line on which all colours lie."""

BACKGROUND = np.full(3, 8.0)

FRESH = 1_000_000
"""Number of the first scene that no training has seen."""

Clip = UInt8[np.ndarray, "T H W 3"]
Places = Float[np.ndarray, "T 2"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The truth about a clip of any length.

    Attributes:
      colour: RGB of 0..255.
      phase: where it is on its way to and fro at first, in pixels of way from `LOW`.
    """

    colour: Float[np.ndarray, " 3"]
    phase: float

    def places(self, frames: int) -> Places:
        """(x, y) of the centre in each frame."""
        way, room = self.phase + SPEED * np.arange(frames), HIGH - LOW
        along = HIGH - np.abs(way % (2 * room) - room)
        return np.stack([along, np.full(frames, SIZE / 2)], axis=1)


def draw(seed: int, index: int) -> Scene:
    """Scene `index` of the sequence that a seed stands for."""
    rng = np.random.default_rng((seed, index))
    return Scene(
        colour=RED + (BLUE - RED) * rng.uniform(),
        phase=rng.uniform(0, 2 * (HIGH - LOW)),
    )


def render(scene: Scene, frames: int) -> Clip:
    """The frames of a scene."""
    cover = coverage("circle", RADIUS, scene.places(frames), SIZE)
    return paint(cover, scene.colour, BACKGROUND)
