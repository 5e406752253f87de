"""The Wan VAEs: causal video autoencoders.

    Wan2.1    4 x 8 x 8 pixels become one latent cell of 16 channels
    Wan2.2    4 x 16 x 16 pixels become one of 48: the first layer sees squares of 2 x 2 pixels, and
              a shortcut without parameters leads past each stage

A clip is a first frame and groups of `temporal_stride` frames; each becomes one latent frame. What
a step must know of earlier frames travels in a cache of fixed size, so that memory is flat in the
number of frames:

    video[:, :1]  -> encode_first        -> latents[:, :1], cache
    video[:, 1:5] -> encode_next(cache)  -> latents[:, 1:2], cache    and so on; decoding likewise

`encode` and `decode` run these steps over whole clips. Latents are normalised to about unit
variance per channel; encoding returns the posterior mean and draws nothing.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from pusa_jax.models.conv import CausalConv
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.models.wan.vae_layers import (
    Cache,
    Downsample,
    Frames,
    Head,
    Layer,
    ResidualBlock,
    TemporalDownsample,
    TemporalUpsample,
    Upsample,
    chain,
    dtypes,
    middle,
)
from pusa_jax.models.wan.vae_shortcuts import (
    Cell,
    beside,
    from_patches,
    mean_shortcut,
    repeat_shortcut,
    to_patches,
)
from pusa_jax.typing import Latents, Video


class Encoder(nnx.Module):
    """Pixels to twice z_dim channels (mean and log variance) of each latent cell."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = CausalConv((3 * config.patch_size**2, widths[0]), **dtypes(config), rngs=rngs)
        self.downsamples = nnx.List([])
        for stage, (into, out) in enumerate(itertools.pairwise(widths)):
            for width in [into, *[out] * (config.num_res_blocks - 1)]:
                self.downsamples.append(ResidualBlock(width, out, config, rngs=rngs))
            if stage < len(config.temporal_downsample):
                halve = TemporalDownsample if config.temporal_downsample[stage] else Downsample
                self.downsamples.append(halve(out, config, rngs=rngs))
        self.middle = nnx.List(middle(widths[-1], config, rngs=rngs))
        self.head = Head(widths[-1], 2 * config.z_dim, config, rngs=rngs)

    def __call__(self, x: Video, cache: Cache) -> tuple[Float[Array, "B t h w c"], Cache]:
        """Encodes one chunk; `cache` holds one part per layer, or per stage with a shortcut."""
        x = to_patches(x, self.config.patch_size)
        return chain([self.conv1, *self._stages(), *self.middle, self.head], x, cache)

    def _stages(self) -> list[Layer]:
        config, layers = self.config, list(self.downsamples)
        if not config.has_stage_shortcuts:
            return layers
        cells = [Cell(1 + halves, 2) for halves in config.temporal_downsample]
        widths = [config.dim * m for m in config.dim_mult]
        shortcuts = [
            functools.partial(mean_shortcut, cell=cell, channels=width)
            for cell, width in zip([*cells, Cell(1, 1)], widths, strict=True)
        ]
        return beside(layers, config.num_res_blocks + 1, shortcuts)


class Decoder(nnx.Module):
    """Latent cells to pixels, the stages of the encoder in reverse with one block more in each."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = self._widths()
        self.conv1 = CausalConv((config.z_dim, widths[0]), **dtypes(config), rngs=rngs)
        self.middle = nnx.List(middle(widths[0], config, rngs=rngs))
        self.upsamples = nnx.List([])
        width = widths[0]
        for stage, out in enumerate(widths):
            for into in [width, *[out] * config.num_res_blocks]:
                self.upsamples.append(ResidualBlock(into, out, config, rngs=rngs))
            if stage < len(config.temporal_downsample):
                is_temporal = config.temporal_downsample[-1 - stage]
                double = TemporalUpsample if is_temporal else Upsample
                width = out if config.has_stage_shortcuts else out // 2
                self.upsamples.append(double(out, width, config, rngs=rngs))
        self.head = Head(widths[-1], 3 * config.patch_size**2, config, rngs=rngs)

    def __call__(self, x: Frames, cache: Cache) -> tuple[Float[Array, "B t h w 3"], Cache]:
        """Decodes one chunk; `cache` holds one part per layer, or per stage with a shortcut."""
        x, cache = chain([self.conv1, *self.middle, *self._stages(), self.head], x, cache)
        return from_patches(x, self.config.patch_size), cache

    def _widths(self) -> list[int]:
        width = self.config.decoder_dim or self.config.dim
        return [width * m for m in reversed(self.config.dim_mult)]

    def _stages(self) -> list[Layer]:
        config, layers = self.config, list(self.upsamples)
        if not config.has_stage_shortcuts:
            return layers
        cells = [Cell(1 + doubles, 2) for doubles in reversed(config.temporal_downsample)]
        shortcuts = [
            functools.partial(repeat_shortcut, cell=cell, channels=width)
            for cell, width in zip(cells, self._widths()[:-1], strict=True)
        ]
        return beside(layers, config.num_res_blocks + 2, shortcuts)


class WanVAE(nnx.Module):
    """Encoder, decoder and, on either side of the latents, a 1x1x1 convolution."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.conv1 = nnx.Linear(2 * config.z_dim, 2 * config.z_dim, **dtypes(config), rngs=rngs)
        self.conv2 = nnx.Linear(config.z_dim, config.z_dim, **dtypes(config), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)


def encode_first(
    vae: WanVAE, video: Float[Array, "B 1 H W 3"]
) -> tuple[Float[Array, "B 1 h w C"], Cache]:
    """Encodes the first frame of a clip, or a single image.

    Args:
      vae: the model.
      video: RGB in [-1, 1].

    Returns:
      Normalised latents in float32, and the cache for `encode_next`.
    """
    return _encode_chunk(vae, video, None)


def encode_next(
    vae: WanVAE, video: Float[Array, "B n H W 3"], cache: Cache
) -> tuple[Float[Array, "B m h w C"], Cache]:
    """Encodes the next `temporal_stride` frames of a clip, or a multiple of that many.

    Raises:
      ValueError: the number of frames is not a multiple of the temporal stride.
    """
    if video.shape[1] % vae.config.temporal_stride:
        raise ValueError(
            f"a later chunk holds a multiple of {vae.config.temporal_stride} frames, got "
            f"{video.shape[1]}."
        )
    return _encode_chunk(vae, video, cache)


def decode_first(
    vae: WanVAE, latents: Float[Array, "B 1 h w C"]
) -> tuple[Float[Array, "B 1 H W 3"], Cache]:
    """Decodes the first latent frame of a clip into its first pixel frame.

    Returns:
      RGB in float32, about [-1, 1] but not clamped, and the cache for `decode_next`.
    """
    return _decode_chunk(vae, latents, None)


def decode_next(
    vae: WanVAE, latents: Float[Array, "B m h w C"], cache: Cache
) -> tuple[Float[Array, "B n H W 3"], Cache]:
    """Decodes the next latent frames, `temporal_stride` pixel frames from each; not clamped."""
    return _decode_chunk(vae, latents, cache)


def encode(vae: WanVAE, video: Video) -> Float[Array, "B F h w C"]:
    """Encodes a clip of 1 + temporal_stride * k frames into 1 + k latent frames, float32.

    Parity: surplus frames at the end are dropped, as the original does (wan.md §3.1).
    """
    b, t, *frame = video.shape
    stride = vae.config.temporal_stride
    later = (t - 1) // stride
    latents, cache = encode_first(vae, video[:, :1])
    if later == 0:
        return latents
    chunks = video[:, 1 : 1 + later * stride].reshape(b, later, stride, *frame)

    def step(cache, chunk):
        latents, cache = encode_next(vae, chunk, cache)
        return cache, latents[:, 0]

    _, rest = jax.lax.scan(step, cache, jnp.moveaxis(chunks, 1, 0))
    return jnp.concatenate([latents, jnp.moveaxis(rest, 0, 1)], axis=1)


def decode(vae: WanVAE, latents: Latents) -> Float[Array, "B T h w 3"]:
    """Decodes F latent frames into 1 + temporal_stride * (F - 1) frames, float32, not clamped."""
    video, cache = decode_first(vae, latents[:, :1])
    if latents.shape[1] == 1:
        return video

    def step(cache, frame):
        video, cache = decode_next(vae, frame[:, None], cache)
        return cache, video

    _, rest = jax.lax.scan(step, cache, jnp.moveaxis(latents[:, 1:], 1, 0))
    rest = jnp.moveaxis(rest, 0, 1)
    return jnp.concatenate([video, rest.reshape(rest.shape[0], -1, *rest.shape[3:])], axis=1)


def _encode_chunk(vae: WanVAE, video: Array, cache: Cache) -> tuple[Array, Cache]:
    moments, cache = vae.encoder(video, cache)
    codes = vae.conv1(moments)[..., : vae.config.z_dim].astype(jnp.float32)
    mean, std = _latent_statistics(vae.config)
    return (codes - mean) / std, cache


def _decode_chunk(vae: WanVAE, latents: Array, cache: Cache) -> tuple[Array, Cache]:
    mean, std = _latent_statistics(vae.config)
    x = vae.conv2(latents.astype(jnp.float32) * std + mean)
    video, cache = vae.decoder(x, cache)
    return video.astype(jnp.float32), cache


def _latent_statistics(config: VAEConfig) -> tuple[Array, Array]:
    """Mean and standard deviation of each latent channel, float32 [1, 1, 1, 1, C]."""
    mean, std = np.asarray([config.latent_mean, config.latent_std], np.float32)
    return jnp.asarray(mean.reshape(1, 1, 1, 1, -1)), jnp.asarray(std.reshape(1, 1, 1, 1, -1))
