"""Whether a clip can be sampled: settings and given frames against the sizes of the networks."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pusa_jax.diffusion.conditioning import FrameCondition, check_conditions
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.rows import FINE, rows_taken
from pusa_jax.diffusion.tasks import Condition, latent_frames
from pusa_jax.models.family import CodecConfig, DenoiserConfig, Family

Given = Condition | FrameCondition
"""Pixel frames that are encoded first, or a latent frame as it is: of an earlier run, say."""


def places_of(given: Given) -> tuple[int, ...]:
    """Where given frames go."""
    return (given.index,) if isinstance(given, FrameCondition) else given.at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs:
    """Shapes of the two networks that decide what can be sampled."""

    dit: DenoiserConfig
    vae: CodecConfig

    def fitted(self, family: Family, *, official: bool = False) -> SamplingConfig:
        """The settings published with Pusa, or with the base model, for networks of this size."""
        published = family.official if official else family.sampling
        return family.fitted(published, self.dit, self.vae)


def latent_shape(settings: SamplingConfig, configs: Configs) -> tuple[int, int, int, int, int]:
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
    f = latent_frames(settings.num_frames, configs.vae.temporal_stride)
    return (1, f, settings.height // stride, settings.width // stride, configs.vae.z_dim)


def check_experts(settings: SamplingConfig, family: Family) -> None:
    """Raises ValueError if settings are of two experts and the model has one denoiser."""
    for name in ("low_guidance_scale", "boundary"):
        value = getattr(settings, name)
        if value is not None and len(family.experts) == 1:
            raise ValueError(
                f"{name.replace('_', ' ')} {value:g} is for a model with two experts, "
                f"{family.name} has one denoiser."
            )


def check_reuse(settings: SamplingConfig, family: Family, configs: Configs) -> None:
    """Raises ValueError if blocks are to be left out of a denoiser that has no rule for it."""
    if settings.teacache is None:
        return
    if family.reuse is None:
        raise ValueError(f"TeaCache is published for Wan, not for {family.name}; leave it out.")
    family.reuse.check(settings.teacache, configs.dit)


def check_call(prompt: Any, conditions: Any) -> None:
    """Raises TypeError, with the right call, for what other libraries take and we do not."""
    if not isinstance(prompt, str):
        raise TypeError(
            f"one prompt makes one clip, got {type(prompt).__name__}: "
            "[pipe(prompt) for prompt in prompts]."
        )
    bare = conditions if isinstance(conditions, list | tuple) else [conditions]
    for given in bare:
        if not isinstance(given, Condition | FrameCondition):
            raise TypeError(
                f"conditions are given frames with their places, got {type(given).__name__}: "
                "conditions=pj.tasks.image_to_video(image), where image = "
                'pj.fit(numpy.asarray(picture.convert("RGB")), height, width, "crop").'
            )


def plan_run(
    family: Family, settings: SamplingConfig, conditions: Sequence[Given], configs: Configs
) -> NoiseTable:
    """The noise table of a run; nothing is read or computed for it but numbers.

    Raises:
      ValueError: given frames that do not fit the clip or each other, or that the solver cannot
        sample with; settings of two experts for a model with one denoiser.
    """
    check_experts(settings, family)
    shape = latent_shape(settings, configs)
    family.check_clip(configs.dit, configs.vae, shape)
    frames = shape[1]
    check_all(conditions, frames)
    multipliers = np.ones(frames, np.float32)
    for given in conditions:
        encoded = isinstance(given, FrameCondition)
        multipliers[[*places_of(given)]] = given.multiplier if encoded else given.multipliers
    check_reuse(settings, family, configs)
    fine, rows = _fine(settings)
    table = family.table(
        fine,
        multipliers,
        is_conditioned=bool(conditions),
        compute_dtype=configs.dit.compute_dtype,
    )
    return table if rows is None else table.thinned(rows)


def _fine(settings: SamplingConfig) -> tuple[SamplingConfig, tuple[int, ...] | None]:
    """The settings of the table that rows are taken of, and which; None is all."""
    if settings.rows == "even":
        return settings, None
    rows = rows_taken(settings.rows, settings.num_steps)
    fine = dataclasses.replace(settings, num_steps=FINE, rows="even", guidance_schedule=None)
    return fine, rows


def guidance_scales(settings: SamplingConfig, served: Sequence[int]) -> list[float]:
    """The guidance scale of each step.

    Args:
      settings: of the run.
      served: which expert takes each step; all but the first are for low noise.
    """
    scales = settings.guidance_schedule
    if scales is None:
        low = settings.low_guidance_scale
        low = settings.guidance_scale if low is None else low
        scales = [low if expert else settings.guidance_scale for expert in served]
    guided = math.ceil(round(settings.guidance_until * len(served), 6))
    return [scale if i < guided else 1.0 for i, scale in enumerate(scales)]


def new_functions(served: Sequence[int], scales: Sequence[float]) -> list[bool]:
    """Steps whose guided velocity is another function than that of the step before."""
    steps = [*zip(served, scales, strict=True)]
    return [i > 0 and steps[i] != steps[i - 1] for i in range(len(steps))]


def count_passes(scales: Sequence[float], left_out: Sequence[bool] | None = None) -> int:
    """Forwards of the network in a run: two for a guided step, none for one without blocks."""
    passes = [1 if scale == 1 else 2 for scale in scales]
    return sum(passes) if left_out is None else sum(np.where(left_out, 0, passes).tolist())


def check_all(conditions: Sequence[Given], num_latent_frames: int) -> None:
    """Raises ValueError unless conditions fit the clip and each other, see `check_conditions`."""
    places, multipliers = [], []
    for given in conditions:
        encoded = isinstance(given, FrameCondition)
        places += places_of(given)
        multipliers += (given.multiplier,) if encoded else given.multipliers
    check_conditions(places, multipliers, num_latent_frames)
