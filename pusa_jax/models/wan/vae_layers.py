"""Layers of the Wan video autoencoder.

Every layer is a function (x, cache) -> (x, cache) over a chunk of frames. The cache holds the few
past frames that its temporal convolutions still need; it is None at the start of a clip, where the
chunk is a single frame, and stays None in layers that look at single frames only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from pusa_jax.models.conv import CausalConv
from pusa_jax.models.frames import Frames, attention_in_frame, halving_conv, repeat_pixels
from pusa_jax.models.wan.config import VAEConfig

Cache = PyTree[Float[Array, "B _ _ _ _"]]
"""Past frames of each temporal convolution; the shapes depend on batch and frame size only."""

Layer = Callable[[Frames, Cache], tuple[Array, Cache]]


def dtypes(config: VAEConfig) -> dict[str, Any]:
    """The two dtype arguments that every layer takes."""
    return {"dtype": config.compute_dtype, "param_dtype": config.param_dtype}


class ChannelNorm(nnx.Module):
    """x / |x| * sqrt(C) * scale over the channels of each position, in float32 inside."""

    def __init__(self, dim: int, config: VAEConfig):
        self.scale = nnx.Param(jnp.ones(dim, config.param_dtype))

    def __call__(self, x: Frames) -> Frames:
        """Normalises each position."""
        wide = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.sum(wide * wide, axis=-1, keepdims=True))
        gain = (self.scale[...].astype(jnp.float32) * x.shape[-1] ** 0.5).reshape(1, 1, 1, 1, -1)
        return (wide / jnp.maximum(length, 1e-12) * gain).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU and causal convolution, around a shortcut that adapts the channels."""

    def __init__(self, into: int, out: int, config: VAEConfig, *, rngs: nnx.Rngs):
        kinds = dtypes(config)
        self.norm1 = ChannelNorm(into, config)
        self.conv1 = CausalConv((into, out), **kinds, rngs=rngs)
        self.norm2 = ChannelNorm(out, config)
        self.conv2 = CausalConv((out, out), **kinds, rngs=rngs)
        self.shortcut = None if into == out else nnx.Linear(into, out, **kinds, rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B T H W O"], Cache]:
        """The cache is the histories of the two convolutions."""
        history1, history2 = cache or (None, None)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x, history1 = self.conv1(jax.nn.silu(self.norm1(x)), history1)
        x, history2 = self.conv2(jax.nn.silu(self.norm2(x)), history2)
        return shortcut + x, (history1, history2)


class AttentionBlock(nnx.Module):
    """Single-head attention among the positions of one frame; frames never mix."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.norm = ChannelNorm(dim, config)
        self.to_qkv = nnx.Linear(dim, 3 * dim, **dtypes(config), rngs=rngs)
        self.proj = nnx.Linear(dim, dim, **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Frames, Cache]:
        """Needs no cache."""
        query, key, value = jnp.split(self.to_qkv(self.norm(x)), 3, axis=-1)
        return x + self.proj(attention_in_frame(query, key, value)), cache


class Downsample(nnx.Module):
    """Halves height and width."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.resample = halving_conv(dim, rngs, **dtypes(config))

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B T h w C"], Cache]:
        """Needs no cache."""
        return self.resample(x), cache


class TemporalDownsample(nnx.Module):
    """Halves height and width, then the number of frames; a clip's first frame stays by itself."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.resample = halving_conv(dim, rngs, **dtypes(config))
        self.time_conv = CausalConv(
            (dim, dim), (3, 1, 1), temporal_stride=2, **dtypes(config), rngs=rngs
        )

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B t h w C"], Cache]:
        """The cache is the last frame after halving."""
        x = self.resample(x)
        return (x, x) if cache is None else self.time_conv(x, cache)


class Upsample(nnx.Module):
    """Doubles height and width; makes `out` channels of `dim`."""

    def __init__(self, dim: int, out: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.resample = nnx.Conv(dim, out, (3, 3), **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B T h w c"], Cache]:
        """Needs no cache."""
        return self.resample(repeat_pixels(x)), cache


class TemporalUpsample(nnx.Module):
    """Doubles the number of frames, except a clip's first one, then works as `Upsample`."""

    def __init__(self, dim: int, out: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.time_conv = CausalConv((dim, 2 * dim), (3, 1, 1), **dtypes(config), rngs=rngs)
        self.resample = nnx.Conv(dim, out, (3, 3), **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B t h w c"], Cache]:
        """The cache is the history of the temporal convolution."""
        if cache is None:
            # Parity: the first frame never enters the history; the next chunk sees zeros before it.
            cache = self.time_conv.zero_history(x)
        else:
            pairs, cache = self.time_conv(x, cache)
            b, t, h, w, c = x.shape
            x = jnp.moveaxis(pairs.reshape(b, t, h, w, 2, c), 4, 2).reshape(b, 2 * t, h, w, c)
        return self.resample(repeat_pixels(x)), cache


class Head(nnx.Module):
    """Norm, SiLU and the last causal convolution."""

    def __init__(self, into: int, out: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.norm = ChannelNorm(into, config)
        self.conv = CausalConv((into, out), **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B T H W O"], Cache]:
        """The cache is the history of the convolution."""
        return self.conv(jax.nn.silu(self.norm(x)), cache)


def middle(dim: int, config: VAEConfig, *, rngs: nnx.Rngs) -> list[nnx.Module]:
    """The innermost layers of encoder and decoder."""
    return [
        ResidualBlock(dim, dim, config, rngs=rngs),
        AttentionBlock(dim, config, rngs=rngs),
        ResidualBlock(dim, dim, config, rngs=rngs),
    ]


def chain(layers: Sequence[Layer], x: Frames, cache: Cache) -> tuple[Array, Cache]:
    """Runs the layers one after the other, each with its own part of the cache."""
    parts = []
    for layer, part in zip(layers, cache or [None] * len(layers), strict=True):
        x, part = layer(x, part)
        parts.append(part)
    return x, parts
