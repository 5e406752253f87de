"""Shapes and precision of the Wan2.1 networks, and the published presets."""

import dataclasses
from typing import Literal

from pusa_jax.models.remat import Remat
from pusa_jax.typing import Precision

BLOCK_LINEARS = r"blocks/(self_attn|cross_attn)/[qkvo]|blocks/ffn/(up|down)"
"""The ten linear layers of every block: what Pusa V1.0 adapts."""

WAN21_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN21_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The diffusion transformer.

    Attributes:
      dim: model width D; the head dimension is dim / num_heads and must be even.
      numerics: whose rounding points are reproduced when `compute_dtype` is bfloat16. "wan" (the
        official code) keeps time path, modulation, residual stream and head in float32;
        "diffsynth" (Pusa's code) computes all of them in `compute_dtype`. In float32 they agree.
      param_dtype: dtype the weights are held in.
      compute_dtype: dtype of the matrix products and of the activations between them.
      remat: what training keeps of each block for the backward pass; sampling ignores it.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int = 16
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    numerics: Literal["wan", "diffsynth"] = "diffsynth"
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(
                f"dim must be num_heads times an even head dimension, got dim={self.dim}, "
                f"num_heads={self.num_heads}."
            )
        if self.patch_size[0] != 1:
            raise ValueError(
                f"patch_size must start with 1, a timestep per latent frame; got {self.patch_size}."
            )

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.dim // self.num_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The causal video VAE.

    Attributes:
      temporal_downsample: for each spatial halving of the encoder, whether time is halved as well.
      latent_mean: per-channel mean of the latents, length z_dim; not stored in original
        checkpoints.
      latent_std: per-channel standard deviation, length z_dim.
    """

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN21_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN21_LATENT_STD
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"

    def __post_init__(self):
        if not len(self.latent_mean) == len(self.latent_std) == self.z_dim:
            raise ValueError(
                f"latent_mean and latent_std need z_dim={self.z_dim} entries, got "
                f"{len(self.latent_mean)} and {len(self.latent_std)}."
            )
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample needs {len(self.dim_mult) - 1} entries for "
                f"dim_mult={self.dim_mult}, got {len(self.temporal_downsample)}."
            )

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and width."""
        return 2 ** len(self.temporal_downsample)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return 2 ** sum(self.temporal_downsample)
