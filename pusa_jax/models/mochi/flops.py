"""Floating-point operations of Mochi's networks, by formula; a multiply-add counts as two."""

import math

from pusa_jax.models.mochi.config import DiTConfig
from pusa_jax.models.t5 import TextConfig

VAE_DECODE_PER_PIXEL = 15.8e6
"""FLOPs of the decoder for each pixel of each decoded frame, as the compiler counts them."""


def tokens(config: DiTConfig, latent_shape: tuple[int, ...]) -> int:
    """Tokens of one clip of latents [B, F, H, W, C]."""
    return math.prod(n // p for n, p in zip(latent_shape[1:4], config.patch_size, strict=True))


def velocity_flops(
    config: DiTConfig, latent_shape: tuple[int, ...], timesteps: int | None = None
) -> int:
    """FLOPs of one forward of the DiT, prompt prepared and as long as it can be.

    Args:
      config: the DiT's.
      latent_shape: [B, F, H, W, C].
      timesteps: per clip; one for each latent frame if not given.
    """
    batch, frames = latent_shape[:2]
    levels = frames if timesteps is None else timesteps
    n, d, y, text = tokens(config, latent_shape), config.dim, config.context_dim, config.text_len
    visual = n * (8 * d * d + 6 * d * config.ffn_dim) + levels * 8 * d * d
    of_text = text * (8 * y * d + 6 * y * config.context_ffn_dim) + 8 * d * y
    last_text = text * 6 * y * d + 2 * d * y  # queries, keys and values alone
    layers = config.num_layers
    patch = math.prod(config.patch_size)
    ends = 2 * n * d * patch * (config.in_dim + config.out_dim) + levels * 4 * d * d
    time = levels * 2 * (config.freq_dim * d + d * d)
    one = layers * visual + (layers - 1) * of_text + last_text + ends + time
    return batch * one + attention_flops(config, latent_shape)


def attention_flops(config: DiTConfig, latent_shape: tuple[int, ...]) -> int:
    """FLOPs of scores and weighted sums in one forward of the DiT; no weights take part in them."""
    together = tokens(config, latent_shape) + config.text_len
    return latent_shape[0] * config.num_layers * 4 * together**2 * config.dim


def linear_rows(config: DiTConfig, latent_shape: tuple[int, ...], path: str) -> int:
    """Rows that a linear layer of the DiT maps for each clip: tokens, words, levels or one."""
    if path.endswith("/modulation"):
        return latent_shape[1] if "/visual/" in path else 1
    if path.startswith(("time_embedding", "head/shift", "head/scale")):
        return latent_shape[1]
    if path.startswith("text_pool/"):
        return config.text_len + 1 if path.endswith(("/k", "/v")) else 1
    is_text = path.startswith("text_embedding") or "/text/" in path
    return config.text_len if is_text else tokens(config, latent_shape)


def text_flops(config: DiTConfig, batch: int = 1) -> int:
    """FLOPs of `MochiDiT.prepare_text`: the text stream's embedding and the pooled vector."""
    e, length = config.text_dim, config.text_len
    pool = 4 * (length + 1) * e * e + 2 * e * e + 2 * e * config.dim + 4 * (length + 1) * e
    return batch * (2 * length * e * config.context_dim + pool)


def text_encoder_flops(config: TextConfig, batch: int = 1) -> int:
    """FLOPs of the T5 encoder for padded prompts."""
    n, d = config.text_len, config.dim
    projections = 2 * n * (4 * d * config.dim_attn + 3 * d * config.dim_ffn)
    return batch * config.num_layers * (projections + 4 * n * n * config.dim_attn)
