"""The VAE of a folder, both ways, one latent frame at a time on the device."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from pusa_jax.inference import tiling
from pusa_jax.inference.networks import Network
from pusa_jax.media.pixels import to_pixels, to_uint8
from pusa_jax.models.wan import vae

TILE, TILE_STRIDE = (34, 34), (18, 16)
"""Latent cells of a tile and between tiles, as Pusa's data processing tiles if asked to."""


class Autoencoder:
    """The VAE of a folder, both ways, one latent frame at a time on the device."""

    def __init__(self, folder: Path):
        """Loads and compiles nothing yet but the weights, see `Network`."""
        network = Network(folder, "vae", "float32")
        self.record, self.config, self._vae = network.record, network.config, network.module
        self._encode_first, self._encode_next = jax.jit(vae.encode_first), jax.jit(vae.encode_next)
        self._decode_first, self._decode_next = jax.jit(vae.decode_first), jax.jit(vae.decode_next)

    def encode(
        self, frames: UInt8[np.ndarray, "T H W 3"], tiled: bool
    ) -> Float[np.ndarray, "F h w C"]:
        """Pixel frames -> normalised latents, float32."""
        if not tiled:
            return np.asarray(self._encode(frames[None]))[0]
        pixels = to_pixels(frames)[None]
        latents = tiling.encode_tiled(self._encode, pixels, self.config, TILE, TILE_STRIDE)
        return np.asarray(latents)[0]

    def _encode(self, frames: np.ndarray) -> Float[jax.Array, "1 F h w C"]:
        stride = self.config.temporal_stride
        latents, cache = self._encode_first(self._vae, _pixels(frames[:, :1]))
        parts = [latents]
        for i in range(1, frames.shape[1], stride):
            chunk = _pixels(frames[:, i : i + stride])
            latents, cache = self._encode_next(self._vae, chunk, cache)
            parts.append(latents)
        return jnp.concatenate(parts, axis=1)

    def decode(self, latents: Shaped[np.ndarray, "F h w C"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Latents -> pixel frames."""
        latents = latents[None].astype(np.float32)
        pixels, cache = self._decode_first(self._vae, latents[:, :1])
        parts = [np.asarray(pixels)]
        for i in range(1, latents.shape[1]):
            pixels, cache = self._decode_next(self._vae, latents[:, i : i + 1], cache)
            parts.append(np.asarray(pixels))
        return to_uint8(np.clip(np.concatenate(parts, axis=1)[0], -1, 1))


def _pixels(frames: np.ndarray) -> np.ndarray:
    return to_pixels(frames) if frames.dtype == np.uint8 else frames
