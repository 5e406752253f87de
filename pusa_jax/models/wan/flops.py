"""Floating-point operations a model needs, by formula; a multiply-add counts as two.

Compilers cannot be asked: they do not look into attention kernels and count the body of a loop
once. The formulae were checked against an operation counter run over the PyTorch model.
"""

import math

from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig

VAE_DECODE_PER_PIXEL = 8.6e6
"""FLOPs of the Wan2.1 VAE for each pixel of each decoded frame, counted for 720 x 1280."""

VAE22_DECODE_PER_PIXEL = 1.84e7
"""The same of the Wan2.2 VAE, counted for 704 x 1280."""


def tokens(config: DiTConfig, latent_shape: tuple[int, ...]) -> int:
    """Tokens of one clip of latents [B, F, H, W, C]."""
    grid = (n // p for n, p in zip(latent_shape[1:4], config.patch_size, strict=True))
    return math.prod(grid)


def velocity_flops(
    config: DiTConfig, latent_shape: tuple[int, ...], timesteps: int | None = None
) -> int:
    """FLOPs of one forward of the DiT, prompt already projected.

    Args:
      config: the DiT's.
      latent_shape: [B, F, H, W, C].
      timesteps: per clip; one for each latent frame if not given.
    """
    batch, frames = latent_shape[:2]
    n, d, text = tokens(config, latent_shape), config.dim, config.text_len
    self_attention = 8 * n * d * d + 4 * n * n * d
    cross_attention = 4 * n * d * d + 4 * n * text * d
    blocks = config.num_layers * (self_attention + cross_attention + 4 * n * d * config.ffn_dim)
    patch = math.prod(config.patch_size)
    ends = 2 * n * d * patch * (config.in_dim + config.out_dim)
    time = 2 * (config.freq_dim * d + 7 * d * d) * (frames if timesteps is None else timesteps)
    return batch * (blocks + ends + time)


def attention_flops(config: DiTConfig, latent_shape: tuple[int, ...]) -> int:
    """FLOPs of scores and weighted sums in one forward of the DiT; no weights take part in them."""
    n = tokens(config, latent_shape)
    return latent_shape[0] * config.num_layers * 4 * n * (n + config.text_len) * config.dim


def linear_rows(config: DiTConfig, latent_shape: tuple[int, ...], path: str) -> int:
    """Rows that a linear layer of the DiT maps for each clip: tokens, words or timesteps."""
    if path.startswith("time_"):
        return latent_shape[1]
    sees_text = path.startswith("text_") or path.endswith(("cross_attn/k", "cross_attn/v"))
    return config.text_len if sees_text else tokens(config, latent_shape)


def text_flops(config: DiTConfig, batch: int = 1) -> int:
    """FLOPs of `WanDiT.project_text`: embedding, then keys and values of every block."""
    d = config.dim
    embedding = 2 * (config.text_dim * d + d * d)
    return batch * config.text_len * (embedding + config.num_layers * 4 * d * d)


def text_encoder_flops(config: TextConfig, batch: int = 1) -> int:
    """FLOPs of the UMT5 encoder for padded prompts."""
    n, d = config.text_len, config.dim
    projections = 2 * n * (4 * d * config.dim_attn + 3 * d * config.dim_ffn)
    return batch * config.num_layers * (projections + 4 * n * n * config.dim_attn)
