"""Spatial tiling of the VAE: overlapping tiles, coded alone over all frames, blended on the host.

Tiling bounds device memory and changes the result: attention and zero padding end at a tile's edge.
Geometry and blending are those of DiffSynth-Studio, which Pusa V1.0 uses by default. Along an axis
of 7 cells, tiles of 4 cells every 2 cells start at 0, 2 and 4 (the one at 4 is cut off at 7; one at
6 would add nothing). A tile weighs 1 at the image border and rises over the overlap on inner sides:

    cell     0    1    2    3    4    5    6
    tile 0   1    1    1   .5
    tile 2            .5    1    1   .5            pixels: the ramp has 8 times as many, finer steps
    tile 4                      .5    1    1
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from pusa_jax.models.family import Tiles

HostFrames = Float[np.ndarray, "B n h w c"]
OnTile = Callable[[int, int], None]
"""Called after each tile with how many are done and how many there are."""


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile's extent along one axis, in latent cells or, scaled, in pixels.

    Attributes:
      start: first position.
      stop: one past the last position.
      ramps: length over which the weight rises from the start and falls to the end; 0 at a border
        of the image.
    """

    start: int
    stop: int
    ramps: tuple[int, int]

    def scaled(self, factor: int) -> "Span":
        """The same extent on a grid `factor` times finer."""
        rise, fall = self.ramps
        return Span(self.start * factor, self.stop * factor, (rise * factor, fall * factor))

    @property
    def positions(self) -> slice:
        """The extent as an index."""
        return slice(self.start, self.stop)

    def weights(self) -> Float[np.ndarray, " length"]:
        """Blending weight of each position, in (0, 1], float32."""
        weights = np.ones(self.stop - self.start, np.float32)
        rise, fall = self.ramps
        # Parity: where both ramps meet (stride below half a tile), the falling one wins.
        weights[:rise] = _ramp(rise)
        weights[len(weights) - fall :] = _ramp(fall)[::-1]
        return weights


def _ramp(length: int) -> Float[np.ndarray, " length"]:
    return np.arange(1, length + 1, dtype=np.float32) / np.float32(max(length, 1))


def spans(length: int, size: int, stride: int) -> list[Span]:
    """Tiles along an axis of `length` cells: every `stride` cells until one reaches the border.

    Raises:
      ValueError: the stride is not between 1 and the tile size.
    """
    if not 1 <= stride <= size:
        raise ValueError(f"tile stride must be between 1 and the tile size {size}, got {stride}.")
    starts = [s for s in range(0, length, stride) if s == 0 or s - stride + size < length]
    overlap = size - stride
    return [
        Span(s, min(s + size, length), (overlap * (s > 0), overlap * (s + size < length)))
        for s in starts
    ]


def tiles(size: tuple[int, int], geometry: Tiles) -> list[tuple[Span, Span]]:
    """(rows, columns) of every tile of a frame of `size` latent cells, row by row."""
    axes = zip(size, geometry.size, geometry.stride, strict=True)
    rows, columns = (spans(*axis) for axis in axes)
    return list(itertools.product(rows, columns))


def blend(
    parts: Iterable[tuple[Span, Span, HostFrames]],
    size: tuple[int, int],
    corner: Literal["min", "product"] = "min",
) -> Float[np.ndarray, "B n H W c"]:
    """Weighted mean of overlapping tiles, in float32; together they cover a frame of `size`."""
    joined = np.minimum if corner == "min" else np.multiply
    total, weight = None, np.zeros((*size, 1), np.float32)
    for rows, columns, part in parts:
        share = joined(rows.weights()[:, None], columns.weights()[None, :])[..., None]
        if total is None:
            total = np.zeros((*part.shape[:2], *size, part.shape[-1]), np.float32)
        total[:, :, rows.positions, columns.positions] += part * share
        weight[rows.positions, columns.positions] += share
    if total is None:
        raise ValueError(f"no tile to blend for a frame of {size} cells.")
    total /= weight
    return total


def encode_tiled(
    encode_tile: Callable[[HostFrames], Array | np.ndarray],
    video: Float[Array | np.ndarray, "B T H W 3"],
    factor: int,
    geometry: Tiles,
    on_tile: OnTile | None = None,
) -> Float[np.ndarray, "B F h w C"]:
    """Encodes a clip tile by tile; the latents are on the host.

    Args:
      encode_tile: RGB frames of one tile -> normalised latents, as `vae.encode` does; tiles at the
        right and bottom border may be smaller than the others.
      video: RGB in [-1, 1]; height and width divisible by the spatial stride.
      factor: pixels per latent cell along height and width.
      geometry: of the tiles.
      on_tile: progress.

    Raises:
      ValueError: the frame size does not divide, or the stride does not fit the tile.
    """
    pixels = np.asarray(video)
    h, w = pixels.shape[2:4]
    if h % factor or w % factor:
        raise ValueError(f"height and width must be divisible by {factor}, got {h} x {w}.")
    cells = (h // factor, w // factor)
    grid = tiles(cells, geometry)
    parts = _coded(encode_tile, pixels, grid, (factor, 1), on_tile)
    return blend(parts, cells, geometry.corner)


def decode_tiled(
    decode_tile: Callable[[HostFrames], Array | np.ndarray],
    latents: Float[Array | np.ndarray, "B F h w C"],
    factor: int,
    geometry: Tiles,
    on_tile: OnTile | None = None,
) -> Float[np.ndarray, "B T H W 3"]:
    """Decodes latents tile by tile; arguments as for `encode_tiled`.

    Returns:
      RGB clamped to [-1, 1], float32, on the host.
    """
    codes = np.asarray(latents)
    h, w = codes.shape[2:4]
    parts = _coded(decode_tile, codes, tiles((h, w), geometry), (1, factor), on_tile)
    return np.clip(blend(parts, (h * factor, w * factor), geometry.corner), -1, 1)


def _coded(
    code_tile: Callable[[HostFrames], Array | np.ndarray],
    frames: HostFrames,
    grid: list[tuple[Span, Span]],
    scales: tuple[int, int],
    on_tile: OnTile | None,
) -> Iterator[tuple[Span, Span, HostFrames]]:
    """Codes the tiles of a grid; input and output have `scales` positions to a latent cell."""
    for done, (rows, columns) in enumerate(grid, 1):
        cut = (rows.scaled(scales[0]).positions, columns.scaled(scales[0]).positions)
        part = np.asarray(code_tile(frames[:, :, *cut]), np.float32)
        yield rows.scaled(scales[1]), columns.scaled(scales[1]), part
        if on_tile:
            on_tile(done, len(grid))
