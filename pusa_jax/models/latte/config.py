"""Shapes and precision of FVDM's networks: LatteVIDEO and the autoencoder of Stable Diffusion 1."""

import dataclasses

from pusa_jax.models.remat import Remat
from pusa_jax.typing import Precision

ATTENTION_LINEARS = r"blocks/(spatial|temporal)/[qkvo]"
"""The linear layers of attention, within frames and along time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The diffusion transformer; defaults are those of LatteVIDEO-XL/2 without classes.

    Attributes:
      dim: width D; a head has dim / num_heads channels.
      num_layers: blocks within frames and blocks along time together, which take turns.
      in_dim: channels C of the latents; the model gives twice as many.
      num_classes: of clips; 0 is a model without labels. The label num_classes says nothing.
      num_frames: rows of the table of positions in time: clips have so many latent frames.
      grid: (rows, columns) of patches in a frame: the table of places has one for each.
      freq_dim: channels of the sinusoids that a timestep is embedded by.
      param_dtype: dtype the weights are held in.
      compute_dtype: dtype of the matrix products and of the residual stream.
      remat: what training keeps of each pair of blocks; sampling ignores it.
    """

    dim: int = 1152
    num_heads: int = 16
    num_layers: int = 28
    in_dim: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_classes: int = 0
    num_frames: int = 16
    grid: tuple[int, int] = (16, 16)
    freq_dim: int = 256
    eps: float = 1e-6
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"
    remat: Remat = "none"

    def __post_init__(self):
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(
                f"dim must be a multiple of num_heads and of 4, got dim={self.dim}, "
                f"num_heads={self.num_heads}."
            )
        if self.num_layers < 2 or self.num_layers % 2:
            raise ValueError(
                f"num_layers must be even, a block within frames and one along time; got "
                f"{self.num_layers}."
            )
        if self.patch_size[0] != 1:
            raise ValueError(
                f"patch_size must start with 1, a timestep per latent frame; got {self.patch_size}."
            )
        if self.num_classes < 0 or min(self.num_frames, *self.grid) < 1:
            raise ValueError(
                f"num_classes must be at least 0, num_frames and grid at least 1, got "
                f"{self.num_classes}, {self.num_frames} and {self.grid}."
            )

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.dim // self.num_heads

    @property
    def out_dim(self) -> int:
        """Channels of the result: noise, and where its variance lies."""
        return 2 * self.in_dim

    @property
    def ffn_dim(self) -> int:
        """Hidden channels of a feed-forward."""
        return 4 * self.dim

    @property
    def text_len(self) -> int:
        """A prompt is one label."""
        return 1

    @property
    def text_dim(self) -> int:
        """A label is one number."""
        return 1


SIZES = {
    "XL": DiTConfig(),
    "L": DiTConfig(dim=1024, num_heads=16, num_layers=24),
    "B": DiTConfig(dim=768, num_heads=12, num_layers=12),
    "S": DiTConfig(dim=384, num_heads=6, num_layers=12),
    "T": DiTConfig(dim=192, num_heads=3, num_layers=6),
}
"""Published names of sizes, as in LatteVIDEO-XL/2; the number behind them is the patch size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The image autoencoder (AutoencoderKL); defaults are those of Stable Diffusion 1.

    Attributes:
      block_out_channels: channels at each size, the finest first.
      layers_per_block: residual blocks at each size of the encoder; the decoder has one more.
      norm_num_groups: of the norms.
      z_dim: channels of the latents.
      scaling_factor: what the posterior mean is multiplied by to give latents.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    z_dim: int = 4
    scaling_factor: float = 0.18215
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"

    def __post_init__(self):
        groups = self.norm_num_groups
        if not self.block_out_channels or any(c % groups for c in self.block_out_channels):
            raise ValueError(
                f"block_out_channels must be multiples of norm_num_groups={groups}, got "
                f"{self.block_out_channels}."
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor must be above 0, got {self.scaling_factor}.")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame: each frame is encoded alone."""
        return 1
