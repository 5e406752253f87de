"""What latents look like, before they are decoded: a linear map from their channels to colours.

No table of factors per model: the map is fitted to what the model's own autoencoder makes of a
picture of plain patches, once, when the model is loaded.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

PATCHES, SIDE = 12, 2
"""Patches along each side of the picture that is encoded, and latent pixels along a patch's."""

RIDGE = 1e-3

SHOWN = 96
"""Pixels that a latent frame is at least enlarged to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colours:
    """A linear map: rgb in [0, 1] = latents @ matrix[:-1] + matrix[-1]."""

    matrix: Float[np.ndarray, "C_and_one 3"]

    def strip(self, latents: Float[np.ndarray, "F h w C"]) -> UInt8[np.ndarray, "H W 3"]:
        """All latent frames side by side, enlarged."""
        colours = latents @ self.matrix[:-1] + self.matrix[-1]
        side_by_side = np.concatenate([*colours], axis=1)
        times = max(1, SHOWN // latents.shape[1])
        large = side_by_side.repeat(times, axis=0).repeat(times, axis=1)
        return (np.clip(large, 0, 1) * 255).round().astype(np.uint8)


def fitted(encode: Callable[[np.ndarray], np.ndarray], stride: int) -> Colours:
    """The map that comes nearest, by least squares, to the colours of a picture that is encoded.

    Args:
      encode: pixel frames [1, 1, H, W, 3] in [-1, 1] -> latents [1, 1, h, w, C].
      stride: pixels along a latent pixel.
    """
    colours = np.random.default_rng(0).random((PATCHES, PATCHES, 3), np.float32)
    shown = colours.repeat(SIDE, axis=0).repeat(SIDE, axis=1)
    pixels = 2 * shown.repeat(stride, axis=0).repeat(stride, axis=1) - 1
    latents = np.asarray(encode(pixels[None, None]), np.float32)[0, 0]
    known = latents.reshape(-1, latents.shape[-1])
    known = np.concatenate([known, np.ones((len(known), 1), np.float32)], axis=1)
    # A little ridge: what plain patches never do to the channels must not make colours of noise.
    square = known.T @ known + RIDGE * len(known) * np.eye(known.shape[1], dtype=np.float32)
    matrix = np.linalg.solve(square, known.T @ shown.reshape(-1, 3))
    return Colours(matrix=matrix.astype(np.float32))
