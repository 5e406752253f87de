"""Layers of autoencoders that look at single frames: the axes of time and batch never mix."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Frames = Float[Array, "B T H W C"]


class FrameNorm(nnx.Module):
    """Group norm of every frame by itself; statistics in float32."""

    def __init__(self, dim: int, groups: int, eps: float, *, param_dtype: DTypeLike):
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones(dim, param_dtype))
        self.bias = nnx.Param(jnp.zeros(dim, param_dtype))

    def __call__(self, x: Frames) -> Frames:
        """Normalises groups of channels over the positions of a frame."""
        b, t, h, w, c = x.shape
        wide = x.astype(jnp.float32).reshape(b, t, h * w, self.groups, c // self.groups)
        wide = wide - wide.mean((2, 4), keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, (2, 4), keepdims=True) + self.eps)
        scale, bias = (
            p[...].astype(jnp.float32).reshape(1, 1, 1, 1, -1) for p in (self.scale, self.bias)
        )
        return (wide.reshape(x.shape) * scale + bias).astype(x.dtype)


def attention_in_frame(query: Frames, key: Frames, value: Frames) -> Frames:
    """Single-head attention among the positions of each frame.

    One frame's scores are held at a time: 0.8 GB at 720p with 8 pixels a position.
    """
    b, t, h, w, c = query.shape

    def attend(frame):
        heads = (x[None, :, None] for x in frame)  # each [1, H W, 1, C]
        return jax.nn.dot_product_attention(*heads)[0, :, 0]

    flat = tuple(x.reshape(b * t, h * w, c) for x in (query, key, value))
    return jax.lax.map(attend, flat).reshape(query.shape)


def halving_conv(dim: int, rngs: nnx.Rngs, **kinds: Any) -> nnx.Conv:
    """Stride 2 after one row of zeros at the bottom and one column of zeros at the right."""
    return nnx.Conv(dim, dim, (3, 3), strides=2, padding=((0, 1), (0, 1)), **kinds, rngs=rngs)


def repeat_pixels(x: Frames) -> Float[Array, "B T h w C"]:
    """Nearest-neighbour doubling of height and width."""
    return jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
