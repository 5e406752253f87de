"""What the VAE of Wan2.2 has besides layers with weights: patches of pixels, shortcuts past stages.

A shortcut turns cells of frames, rows and columns into channels or back, and makes the number of
channels fit: by the mean of neighbouring channels on the way in, by repeated channels on the way
out. At the published sizes that is average pooling, and enlargement by repeated pixels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pusa_jax.models.wan.vae_layers import Cache, Frames, Layer, chain

Shortcut = Callable[[Frames, bool], Array]
"""(input of a stage, whether it is the start of a clip) -> what is added to the stage's output."""


class Cell(NamedTuple):
    """Positions that become one: how many frames, and how many rows and columns."""

    time: int
    side: int

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.time * self.side**2


def to_patches(video: Float[Array, "B T H W C"], side: int) -> Float[Array, "B T h w c"]:
    """Squares of side x side pixels as channels, in the order (colour, column, row)."""
    b, t, h, w, c = video.shape
    x = video.reshape(b, t, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(b, t, h // side, w // side, c * side**2)


def from_patches(x: Float[Array, "B T h w c"], side: int) -> Float[Array, "B T H W C"]:
    """Undoes `to_patches`."""
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h, w, c // side**2, side, side)
    return x.transpose(0, 1, 2, 6, 3, 5, 4).reshape(b, t, h * side, w * side, c // side**2)


def mean_shortcut(
    x: Frames, is_first: bool, *, cell: Cell, channels: int
) -> Float[Array, "B t h w c"]:
    """The positions of each cell as channels (old channel, frame, row, column), then means.

    Args:
      x: input of a stage.
      is_first: whether x is the single frame at the start of a clip; it gets zeros before it.
      cell: what becomes one position.
      channels: of the result; a divisor of C times the size of a cell.
    """
    if is_first:
        x = jnp.pad(x, ((0, 0), (cell.time - 1, 0), (0, 0), (0, 0), (0, 0)))
    b, t, h, w, c = x.shape
    time, side = cell
    x = x.reshape(b, t // time, time, h // side, side, w // side, side, c)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(*x.shape[:4], channels, -1).mean(axis=-1)


def repeat_shortcut(
    x: Frames, is_first: bool, *, cell: Cell, channels: int
) -> Float[Array, "B t h w c"]:
    """Repeats channels and reads them as (new channel, frame, row, column) of cells.

    Args:
      x: input of a stage.
      is_first: whether x is the start of a clip, of whose cells only the last frame is kept.
      cell: what becomes of one position.
      channels: of the result; C divides their number times the size of a cell.
    """
    b, t, h, w, c = x.shape
    time, side = cell
    x = jnp.repeat(x, channels * cell.size // c, axis=-1)
    x = x.reshape(b, t, h, w, channels, time, side, side)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, t * time, h * side, w * side, channels)
    return x[:, time - 1 :] if is_first else x


def beside(layers: Sequence[Layer], length: int, shortcuts: Sequence[Shortcut]) -> list[Layer]:
    """Stages of `length` layers each as one layer with its shortcut; the layers left as they are.

    Args:
      layers: of all stages in a row; the last stage may be shorter.
      length: layers of a stage.
      shortcuts: of the first stages, or of all.
    """

    def stage(start: int, shortcut: Shortcut) -> Layer:
        def run(x: Frames, cache: Cache) -> tuple[Array, Cache]:
            y, parts = chain(layers[start : start + length], x, cache)
            return y + shortcut(x, cache is None), parts

        return run

    stages = [stage(i * length, shortcut) for i, shortcut in enumerate(shortcuts)]
    return [*stages, *layers[len(shortcuts) * length :]]
