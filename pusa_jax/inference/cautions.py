"""What looks like a mistake but is none for certain: a line each, for people."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.models.family import Family


def cautions(
    settings: SamplingConfig, family: Family, distilled: Sequence[str | Path]
) -> Iterator[str]:
    """Yields a line for each pair of settings that do not go well together.

    Args:
      settings: of a run.
      family: of the model.
      distilled: LoRA files for a few steps that are merged.
    """
    if distilled and settings.is_guided:
        yield (
            f"{Path(distilled[0]).name} was distilled for 4 steps at guidance 1, got guidance "
            f"{settings.guidance_scale:g}: give --fast, or --cfg_scale 1."
        )
    made_for = family.sampling.fps
    if settings.fps != made_for:
        yield (
            f"{family.name} makes {made_for} frames a second: at {settings.fps} all will move "
            f"{settings.fps / made_for:.3g} times as fast."
        )
