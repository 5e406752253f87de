"""Mochi's noise table: the linear-quadratic schedule, and the timesteps 1000 * (1 - sigma)."""

import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.typing import Precision

THRESHOLD = 0.025
"""Way from noise that the linear part of the published schedule covers."""


def linear_quadratic(
    num_steps: int, threshold: float = THRESHOLD, linear_steps: int | None = None
) -> Float[np.ndarray, " steps_and_end"]:
    """Decreasing sigmas of one run: a line to 1 - threshold, then a parabola that ends in 0.

    The parabola has the line's slope where it begins (pipelines.py: linear_quadratic_schedule).
    Half of all steps thus stay above 0.975, where little is decided about a clip but its layout.

    Args:
      num_steps: solver steps S, at least 1.
      threshold: where the line ends, in (0, 1).
      linear_steps: steps on the line; half of all, if not given.

    Returns:
      float64 [S + 1], from 1 to 0.

    Raises:
      ValueError: num_steps < 1, threshold outside (0, 1), or linear_steps outside 1 .. S - 1.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}.")
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold must be in (0, 1), got {threshold}.")
    if num_steps == 1:  # the original's half of 1 step is no step
        return np.asarray([1.0, 0.0])
    line = num_steps // 2 if linear_steps is None else linear_steps
    if not 1 <= line < num_steps:
        raise ValueError(f"linear steps must be 1 to {num_steps - 1}, got {line}.")
    rest = num_steps - line
    gap = line - threshold * num_steps
    quadratic = gap / (line * rest**2)
    linear = threshold / line - 2 * gap / rest**2
    constant = quadratic * line**2
    i = np.arange(num_steps, dtype=np.float64)
    gone = np.where(i < line, i * threshold / line, quadratic * i**2 + linear * i + constant)
    return np.append(1 - gone, 0.0)


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
      ValueError: a solver other than Euler's.
    """
    if settings.solver != "euler":
        raise ValueError(f"mochi-1 is sampled with the Euler solver, not with {settings.solver}.")
    given = settings.levels
    schedule = linear_quadratic(settings.num_steps) if given is None else np.asarray([*given, 0.0])
    sigmas = schedule[:, None] * np.asarray(multipliers, np.float64)[None]  # [S + 1, F]
    return NoiseTable(
        sigmas=sigmas.astype(np.float32),
        timesteps=(1000 * (1 - sigmas[:-1])).astype(np.float32),
        step_sizes=(sigmas[1:] - sigmas[:-1]).astype(np.float32),
        levels=schedule[:-1].astype(np.float32),
    )
