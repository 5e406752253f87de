"""Shapes and precision of the Wan networks."""

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

WAN22_LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
WAN22_LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
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
    """The causal video VAE; the defaults are those of Wan2.1, `WAN22_VAE` is that of Wan2.2.

    Attributes:
      dim: width of the encoder's first stage.
      decoder_dim: width of the decoder's last stage; None: the same.
      dim_mult: width of each stage of the encoder as a multiple of `dim`; the decoder's reversed.
      temporal_downsample: for each spatial halving of the encoder, whether time is halved as well.
      patch_size: side of the squares of pixels that become one position before the first layer.
      has_stage_shortcuts: whether a parameter-free path leads past each stage; the upsampling
        layers then keep the number of channels, otherwise they halve it.
      latent_mean: per-channel mean of the latents, length z_dim; not stored in original
        checkpoints.
      latent_std: per-channel standard deviation, length z_dim.
    """

    dim: int = 96
    decoder_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch_size: int = 1
    has_stage_shortcuts: bool = False
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
        if self.patch_size < 1:
            raise ValueError(f"patch_size must be at least 1 pixel, got {self.patch_size}.")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and width."""
        return self.patch_size * 2 ** len(self.temporal_downsample)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return 2 ** sum(self.temporal_downsample)


WAN22_VAE = VAEConfig(
    dim=160,
    decoder_dim=256,
    z_dim=48,
    patch_size=2,
    has_stage_shortcuts=True,
    latent_mean=WAN22_LATENT_MEAN,
    latent_std=WAN22_LATENT_STD,
)
"""The autoencoder of Wan2.2-TI2V-5B; the A14B experts keep that of Wan2.1."""
