"""A fixed codec in place of the image autoencoder: each frame alone, cell by cell.

    clip [B,T,H,W,3] -> cells of 8 x 8 pixels -> their largest principal components [B,T,h,w,C]

It is linear and fitted to clips in a second.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

CELL, CHANNELS = 8, 8

Clips = UInt8[np.ndarray, "B T H W 3"]
Codes = Float[np.ndarray, "B F h w C"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameCodec:
    """Cells -> channels and back.

    Attributes:
      mean: of the cells, [pixels of a cell].
      components: one column per channel, orthonormal.
      deviation: of each channel.
    """

    mean: Float[np.ndarray, " P"]
    components: Float[np.ndarray, "P C"]
    deviation: Float[np.ndarray, " C"]

    def encode(self, clips: Clips) -> Codes:
        """Latents of clips of any length."""
        latents = (_cells(clips) - self.mean) @ self.components / self.deviation
        return latents.astype(np.float32)

    def decode(self, latents: Codes) -> Clips:
        """The way back."""
        cells = (latents * self.deviation) @ self.components.T + self.mean
        b, f, h, w, _ = cells.shape
        x = cells.reshape(b, f, h, w, CELL, CELL, 3).transpose(0, 1, 2, 4, 3, 5, 6)
        x = x.reshape(b, f, h * CELL, w * CELL, 3)
        return np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def fit(clips: Clips) -> FrameCodec:
    """The codec of some clips."""
    cells = _cells(clips).reshape(-1, CELL * CELL * 3)
    mean = cells.mean(axis=0)
    variances, vectors = np.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
    largest = slice(None, -CHANNELS - 1, -1)
    deviation = np.sqrt(variances[largest])
    return FrameCodec(mean=mean, components=vectors[:, largest], deviation=deviation)


def _cells(clips: Clips) -> Float[np.ndarray, "B F h w P"]:
    """Pixels in [-1, 1] by cell."""
    x = clips.astype(np.float32) / 127.5 - 1
    b, t, h, w, _ = x.shape
    x = x.reshape(b, t, h // CELL, CELL, w // CELL, CELL, 3).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(*x.shape[:4], -1)
