"""The autoencoder runner: pixels to latents and back, chunk by chunk on one device.

Chunks keep memory flat in the number of frames, tiles keep it flat in their size. What passes in
and out passes through the host.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from pusa_jax.inference import tiling
from pusa_jax.models.family import Codec, CodecConfig, Tiles

OnPart = Callable[[int, int], None]
"""Told how many chunks or tiles are done, and how many there are."""


def _no_report(done: int, total: int) -> None:
    pass


class Autoencoder:
    """One autoencoder with its compiled programs."""

    def __init__(self, module: nnx.Module, codec: Codec, config: CodecConfig):
        """Compiles nothing yet.

        Args:
          module: the network.
          codec: how it is run.
          config: of the network.
        """
        self.module, self.config = module, config
        self._encode_first, self._encode_next = (
            jax.jit(codec.encode_first),
            jax.jit(codec.encode_next),
        )
        self._decode_first, self._decode_next = (
            jax.jit(codec.decode_first),
            jax.jit(codec.decode_next),
        )

    def clear(self) -> None:
        """Lets go of all compiled programs; they are compiled again when they are needed."""
        programs: tuple[Any, ...] = (
            self._encode_first, self._encode_next, self._decode_first, self._decode_next
        )  # fmt: skip
        for program in programs:
            program.clear_cache()

    def encode(
        self, pixels: Float[np.ndarray, "B T H W 3"], tiles: Tiles | None = None
    ) -> Float[np.ndarray, "B F h w C"]:
        """Pixel frames in [-1, 1] -> normalised latents, float32.

        Args:
          pixels: 1 + stride * k frames.
          tiles: None encodes in one piece.
        """
        if tiles is None:
            return self._encode(pixels)
        return tiling.encode_tiled(self._encode, pixels, self.config.spatial_stride, tiles)

    def decode(
        self,
        latents: Float[Array | np.ndarray, "B F h w C"],
        tiles: Tiles | None = None,
        on_part: OnPart = _no_report,
    ) -> Float[np.ndarray, "B T H W 3"]:
        """Latents -> pixel frames clamped to [-1, 1], float32.

        Args:
          latents: normalised.
          tiles: None decodes in one piece.
          on_part: told about tiles, or where there are none about latent frames.
        """
        if tiles is None:
            return np.clip(self._decode(np.asarray(latents), on_part), -1, 1)
        stride = self.config.spatial_stride
        return tiling.decode_tiled(self._decode, latents, stride, tiles, on_tile=on_part)

    def _encode(self, pixels: np.ndarray) -> np.ndarray:
        stride = self.config.temporal_stride
        latents, cache = self._encode_first(self.module, pixels[:, :1])
        parts = [np.asarray(latents)]
        for i in range(1, pixels.shape[1], stride):
            latents, cache = self._encode_next(self.module, pixels[:, i : i + stride], cache)
            parts.append(np.asarray(latents))
        return np.concatenate(parts, axis=1)

    def _decode(self, latents: np.ndarray, on_part: OnPart = _no_report) -> np.ndarray:
        pixels, cache = self._decode_first(self.module, latents[:, :1])
        parts = [np.asarray(pixels)]
        for i in range(1, latents.shape[1]):
            pixels, cache = self._decode_next(self.module, latents[:, i : i + 1], cache)
            parts.append(np.asarray(pixels))
            on_part(i + 1, latents.shape[1])
        return np.concatenate(parts, axis=1)
