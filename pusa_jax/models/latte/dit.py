"""LatteVIDEO: Latte's factorised transformer with one timestep per frame (FVDM, arXiv 2410.03160).

Frames F, places in a frame S = rows * columns of patches, width D:

    timesteps [B,F] -> time + label = c [B,F,D]
    latents [B,F,H,W,C] -> patches + places = x [B,F,S,D]
    pairs:  x = spatial block(x, c)     attention within each frame
            x = temporal block(x, c)    attention through time at each place
            a block:  x += gate * attention(layer_norm(x) * (1 + scale) + shift)
                      x += gate * mlp(layer_norm(x) * (1 + scale) + shift)
    head: layer_norm(x) * (1 + scale) + shift -> patches -> noise, variance [B,F,H,W,2C]

Shift, scale and gate are those of the token's own frame, in the temporal blocks too: that is all
that FVDM changed. With equal timesteps, or one per clip [B,1], this is Latte. Places in a frame are
told once at the start, places in time once before the first temporal block, by fixed tables.
Source: models/latte_video.py of Yaofang-Liu/FVDM.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from pusa_jax.devices.sharding import constrain
from pusa_jax.models.attention.attention import pad_tokens
from pusa_jax.models.attention.factored import attention_through_time, attention_within_frames
from pusa_jax.models.latte.config import DiTConfig
from pusa_jax.models.layers import MLP, layer_norm, patchify, unpatchify
from pusa_jax.models.remat import rematerialised
from pusa_jax.typing import Latents, Text, Timesteps

Tokens = Float[Array, "B F S D"]
Condition = Float[Array, "B f D"]
"""What timesteps and label say to each frame; f is F, or 1 for all frames alike."""

Attend = Callable[[Array, Array, Array], Array]
"""(queries, keys, values), each [B, F, S, K, P] -> results."""

XAVIER, ZERO = nnx.initializers.xavier_uniform(), nnx.initializers.zeros_init()
THIRD = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")
SMALL = nnx.initializers.normal(0.02)
"""Initialisations: of linear layers, of what has no say at first, of queries, keys and values,
which are one layer of three times as many outputs in the original, and of embeddings."""


def _linears(config: DiTConfig, rngs: nnx.Rngs, kernel_init: nnx.Initializer = XAVIER):
    return functools.partial(
        nnx.Linear,
        kernel_init=kernel_init,
        dtype=config.compute_dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def _mlp(config: DiTConfig, rngs: nnx.Rngs, kernel_init: nnx.Initializer):
    kinds = {"dtype": config.compute_dtype, "param_dtype": config.param_dtype}
    return functools.partial(MLP, kernel_init=kernel_init, rngs=rngs, **kinds)


class Modulation(nnx.Module):
    """Shifts, scales and gates from the condition (adaLN-Zero)."""

    def __init__(self, chunks: int, config: DiTConfig, *, rngs: nnx.Rngs):
        self.chunks = chunks
        self.linear = _linears(config, rngs, ZERO)(config.dim, chunks * config.dim)

    def __call__(self, c: Condition) -> list[Float[Array, "B f 1 D"]]:
        """The chunks, with an axis to be broadcast over the tokens of a frame."""
        return jnp.split(self.linear(jax.nn.silu(c))[:, :, None], self.chunks, axis=-1)


def modulated(x: Tokens, shift: Array, scale: Array, eps: float) -> Tokens:
    """layer_norm(x) * (1 + scale) + shift, float32 inside."""
    return (layer_norm(x, eps, jnp.float32) * (1 + scale) + shift).astype(x.dtype)


class Block(nnx.Module):
    """Attention along one axis and a feed-forward; spatial and temporal blocks differ in that."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        dim = config.dim
        self.head_dim, self.eps = config.head_dim, config.eps
        self.modulation = Modulation(6, config, rngs=rngs)
        self.q, self.k, self.v = (_linears(config, rngs, THIRD)(dim, dim) for _ in range(3))
        self.o = _linears(config, rngs)(dim, dim)
        self.mlp = _mlp(config, rngs, XAVIER)((dim, config.ffn_dim, dim), "gelu")

    def __call__(self, x: Tokens, c: Condition, attend: Attend) -> Tokens:
        """Runs one layer."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        h = modulated(x, shift1, scale1, self.eps)
        heads = (p(h).reshape(*h.shape[:3], -1, self.head_dim) for p in (self.q, self.k, self.v))
        x = x + gate1 * self.o(attend(*heads).reshape(h.shape))
        return x + gate2 * self.mlp(modulated(x, shift2, scale2, self.eps))


class Pair(nnx.Module):
    """A block within frames and one through time."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.spatial, self.temporal = Block(config, rngs=rngs), Block(config, rngs=rngs)

    def __call__(
        self, x: Tokens, c: Condition, moments: Float[Array, "F D"], tokens: int
    ) -> Tokens:
        """Runs two layers.

        Args:
          x: residual stream.
          c: of each frame.
          moments: added to each frame between the two.
          tokens: how many of the S tokens of a frame are not padding.
        """
        x = self.spatial(x, c, functools.partial(attention_within_frames, tokens=tokens))
        return self.temporal(x + moments[None, :, None], c, attention_through_time)


class Head(nnx.Module):
    """Final modulated norm and projection to patches."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        _, ph, pw = config.patch_size
        self.eps = config.eps
        self.modulation = Modulation(2, config, rngs=rngs)
        self.linear = _linears(config, rngs, ZERO)(config.dim, ph * pw * config.out_dim)

    def __call__(self, x: Tokens, c: Condition) -> Float[Array, "B F S patch"]:
        """Tokens -> patches."""
        shift, scale = self.modulation(c)
        return self.linear(modulated(x, shift, scale, self.eps))


class LatteVideo(nnx.Module):
    """Predicts the noise in latents and its variance from label and per-frame timesteps."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        _, ph, pw = config.patch_size
        dim, kept = config.dim, config.param_dtype
        self.patch_embedding = _linears(config, rngs)(ph * pw * config.in_dim, dim)
        self.pos_embed = nnx.Param(jnp.asarray(places(config.grid, dim), kept))
        self.temp_embed = nnx.Param(jnp.asarray(sinusoids(np.arange(config.num_frames), dim), kept))
        self.time_embedding = _mlp(config, rngs, SMALL)((config.freq_dim, dim, dim), "silu")
        if config.num_classes:
            rows = SMALL(rngs.params(), (config.num_classes + 1, dim), kept)
            self.label_embedding = nnx.Param(rows)
        self.blocks = jax.vmap(lambda r: Pair(config, rngs=r))(rngs.split(config.num_layers // 2))
        self.head = Head(config, rngs=rngs)

    def prepare(self, labels: Text) -> Float[Array, "B D"]:
        """Embeddings of labels: once per clip, not once per step.

        Args:
          labels: numbers of classes, [B, 1, 1]; `num_classes` is no class in particular. Any other
            number gives NaN. A model without classes does not look at them.
        """
        config = self.config
        if not config.num_classes:
            return jnp.zeros((labels.shape[0], config.dim), config.compute_dtype)
        numbers = labels[:, 0, 0].astype(jnp.int32)
        numbers = jnp.where(numbers < 0, config.num_classes + 1, numbers)  # not from the end
        rows = jnp.take(self.label_embedding[...], numbers, axis=0, mode="fill", fill_value=jnp.nan)
        return rows.astype(config.compute_dtype)

    def embed_timestep(self, timestep: Float[Array, ""]) -> Float[Array, " D"]:
        """One timestep -> embedding; mapped over batch and frames by `vmap`."""
        features = time_features(timestep, self.config.freq_dim)
        return self.time_embedding(features.astype(self.config.compute_dtype))

    def __call__(
        self, latents: Latents, timesteps: Timesteps, label: Float[Array, "B D"]
    ) -> Float[Array, "B F H W out"]:
        """Predicts noise and variance.

        Args:
          latents: noisy latents [B, F, H, W, C].
          timesteps: steps of the diffusion process 0 to 999, [B, F], or [B, 1] for one per clip.
          label: what `prepare` returned for the clips.

        Returns:
          [B, F, H, W, 2 C] in the compute dtype: first the noise, then how far the log variance is
          on its way from the smallest (-1) to the largest (1).

        Raises:
          ValueError: frames or patches are not as many as the model has positions for, or the
            number of timesteps is neither 1 nor F.
        """
        config = self.config
        b, f, h, w, _ = latents.shape
        _, ph, pw = config.patch_size
        check_size(config, f, h, w)
        if timesteps.shape not in ((b, f), (b, 1)):
            raise ValueError(f"timesteps must be {(b, f)} or {(b, 1)}, got {timesteps.shape}.")

        time = jax.vmap(jax.vmap(self.embed_timestep))(timesteps)  # [B, f, D]
        c = time + label[:, None].astype(time.dtype)
        where, when = (
            jax.lax.stop_gradient(table[...].astype(time.dtype))
            for table in (self.pos_embed, self.temp_embed)
        )
        x = self.patch_embedding(patchify(latents, (ph, pw))) + where[None, None]
        tokens = x.shape[2]
        x = constrain(pad_tokens(x, axis=2), "data", None, "context", None)
        moments = jnp.zeros((config.num_layers // 2, *when.shape), when.dtype).at[0].set(when)

        def run_pair(x, layer):
            pair, moments = layer
            return pair(x, c, moments, tokens), None

        x, _ = jax.lax.scan(rematerialised(run_pair, config.remat), x, (self.blocks, moments))
        return unpatchify(self.head(x, c)[:, :, :tokens], (h, w), (ph, pw))


def time_features(timestep: Float[Array, ""], freq_dim: int) -> Float[Array, " freq_dim"]:
    """[cos(t w_j), sin(t w_j)] with w_j = 10000^(-j / half), j < half = freq_dim / 2.

    Parity: exponents, frequencies and products are float32 as in the original's timestep_embedding,
    which puts angles off by up to 3e-5. In the first step of a run it is seen: the guess of the
    clean latents has 157 times the predicted noise.
    """
    half = freq_dim // 2
    exponents = np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32) / half
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angle = timestep * jnp.asarray(frequencies)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


def check_size(config: DiTConfig, frames: int, height: int, width: int) -> None:
    """Raises ValueError unless latents of this size are those that the model has positions for."""
    if frames != config.num_frames:
        raise ValueError(f"{frames} frames, but this model has positions for {config.num_frames}.")
    wanted = tuple(n * p for n, p in zip(config.grid, config.patch_size[1:], strict=True))
    if (height, width) != wanted:
        raise ValueError(
            f"latents of {height}x{width}, but this model has positions for "
            f"{wanted[0]}x{wanted[1]}."
        )


def sinusoids(position: Int[np.ndarray, " N"], dim: int) -> Float[np.ndarray, "N dim"]:
    """[sin(p w_j), cos(p w_j)] with w_j = 10000^(-2 j / dim), j < dim / 2."""
    angles = np.outer(position, 10_000.0 ** (-2 * np.arange(dim // 2) / dim))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def places(grid: tuple[int, int], dim: int) -> Float[np.ndarray, "S dim"]:
    """Table of the places in a frame, row by row: half the channels say the column, half the row.

    Parity: the column comes first, as in the original's get_2d_sincos_pos_embed.
    """
    row, column = (axis.reshape(-1) for axis in np.indices(grid))
    return np.concatenate([sinusoids(axis, dim // 2) for axis in (column, row)], axis=1)
