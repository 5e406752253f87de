"""What decides a clip besides weights, prompt and given frames; whether it can be sampled."""

import dataclasses
import math
from collections.abc import Sequence

from pusa_jax.diffusion.conditioning import check_conditions
from pusa_jax.diffusion.tasks import Condition, latent_frames
from pusa_jax.models.wan.config import DiTConfig, VAEConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything besides weights, prompt and conditions that decides a result.

    Attributes:
      height, width: pixels, divisible by 16.
      num_frames: pixel frames, 4k + 1.
      guidance_scale: 1 is off.
      original_timesteps: tell the DiT timesteps rounded as the original does (to whole numbers with
        conditions, through bfloat16 in a bfloat16 run); else exactly 1000 * sigma.
      tiled: encode and decode in overlapping tiles, as Pusa's pipelines do by default. Changes
        results slightly, because the VAE's attention then sees one tile at a time.
    """

    height: int = 720
    width: int = 1280
    num_frames: int = 81
    num_steps: int = 30
    guidance_scale: float = 3.0
    shift: float = 5.0
    seed: int = 0
    original_timesteps: bool = True
    tiled: bool = True

    def __post_init__(self):
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"the guidance scale must be a number, got {self.guidance_scale}.")
        if not 0 <= self.seed < 2**32:  # of larger ones jax.random.key drops the upper bits
            raise ValueError(f"the seed must be 0 to {2**32 - 1}, got {self.seed}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs:
    """Shapes of the two networks that decide what can be sampled."""

    dit: DiTConfig
    vae: VAEConfig


def latent_shape(settings: Settings, configs: Configs) -> tuple[int, int, int, int, int]:
    """[1, F, h, w, C] of a run.

    Raises:
      ValueError: a size or the number of frames does not fit; the message has the nearest that do.
    """
    stride = configs.vae.spatial_stride
    for name, patch in zip(("height", "width"), configs.dit.patch_size[1:], strict=True):
        size, multiple = getattr(settings, name), stride * patch
        below = max(size // multiple, 1) * multiple
        if size % multiple or size < multiple:
            raise ValueError(
                f"{name} must be divisible by {multiple}, got {size}; nearest are "
                f"{below} and {below + multiple}."
            )
    if settings.num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {settings.num_steps}.")
    f = latent_frames(settings.num_frames, configs.vae.temporal_stride)
    return (1, f, settings.height // stride, settings.width // stride, configs.vae.z_dim)


def check_all(conditions: Sequence[Condition], num_latent_frames: int) -> None:
    """Raises ValueError unless conditions fit the clip and each other, see `check_conditions`."""
    places = [place for condition in conditions for place in condition.at]
    multipliers = [m for condition in conditions for m in condition.multipliers]
    check_conditions(places, multipliers, num_latent_frames)
