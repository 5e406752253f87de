"""Rotary position embedding over frame, height and width, on adjacent channel pairs.

A head's channel pairs are shared out between the three axes: with c pairs, height and width get c
// 3 each and the frame axis the rest (128 channels: 22, 21, 21). Every axis starts its own
frequencies anew (wan.py of the original: `rope_params`, `rope_apply`).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

THETA = 10_000.0


class Rotary(NamedTuple):
    """Cosine and sine of every token's angles, one per channel pair.

    Tokens lie on two axes, latent frame F and place in the frame S (row by row), because noise
    levels belong to frames and because either axis may be split over devices.
    """

    cos: Float[Array, "F S k half"]  # k heads, or 1 if all turn alike
    sin: Float[Array, "F S k half"]


def rotary_table(head_dim: int, frames: int, height: int, width: int) -> Rotary:
    """Angles of a grid of tokens, computed on the host in float64 and kept as float32.

    Args:
      head_dim: channels per head, even.
      frames: latent frames of the clip.
      height: rows of tokens in a frame.
      width: tokens in a row.
    """
    pairs = head_dim // 2
    spatial = pairs // 3
    shares = (pairs - 2 * spatial, spatial, spatial)
    grid = np.meshgrid(*(np.arange(n) for n in (frames, height, width)), indexing="ij")
    angles = np.concatenate(
        [
            place[..., None] * THETA ** -(np.arange(n) / max(n, 1))
            for place, n in zip(grid, shares, strict=True)
        ],
        axis=-1,
    ).reshape(frames, height * width, 1, pairs)
    return Rotary(*(jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin)))


def rotate(x: Float[Array, "B F S K P"], rotary: Rotary) -> Float[Array, "B F S K P"]:
    """Turns each adjacent channel pair (2j, 2j + 1) by its token's angle; float32 inside."""
    even, odd = jnp.unstack(x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2), axis=-1)
    cos, sin = rotary.cos[None], rotary.sin[None]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
