"""A fixed codec in place of the image autoencoder: each frame alone, cell by cell.

    clip [B,T,H,W,3] -> cells of 8 x 8 pixels -> their largest principal components [B,T,h,w,C]

It is linear and fitted to clips in a second.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from experiments.tiny.components import Components, principal

CELL, CHANNELS = 8, 8

Clips = UInt8[np.ndarray, "B T H W 3"]
Codes = Float[np.ndarray, "B F h w C"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameCodec:
    """Cells -> channels and back.

    Attributes:
      components: of the cells.
    """

    components: Components

    def encode(self, clips: Clips) -> Codes:
        """Latents of clips of any length."""
        latents = self.components.encode(_cells(clips))
        return latents.astype(np.float32)

    def decode(self, latents: Codes) -> Clips:
        """The way back."""
        cells = self.components.decode(latents)
        b, f, h, w, _ = cells.shape
        x = cells.reshape(b, f, h, w, CELL, CELL, 3).transpose(0, 1, 2, 4, 3, 5, 6)
        x = x.reshape(b, f, h * CELL, w * CELL, 3)
        return np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def fit(clips: Clips) -> FrameCodec:
    """The codec of some clips."""
    return FrameCodec(components=principal(_cells(clips), CHANNELS))


def _cells(clips: Clips) -> Float[np.ndarray, "B F h w P"]:
    """Pixels in [-1, 1] by cell."""
    x = clips.astype(np.float32) / 127.5 - 1
    b, t, h, w, _ = x.shape
    x = x.reshape(b, t, h // CELL, CELL, w // CELL, CELL, 3).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(*x.shape[:4], -1)
