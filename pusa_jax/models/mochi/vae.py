"""Mochi's causal video autoencoder (AsymmVAE): 6 x 8 x 8 pixels become a cell of 12 channels.

    video [B,T,H,W,3] + Fourier features -> 1x1 -> blocks -> (halve, blocks) x 3 -> blocks -> mean
    latents [B,F,h,w,C] -> 1x1 -> blocks -> (blocks, double) x 3 -> blocks -> video

A clip is a first frame and groups of `temporal_stride` frames. The decoder runs latent frame by
latent frame, with what its convolutions still need of earlier frames in a cache of fixed size. The
encoder looks back over the whole clip by attention, so it takes clips whole. Both are causal: the
first latent frame of a clip is that of its first picture alone. Source: vae/models.py of
genmoai/mochi.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree

from pusa_jax.models.conv import CausalConv
from pusa_jax.models.frames import FrameNorm, Frames
from pusa_jax.models.mochi.config import VAEConfig
from pusa_jax.typing import Latents, Video

Cache = PyTree[Float[Array, "B _ _ _ _"]]
"""Past frames of each temporal convolution; None at the start of a clip."""

NORM_EPS = 1e-5

OCTAVES = (6, 7)
"""Powers of two of the Fourier features' frequencies, in turns per unit of brightness."""


def dtypes(config: VAEConfig) -> dict[str, Any]:
    """The two dtype arguments that every layer takes."""
    return {"dtype": config.compute_dtype, "param_dtype": config.param_dtype}


def fourier_features(video: Float[Array, "B T H W 3"]) -> Float[Array, "B T H W 15"]:
    """The pixels, then sine and cosine of 2 pi 2^k x for each channel and octave; float32.

    Whole turns are removed first, which is exact: the original takes sines of up to 800 radians.
    """
    x = video.astype(jnp.float32)
    turns = x[..., None] * np.exp2(OCTAVES).astype(np.float32).reshape(1, 1, 1, 1, 1, -1)
    angles = 2 * np.pi * (turns - jnp.round(turns))
    angles = angles.reshape(*x.shape[:-1], -1)  # (R 2^6), (R 2^7), (G 2^6), ...
    return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)


def frame_norm(dim: int, config: VAEConfig) -> FrameNorm:
    """The norm of all layers."""
    return FrameNorm(dim, config.num_groups, NORM_EPS, param_dtype=config.param_dtype)


class TemporalAttention(nnx.Module):
    """Causal attention of every position to the same position of earlier frames."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.norm, self.head_dim = frame_norm(dim, config), config.head_dim
        self.q, self.k, self.v = (
            nnx.Linear(dim, dim, use_bias=False, **dtypes(config), rngs=rngs) for _ in range(3)
        )
        self.o = nnx.Linear(dim, dim, **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames) -> Frames:
        """Adds what attention finds; of a single frame that is its own value."""
        rows = jnp.moveaxis(self.norm(x), 2, 0)  # [H, B, T, W, C]: one row's scores at a time
        return x + self.o(jnp.moveaxis(jax.lax.map(self._row, rows), 0, 2))

    def _row(self, row: Float[Array, "B T W C"]) -> Float[Array, "B T W C"]:
        b, t, w, c = row.shape
        by_place = jnp.swapaxes(row, 1, 2).reshape(b * w, t, c)
        query, key, value = (
            p(by_place).reshape(b * w, t, -1, self.head_dim) for p in (self.q, self.k, self.v)
        )
        out = jax.nn.dot_product_attention(
            _unit_length(query), _unit_length(key), value, is_causal=True
        )
        return jnp.swapaxes(out.reshape(b, w, t, c), 1, 2)


def _unit_length(x: Float[Array, "B T K P"]) -> Float[Array, "B T K P"]:
    wide = x.astype(jnp.float32)
    length = jnp.sqrt(jnp.sum(wide * wide, axis=-1, keepdims=True))
    return (wide / jnp.maximum(length, 1e-12)).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU and causal convolution, added to the input."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        kinds = dtypes(config)
        self.norm1, self.norm2 = frame_norm(dim, config), frame_norm(dim, config)
        self.conv1 = CausalConv((dim, dim), edges="repeat", **kinds, rngs=rngs)
        self.conv2 = CausalConv((dim, dim), edges="repeat", **kinds, rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Frames, Cache]:
        """The cache is the histories of the two convolutions."""
        history1, history2 = cache or (None, None)
        h, history1 = self.conv1(jax.nn.silu(self.norm1(x)), history1)
        h, history2 = self.conv2(jax.nn.silu(self.norm2(h)), history2)
        return x + h, (history1, history2)


class AttendedBlock(nnx.Module):
    """A residual block of the encoder, over a whole clip, with attention over time behind it."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.residual = ResidualBlock(dim, config, rngs=rngs)
        self.attention = TemporalAttention(dim, config, rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Frames, Cache]:
        """Takes whole clips, so the cache is None."""
        x, cache = self.residual(x, cache)
        return self.attention(x), cache


class Halve(nnx.Module):
    """Halves height and width and joins `factor` frames; the clip's first frame stays by itself."""

    def __init__(
        self, channels: tuple[int, int], factor: int, config: VAEConfig, *, rngs: nnx.Rngs
    ):
        into, out = channels
        self.factor = factor
        self.conv = nnx.Linear(4 * factor * into, out, **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B t h w O"], Cache]:
        """Takes whole clips; the first frame stands for those that its group lacks."""
        x = jnp.concatenate([jnp.repeat(x[:, :1], self.factor - 1, axis=1), x], axis=1)
        b, t, h, w, c = x.shape
        t //= self.factor
        cut = x[:, : t * self.factor].reshape(b, t, self.factor, h // 2, 2, w // 2, 2, c)
        cells = cut.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t, h // 2, w // 2, -1)
        return self.conv(cells), cache


class Double(nnx.Module):
    """Doubles height and width and makes `factor` frames of each, of the clip's first one frame."""

    def __init__(
        self, channels: tuple[int, int], factor: int, config: VAEConfig, *, rngs: nnx.Rngs
    ):
        into, out = channels
        self.factor = factor
        self.proj = nnx.Linear(into, 4 * factor * out, **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B t h w O"], Cache]:
        """The cache says whether this is the start of a clip, whose first frames are dropped."""
        b, t, h, w, _ = x.shape
        x = self.proj(x).reshape(b, t, h, w, -1, self.factor, 2, 2)  # (C, time, row, column)
        x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, t * self.factor, 2 * h, 2 * w, -1)
        return (x[:, self.factor - 1 :] if cache is None else x), _started(b)


def _started(batch: int) -> Float[Array, "B 1 1 1 1"]:
    return jnp.zeros((batch, 1, 1, 1, 1))


class Encoder(nnx.Module):
    """Pixels with Fourier features to mean and log variance of each latent cell."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        dims, counts = config.encoder_dims, config.num_res_blocks
        pixels = 3 * (1 + 2 * len(OCTAVES))
        self.conv_in = nnx.Linear(pixels, dims[0], **dtypes(config), rngs=rngs)
        self.layers = nnx.List([])
        for _ in range(counts[0]):
            self.layers.append(ResidualBlock(dims[0], config, rngs=rngs))
        for channels, factor, count in zip(
            itertools.pairwise(dims), config.temporal_factors, counts[1:-1], strict=True
        ):
            self.layers.append(Halve(channels, factor, config, rngs=rngs))
            for _ in range(count):
                self.layers.append(AttendedBlock(channels[1], config, rngs=rngs))
        for _ in range(counts[-1]):
            self.layers.append(AttendedBlock(dims[-1], config, rngs=rngs))
        self.norm_out = frame_norm(dims[-1], config)
        self.conv_out = nnx.Linear(
            dims[-1], 2 * config.z_dim, use_bias=False, **dtypes(config), rngs=rngs
        )

    def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B F h w C"]:
        """Encodes whole clips."""
        x = self.conv_in(fourier_features(video))
        for layer in self.layers:
            x, _ = layer(x, None)
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class Decoder(nnx.Module):
    """Latent cells to pixels."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        dims, counts = config.decoder_dims[::-1], config.num_res_blocks[::-1]
        self.conv_in = nnx.Linear(config.z_dim, dims[0], **dtypes(config), rngs=rngs)
        self.layers = nnx.List([])
        for _ in range(counts[0]):
            self.layers.append(ResidualBlock(dims[0], config, rngs=rngs))
        factors = config.temporal_factors[::-1]
        for channels, factor, count in zip(
            itertools.pairwise(dims), factors, counts[1:-1], strict=True
        ):
            for _ in range(count):
                self.layers.append(ResidualBlock(channels[0], config, rngs=rngs))
            self.layers.append(Double(channels, factor, config, rngs=rngs))
        for _ in range(counts[-1]):
            self.layers.append(ResidualBlock(dims[-1], config, rngs=rngs))
        self.conv_out = nnx.Linear(dims[-1], 3, **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B t h w 3"], Cache]:
        """Decodes one chunk; `cache` holds one part per layer."""
        x, parts = self.conv_in(x), []
        for layer, part in zip(self.layers, cache or [None] * len(self.layers), strict=True):
            x, part = layer(x, part)
            parts.append(part)
        return self.conv_out(jax.nn.silu(x)), parts


class MochiVAE(nnx.Module):
    """Encoder and decoder, which the original keeps in two files."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder, self.decoder = Encoder(config, rngs=rngs), Decoder(config, rngs=rngs)


def moments(
    vae: MochiVAE, video: Video
) -> tuple[Float[Array, "B F h w C"], Float[Array, "B F h w C"]]:
    """Mean and log variance of the posterior of clips, as the encoder gives them; float32.

    Args:
      vae: the model.
      video: RGB in [-1, 1]; 1 + temporal_stride * k frames. Surplus frames are dropped.
    """
    mean, log_variance = jnp.split(vae.encoder(video).astype(jnp.float32), 2, axis=-1)
    return mean, log_variance


def encode(vae: MochiVAE, video: Video) -> Float[Array, "B F h w C"]:
    """Encodes clips of 1 + temporal_stride * k frames into 1 + k normalised latent frames, float32.

    The posterior mean is taken and nothing is drawn.
    """
    mean, std = _latent_statistics(vae.config)
    return (moments(vae, video)[0] - mean) / std


def decode_first(
    vae: MochiVAE, latents: Float[Array, "B 1 h w C"]
) -> tuple[Float[Array, "B 1 H W 3"], Cache]:
    """Decodes the first latent frame of a clip into its first pixel frame.

    Returns:
      RGB in float32, about [-1, 1] but not clamped, and the cache for `decode_next`.
    """
    return _decode_chunk(vae, latents, None)


def decode_next(
    vae: MochiVAE, latents: Float[Array, "B m h w C"], cache: Cache
) -> tuple[Float[Array, "B n H W 3"], Cache]:
    """Decodes the next latent frames, `temporal_stride` pixel frames from each; not clamped."""
    return _decode_chunk(vae, latents, cache)


def decode(vae: MochiVAE, latents: Latents) -> Float[Array, "B T h w 3"]:
    """Decodes F latent frames into 1 + temporal_stride * (F - 1) frames, float32, not clamped."""
    return _decode_chunk(vae, latents, None)[0]


def _decode_chunk(vae: MochiVAE, latents: Array, cache: Cache) -> tuple[Array, Cache]:
    mean, std = _latent_statistics(vae.config)
    video, cache = vae.decoder(latents.astype(jnp.float32) * std + mean, cache)
    return video.astype(jnp.float32), cache


def _latent_statistics(config: VAEConfig) -> tuple[Array, Array]:
    """Mean and standard deviation of each latent channel, float32 [1, 1, 1, 1, C]."""
    mean, std = np.asarray([config.latent_mean, config.latent_std], np.float32)
    return jnp.asarray(mean.reshape(1, 1, 1, 1, -1)), jnp.asarray(std.reshape(1, 1, 1, 1, -1))
