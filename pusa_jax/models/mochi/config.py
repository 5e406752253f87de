"""Shapes and precision of Mochi's networks, and the statistics of its latents."""

import dataclasses

from pusa_jax.models.remat import Remat
from pusa_jax.typing import Precision

ATTENTION_LINEARS = r"(blocks|last)/(visual|text)/[qkvo]"
"""The linear layers of attention in both streams: what genmo's trainer of LoRA adapts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The asymmetric joint diffusion transformer (AsymmDiT); defaults are those of Mochi-1 preview.

    Attributes:
      dim: width D of the visual stream; a head has dim / num_heads channels.
      context_dim: width of the text stream.
      ffn_dim: hidden channels of the visual feed-forward.
      context_ffn_dim: hidden channels of the text feed-forward.
      pool_heads: heads of the attention that makes one vector of a prompt.
      text_dim: width of the text encoder's features.
      param_dtype: dtype the weights are held in.
      compute_dtype: dtype of the matrix products and of the residual streams.
      remat: what training keeps of each block for the backward pass; sampling ignores it.
    """

    dim: int = 3072
    context_dim: int = 1536
    ffn_dim: int = 8192
    context_ffn_dim: int = 4096
    num_heads: int = 24
    num_layers: int = 48
    pool_heads: int = 8
    in_dim: int = 12
    out_dim: int = 12
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    qk_eps: float = 1e-5
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(
                f"dim must be num_heads times an even head dimension, got dim={self.dim}, "
                f"num_heads={self.num_heads}."
            )
        if self.text_dim % self.pool_heads:
            raise ValueError(
                f"text_dim must be divisible by pool_heads, got {self.text_dim} and "
                f"{self.pool_heads}."
            )
        if self.num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {self.num_layers}.")
        if self.patch_size[0] != 1:
            raise ValueError(
                f"patch_size must start with 1, a timestep per latent frame; got {self.patch_size}."
            )

    @property
    def head_dim(self) -> int:
        """Channels per attention head, in both streams."""
        return self.dim // self.num_heads
