"""What latents look like, before they are decoded: a linear map from their channels to colours.

No table of factors per model: the map is fitted to what the model's own autoencoder makes of a
picture of plain patches, once, when the model is loaded.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

PATCHES, SIDE = 12, 2
"""Patches along each side of the picture that is decoded, and latent pixels along a patch's."""

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


def fitted(decode: Callable[[np.ndarray], np.ndarray], channels: int) -> Colours:
    """The map that comes nearest, by least squares, to what a decoder makes of plain patches.

    Args:
      decode: latents [1, 1, h, w, C] -> pixel frames [T, H, W, 3] in [-1, 1].
      channels: of the latents, C.
    """
    patches = np.random.default_rng(0).standard_normal((PATCHES, PATCHES, channels), np.float32)
    latents = patches.repeat(SIDE, axis=0).repeat(SIDE, axis=1)[None, None]
    pixels = np.asarray(decode(latents), np.float32)[0] / 2 + 0.5
    side = len(pixels) // PATCHES
    means = pixels.reshape(PATCHES, side, PATCHES, side, 3).mean((1, 3)).reshape(-1, 3)
    known = np.concatenate([patches.reshape(-1, channels), np.ones((PATCHES**2, 1))], axis=1)
    matrix = np.linalg.lstsq(known, means, rcond=None)[0]
    return Colours(matrix=matrix.astype(np.float32))
