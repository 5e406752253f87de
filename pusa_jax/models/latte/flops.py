"""Floating-point operations of FVDM's networks, by formula; a multiply-add counts as two."""

import math
from typing import Any

from pusa_jax.models.latte.config import DiTConfig

VAE_DECODE_PER_PIXEL = 9.4e6
"""FLOPs of the decoder for each pixel of a frame of 256 x 256, as the compiler counts them."""


def places(config: DiTConfig, latent_shape: tuple[int, ...]) -> int:
    """Tokens of one frame of latents [B, F, H, W, C]."""
    return math.prod(n // p for n, p in zip(latent_shape[2:4], config.patch_size[1:], strict=True))


def velocity_flops(
    config: DiTConfig, latent_shape: tuple[int, ...], timesteps: int | None = None
) -> int:
    """FLOPs of one forward of the DiT.

    Args:
      config: the DiT's.
      latent_shape: [B, F, H, W, C].
      timesteps: per clip; one for each latent frame if not given.
    """
    batch, frames = latent_shape[:2]
    levels = frames if timesteps is None else timesteps
    n, d = frames * places(config, latent_shape), config.dim
    block = n * (8 * d * d + 4 * d * config.ffn_dim) + levels * 12 * d * d
    patch = math.prod(config.patch_size)
    ends = 2 * n * d * patch * (config.in_dim + config.out_dim) + levels * 4 * d * d
    time = levels * 2 * (config.freq_dim * d + d * d)
    one = config.num_layers * block + ends + time
    return batch * one + attention_flops(config, latent_shape)


def attention_flops(config: DiTConfig, latent_shape: tuple[int, ...]) -> int:
    """FLOPs of scores and weighted sums in one forward of the DiT; no weights take part in them."""
    batch, frames = latent_shape[:2]
    s = places(config, latent_shape)
    pair = 4 * frames * s * (s + frames) * config.dim
    return batch * config.num_layers // 2 * pair


def linear_rows(config: DiTConfig, latent_shape: tuple[int, ...], path: str) -> int:
    """Rows that a linear layer of the DiT maps for each clip: tokens or levels."""
    frames = latent_shape[1]
    is_of_levels = path.startswith("time_embedding") or path.endswith("/modulation/linear")
    return frames if is_of_levels else frames * places(config, latent_shape)


def prepare_flops(config: DiTConfig, batch: int = 1) -> int:
    """FLOPs of `LatteVideo.prepare`: none, a row of a table is looked up."""
    return 0


def text_encoder_flops(config: Any, batch: int = 1) -> int:
    """FLOPs of a text encoder: there is none, a prompt is a label."""
    return 0
