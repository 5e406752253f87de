"""Parts of diffusion transformers: norms of stated precision, MLP, time features, patches."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis.

    The normalised value is computed in float32 and rounded to the dtype of x before the scale.
    """

    def __init__(self, dim: int, eps: float, *, param_dtype: DTypeLike):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(dim, param_dtype))

    def __call__(self, x: Float[Array, "*rest D"]) -> Float[Array, "*rest D"]:
        """Normalises the last axis."""
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * _along_last(self.scale[...], x.ndim)


def layer_norm(x: Float[Array, "*rest D"], eps: float, dtype: DTypeLike) -> Float[Array, "*rest D"]:
    """(x - mean) / std over the last axis, computed in float32 and returned in `dtype`."""
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(axis=-1, keepdims=True)
    variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(variance + eps)).astype(dtype)


class LayerNorm(nnx.Module):
    """Layer norm with scale and bias, float32 inside, result in `dtype`."""

    def __init__(self, dim: int, eps: float, *, dtype: DTypeLike, param_dtype: DTypeLike):
        self.eps, self.dtype = eps, dtype
        self.scale = nnx.Param(jnp.ones(dim, param_dtype))
        self.bias = nnx.Param(jnp.zeros(dim, param_dtype))

    def __call__(self, x: Float[Array, "*rest D"]) -> Float[Array, "*rest D"]:
        """Normalises the last axis."""
        normed = layer_norm(x, self.eps, jnp.float32)
        scale, bias = (_along_last(p[...], x.ndim) for p in (self.scale, self.bias))
        return (normed * scale + bias).astype(self.dtype)


def _along_last(vector: Float[Array, " D"], ndim: int) -> Float[Array, "..."]:
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


LECUN = nnx.initializers.lecun_normal()


class MLP(nnx.Module):
    """Linear, activation, Linear; `gelu` is the tanh approximation."""

    def __init__(
        self,
        dims: tuple[int, int, int],
        activation: Literal["silu", "gelu"],
        *,
        kernel_init: nnx.Initializer = LECUN,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        into, hidden, out = dims
        self.activation = activation
        linear = functools.partial(
            nnx.Linear, kernel_init=kernel_init, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.up, self.down = linear(into, hidden), linear(hidden, out)

    def __call__(self, x: Float[Array, "*rest into"]) -> Float[Array, "*rest out"]:
        """Maps the last axis."""
        act = jax.nn.silu if self.activation == "silu" else jax.nn.gelu
        return self.down(act(self.up(x)))


def time_features(timestep: Float[Array, ""], freq_dim: int) -> Float[Array, " freq_dim"]:
    """[cos(t w_j), sin(t w_j)] with w_j = 10000^(-j / half), j < half = freq_dim / 2; float32.

    Parity: the original takes these of float64 products. A float32 product of t up to 1000 is off
    by 3e-5 radians, so whole turns are removed exactly: the frequency in turns is split into a part
    of 12 bits, whose product with a whole number below 4096 is exact in float32, and a small rest.

    Args:
      timestep: between 0 and 4095, whole or not.
      freq_dim: even.
    """
    half = freq_dim // 2
    turns = 10_000.0 ** -(np.arange(half) / half) / (2 * np.pi)
    unit = 2.0 ** (np.floor(np.log2(turns)) - 11)
    coarse = np.round(turns / unit) * unit
    whole = jnp.round(timestep)
    product = whole * jnp.asarray(coarse, jnp.float32)
    rest = whole * jnp.asarray(turns - coarse, jnp.float32)
    rest += (timestep - whole) * jnp.asarray(turns, jnp.float32)
    angle = 2 * np.pi * (product - jnp.round(product) + rest)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


def patchify(
    latents: Float[Array, "B F H W C"], patch: tuple[int, int]
) -> Float[Array, "B F S patch"]:
    """Cuts each frame into ph x pw patches, row by row; channels of a patch run (ph, pw, c)."""
    b, f, h, w, c = latents.shape
    ph, pw = patch
    x = latents.reshape(b, f, h // ph, ph, w // pw, pw, c)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, f, (h // ph) * (w // pw), ph * pw * c)


def unpatchify(
    patches: Float[Array, "B F S patch"], size: tuple[int, int], patch: tuple[int, int]
) -> Float[Array, "B F H W C"]:
    """Inverse of `patchify` for frames of `size` = (height, width)."""
    b, f, _, width = patches.shape
    (h, w), (ph, pw) = size, patch
    x = patches.reshape(b, f, h // ph, w // pw, ph, pw, width // (ph * pw))
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, f, h, w, -1)
