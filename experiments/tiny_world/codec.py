"""The tiny VAE both ways, whole clips at a time: what `models.wan.vae` gives, several times faster.

It leaves out what training left out (see `autoencoder`), so it serves the tiny VAE alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments.tiny_world.autoencoder import posterior, reconstruction, trained_vae
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.media.pixels import to_uint8
from pusa_jax.models.wan.config import WAN21_LATENT_MEAN, WAN21_LATENT_STD
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.weights.leaves import assemble, shapes_of

MEAN = np.asarray(WAN21_LATENT_MEAN, np.float32)
STD = np.asarray(WAN21_LATENT_STD, np.float32)


def trained_leaves(published: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of the network as it is trained, from those of the published layout.

    Raises:
      ValueError: a tap on an earlier frame is not zero where it is left out.
    """
    leaves = {}
    for path, shape in shapes_of(trained_vae).items():
        earlier = published[path].shape[0] - shape.shape[0]
        if np.any(np.asarray(published[path][:earlier])):
            raise ValueError(f"{path} looks at earlier frames: not a VAE trained here.")
        leaves[path] = published[path][earlier:]
    return leaves


class Codec:
    """Pixels to normalised latents and back."""

    def __init__(self, folder: Path):
        """Loads the VAE of a published folder.

        Raises:
          FileNotFoundError, ValueError: there is none, or not one trained here.
        """
        _, published = ModelFolder(folder).load("vae", "float32")
        self._vae = assemble(trained_vae, trained_leaves(published))
        self._encode, self._decode = jax.jit(_encoded), jax.jit(_decoded)

    def encode(self, videos: UInt8[np.ndarray, "B T H W 3"]) -> Float[np.ndarray, "B F h w C"]:
        """Clips of 4k + 1 frames -> normalised latents, float32."""
        return np.asarray(self._encode(self._vae, videos))

    def decode(self, latents: Float[np.ndarray, "B F h w C"]) -> UInt8[np.ndarray, "B T H W 3"]:
        """Latents -> clips."""
        return np.stack([to_uint8(clip) for clip in np.asarray(self._decode(self._vae, latents))])


def _encoded(vae: WanVAE, videos: Array) -> Array:
    codes, _ = posterior(vae, videos.astype(jnp.float32) / 127.5 - 1)
    return (codes - MEAN.reshape(1, 1, 1, 1, -1)) / STD.reshape(1, 1, 1, 1, -1)


def _decoded(vae: WanVAE, latents: Array) -> Array:
    codes = latents * STD.reshape(1, 1, 1, 1, -1) + MEAN.reshape(1, 1, 1, 1, -1)
    return jnp.clip(reconstruction(vae, codes), -1, 1)
