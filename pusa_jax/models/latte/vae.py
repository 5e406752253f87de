"""The image autoencoder of Stable Diffusion 1 (AutoencoderKL), frame by frame.

    video [B,T,H,W,3] -> 3x3 -> (blocks, halve) x 3, blocks -> middle -> 1x1 -> mean, log variance
    latents [B,F,h,w,C] -> 1x1 -> 3x3 -> middle -> (blocks, double) x 3, blocks -> video

8 x 8 pixels of a frame become a cell of 4 channels, and no frame knows of another: a chunk is one
frame, and what it hands on is nothing. Latents are the posterior mean times `scaling_factor`.
Source: AutoencoderKL of Diffusers.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pusa_jax.models.frames import (
    FrameNorm,
    Frames,
    attention_in_frame,
    halving_conv,
    repeat_pixels,
)
from pusa_jax.models.latte.config import VAEConfig
from pusa_jax.typing import Latents, Video

NORM_EPS = 1e-6

LOG_VARIANCE = (-30.0, 20.0)
"""What the encoder's log variance is clamped to."""


def dtypes(config: VAEConfig) -> dict[str, Any]:
    """The two dtype arguments that every layer takes."""
    return {"dtype": config.compute_dtype, "param_dtype": config.param_dtype}


def _norm(dim: int, config: VAEConfig) -> FrameNorm:
    return FrameNorm(dim, config.norm_num_groups, NORM_EPS, param_dtype=config.param_dtype)


def _conv(into: int, out: int, config: VAEConfig, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(into, out, (3, 3), **dtypes(config), rngs=rngs)


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU and convolution, around a shortcut that adapts the channels."""

    def __init__(self, into: int, out: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.norm1, self.conv1 = _norm(into, config), _conv(into, out, config, rngs)
        self.norm2, self.conv2 = _norm(out, config), _conv(out, out, config, rngs)
        self.shortcut = None if into == out else nnx.Linear(into, out, **dtypes(config), rngs=rngs)

    def __call__(self, x: Frames) -> Float[Array, "B T H W O"]:
        """Runs the block."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.conv1(jax.nn.silu(self.norm1(x)))
        return shortcut + self.conv2(jax.nn.silu(self.norm2(x)))


class AttentionBlock(nnx.Module):
    """Single-head attention among the positions of one frame."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.norm = _norm(dim, config)
        self.q, self.k, self.v, self.o = (
            nnx.Linear(dim, dim, **dtypes(config), rngs=rngs) for _ in range(4)
        )

    def __call__(self, x: Frames) -> Frames:
        """Adds what attention finds."""
        h = self.norm(x)
        return x + self.o(attention_in_frame(self.q(h), self.k(h), self.v(h)))


class Halve(nnx.Module):
    """Halves height and width."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.conv = halving_conv(dim, rngs, **dtypes(config))

    def __call__(self, x: Frames) -> Float[Array, "B T h w C"]:
        """Runs the convolution."""
        return self.conv(x)


class Double(nnx.Module):
    """Doubles height and width."""

    def __init__(self, dim: int, config: VAEConfig, *, rngs: nnx.Rngs):
        self.conv = _conv(dim, dim, config, rngs)

    def __call__(self, x: Frames) -> Float[Array, "B T h w C"]:
        """Repeats pixels, then runs the convolution."""
        return self.conv(repeat_pixels(x))


def _middle(dim: int, config: VAEConfig, rngs: nnx.Rngs) -> list[nnx.Module]:
    return [
        ResidualBlock(dim, dim, config, rngs=rngs),
        AttentionBlock(dim, config, rngs=rngs),
        ResidualBlock(dim, dim, config, rngs=rngs),
    ]


class Coder(nnx.Module):
    """A convolution, layers, and norm, SiLU and convolution at the end: an encoder or a decoder."""

    def __init__(
        self,
        channels: tuple[int, int],
        layers: list[nnx.Module],
        ends: tuple[int, int],
        config: VAEConfig,
        *,
        rngs: nnx.Rngs,
    ):
        """Makes the ends.

        Args:
          channels: what comes in and what goes out.
          layers: between the ends.
          ends: channels of the first and of the last layer.
          config: of the autoencoder.
          rngs: for the ends.
        """
        (into, out), (first, last) = channels, ends
        self.conv_in = _conv(into, first, config, rngs)
        self.layers = nnx.List(layers)
        self.norm_out, self.conv_out = _norm(last, config), _conv(last, out, config, rngs)

    def __call__(self, x: Frames) -> Float[Array, "B T h w O"]:
        """Runs the layers one after the other."""
        x = self.conv_in(x)
        for layer in self.layers:
            x = layer(x)
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


def encoder(config: VAEConfig, rngs: nnx.Rngs) -> Coder:
    """Pixels to what becomes mean and log variance of each latent cell."""
    widths, layers = config.block_out_channels, []
    for stage, (into, out) in enumerate(itertools.pairwise((widths[0], *widths))):
        for width in [into, *[out] * (config.layers_per_block - 1)]:
            layers.append(ResidualBlock(width, out, config, rngs=rngs))
        if stage < len(widths) - 1:
            layers.append(Halve(out, config, rngs=rngs))
    layers += _middle(widths[-1], config, rngs)
    return Coder((3, 2 * config.z_dim), layers, (widths[0], widths[-1]), config, rngs=rngs)


def decoder(config: VAEConfig, rngs: nnx.Rngs) -> Coder:
    """Latent cells to pixels: the encoder's stages in reverse with one block more in each."""
    widths = config.block_out_channels[::-1]
    layers = _middle(widths[0], config, rngs)
    for stage, (into, out) in enumerate(itertools.pairwise((widths[0], *widths))):
        for width in [into, *[out] * config.layers_per_block]:
            layers.append(ResidualBlock(width, out, config, rngs=rngs))
        if stage < len(widths) - 1:
            layers.append(Double(out, config, rngs=rngs))
    return Coder((config.z_dim, 3), layers, (widths[0], widths[-1]), config, rngs=rngs)


class FrameVAE(nnx.Module):
    """Encoder, decoder and, on either side of the latents, a 1x1 convolution."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = encoder(config, rngs)
        self.quantise = nnx.Linear(2 * config.z_dim, 2 * config.z_dim, **dtypes(config), rngs=rngs)
        self.unquantise = nnx.Linear(config.z_dim, config.z_dim, **dtypes(config), rngs=rngs)
        self.decoder = decoder(config, rngs)


def moments(
    vae: FrameVAE, video: Video
) -> tuple[Float[Array, "B F h w C"], Float[Array, "B F h w C"]]:
    """Mean and log variance of the posterior of each cell, not scaled; float32.

    A draw of latents is (mean + exp(log variance / 2) * noise) * `scaling_factor`.

    Args:
      vae: the model.
      video: RGB in [-1, 1].
    """
    x = vae.quantise(vae.encoder(video.astype(vae.config.compute_dtype))).astype(jnp.float32)
    mean, log_variance = jnp.split(x, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE)


def encode_first(vae: FrameVAE, video: Video) -> tuple[Float[Array, "B F h w C"], None]:
    """Encodes frames into latents, the scaled posterior mean, float32; nothing is drawn.

    Args:
      vae: the model.
      video: RGB in [-1, 1]; any number of frames, which are encoded at once.
    """
    return moments(vae, video)[0] * vae.config.scaling_factor, None


def encode_next(vae: FrameVAE, video: Video, cache: None) -> tuple[Float[Array, "B F h w C"], None]:
    """As `encode_first`: frames do not depend on each other."""
    return encode_first(vae, video)


def decode_first(vae: FrameVAE, latents: Latents) -> tuple[Float[Array, "B F h w 3"], None]:
    """Decodes latent frames, all at once, into RGB in float32, about [-1, 1] but not clamped."""
    x = latents.astype(jnp.float32) / vae.config.scaling_factor
    x = vae.unquantise(x.astype(vae.config.compute_dtype))
    return vae.decoder(x).astype(jnp.float32), None


def decode_next(
    vae: FrameVAE, latents: Latents, cache: None
) -> tuple[Float[Array, "B F h w 3"], None]:
    """As `decode_first`: frames do not depend on each other."""
    return decode_first(vae, latents)
