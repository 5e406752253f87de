"""Mochi's noise table: the linear-quadratic schedule, and the timesteps 1000 * (1 - sigma)."""

import dataclasses

import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.grids import linear_quadratic
from pusa_jax.typing import Precision


def sampling_table(
    settings: SamplingConfig,
    multipliers: Float[np.ndarray, " F"],
    *,
    is_conditioned: bool,
    compute_dtype: Precision,
) -> NoiseTable:
    """Plans a run: schedule times multipliers; nothing is rounded, with or without given frames.

    Args:
      settings: steps; the shift has no part in this schedule.
      multipliers: one per latent frame, 1 where free.
      is_conditioned: whether frames are given, which changes nothing here.
      compute_dtype: of the DiT, which changes nothing either: it embeds timesteps in float32.

    Raises:
      ValueError: a solver that needs other levels.
    """
    if settings.solver not in ("euler", "ab2"):
        raise ValueError(f"mochi-1 is sampled with euler or ab2, not with {settings.solver}.")
    given = settings.levels
    schedule = linear_quadratic(settings.num_steps) if given is None else np.asarray([*given, 0.0])
    sigmas = schedule[:, None] * np.asarray(multipliers, np.float64)[None]  # [S + 1, F]
    return NoiseTable(
        sigmas=sigmas.astype(np.float32),
        timesteps=(1000 * (1 - sigmas[:-1])).astype(np.float32),
        step_sizes=(sigmas[1:] - sigmas[:-1]).astype(np.float32),
        levels=schedule[:-1].astype(np.float32),
    )


def in_few_steps(settings: SamplingConfig) -> SamplingConfig:
    """The fast preset of genmo's demos/cli.py: 8 steps, 6 of them above 0.9, little guidance.

    Size and seed stay as they are.
    """
    return dataclasses.replace(
        settings,
        num_steps=8,
        levels=tuple(linear_quadratic(8, 0.1, 6)[:-1].tolist()),
        guidance_scale=1.5,
        guidance_schedule=(1.5,) * 8,
        guidance_until=1.0,
        rows="even",
        solver="euler",
    )
