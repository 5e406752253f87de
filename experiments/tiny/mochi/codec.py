"""A fixed codec with the strides and channels of Mochi's autoencoder, in place of it.

    clip [B,T,H,W,3] -> blocks of 6 frames x 8 x 8 pixels -> their 12 largest principal components

It is linear and fitted to clips in a second. The first frame counts as six alike. Every channel has
mean 0 and deviation 1, so that latents of given frames are the same with and without normalisation.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from experiments.tiny.components import Components, principal

FRAMES, CELL, CHANNELS = 6, 8, 12

Clips = UInt8[np.ndarray, "B T H W 3"]
Codes = Float[np.ndarray, "B F h w C"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearCodec:
    """Blocks -> channels and back.

    Attributes:
      components: of the blocks.
    """

    components: Components

    def encode(self, clips: Clips) -> Codes:
        """Latents of clips of 6k+1 frames."""
        return self.components.encode(_blocks(clips))

    def decode(self, latents: Codes) -> Clips:
        """The way back."""
        blocks = self.components.decode(latents)
        b, f, h, w, _ = blocks.shape
        x = blocks.reshape(b, f, h, w, FRAMES, CELL, CELL, 3).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        x = x.reshape(b, f * FRAMES, h * CELL, w * CELL, 3)
        first = x[:, :FRAMES].mean(axis=1, keepdims=True)
        pixels = np.concatenate([first, x[:, FRAMES:]], axis=1)
        return np.rint((pixels.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def fit(clips: Clips) -> LinearCodec:
    """The codec of some clips."""
    return LinearCodec(components=principal(_blocks(clips), CHANNELS))


def _blocks(clips: Clips) -> Float[np.ndarray, "B F h w P"]:
    """Pixels in [-1, 1] by block."""
    x = clips.astype(np.float32) / 127.5 - 1
    x = np.concatenate([np.repeat(x[:, :1], FRAMES, axis=1), x[:, 1:]], axis=1)
    b, t, h, w, _ = x.shape
    x = x.reshape(b, t // FRAMES, FRAMES, h // CELL, CELL, w // CELL, CELL, 3)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(*x.shape[:4], -1)
