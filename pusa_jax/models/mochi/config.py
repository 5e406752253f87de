"""Shapes and precision of Mochi's networks, and the statistics of its latents."""

import dataclasses
import math

from pusa_jax.models.remat import Remat
from pusa_jax.typing import Precision

ATTENTION_LINEARS = r"(blocks|last)/(visual|text)/[qkvo]"
"""The linear layers of attention in both streams: what genmo's trainer of LoRA adapts."""


LATENT_MEAN = (
    -0.06730895953510081, -0.038011381506090416, -0.07477820912866141, -0.05565264470995561,
    0.012767231469026969, -0.04703542746246419, 0.043896967884726704, -0.09346305707025976,
    -0.09918314763016893, -0.008729793427399178, -0.011931556316503654, -0.0321993391887285,
)  # fmt: skip
LATENT_STD = (
    0.9263795028493863, 0.9248894543193766, 0.9393059390890617, 0.959253732819592,
    0.8244560132752793, 0.917259975397747, 0.9294154431013696, 1.3720942357788521,
    0.881393668867029, 0.9168315692124348, 0.9185249279345552, 0.9274757570805041,
)  # fmt: skip


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The causal video autoencoder (AsymmVAE); defaults are those of Mochi-1 preview.

    Attributes:
      encoder_dims: channels at each size of the encoder, the finest first.
      decoder_dims: channels at each size of the decoder, the finest first.
      num_res_blocks: residual blocks before the first halving, after each, and before the latents.
      temporal_factors: frames that each halving of height and width joins as well.
      num_groups: of the norms.
      head_dim: channels of a head of the encoder's attention over time.
      latent_mean: per-channel mean of the latents, length z_dim.
      latent_std: per-channel standard deviation, length z_dim.
    """

    encoder_dims: tuple[int, ...] = (64, 128, 256, 384)
    decoder_dims: tuple[int, ...] = (128, 256, 512, 768)
    num_res_blocks: tuple[int, ...] = (3, 3, 4, 6, 3)
    temporal_factors: tuple[int, ...] = (1, 2, 3)
    z_dim: int = 12
    num_groups: int = 32
    head_dim: int = 32
    latent_mean: tuple[float, ...] = LATENT_MEAN
    latent_std: tuple[float, ...] = LATENT_STD
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"

    def __post_init__(self):
        sizes = len(self.temporal_factors) + 1
        lengths = (len(self.encoder_dims), len(self.decoder_dims), len(self.num_res_blocks) - 1)
        if lengths != (sizes, sizes, sizes):
            raise ValueError(
                f"{sizes - 1} temporal_factors need {sizes} encoder_dims, {sizes} decoder_dims and "
                f"{sizes + 1} num_res_blocks, got {self}."
            )
        if not len(self.latent_mean) == len(self.latent_std) == self.z_dim:
            raise ValueError(
                f"latent_mean and latent_std need z_dim={self.z_dim} entries, got "
                f"{len(self.latent_mean)} and {len(self.latent_std)}."
            )

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and width."""
        return 2 ** len(self.temporal_factors)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return math.prod(self.temporal_factors)
