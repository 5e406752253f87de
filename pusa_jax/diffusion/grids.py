"""Noise tables of the schedulers that solvers are used with elsewhere: one level for all frames.

Each function gives levels [S + 1, 1] and the timesteps [S, 1] that Wan's network is told, 1000
times the level. The levels of Pusa's own schedulers are `flow.pusa_schedule`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.flow import NoiseTable


def unipc_table(num_steps: int, shift: float) -> NoiseTable:
    """Wan's grid for UniPC, one level for all frames [S + 1, 1].

    Parity: levels start from 0.999 rounded to float32, and the network is told whole timesteps (the
    fraction is dropped) while the solver works with exact levels.

    Raises:
      ValueError: num_steps < 1 or shift <= 0.
    """
    return _whole_timesteps(_shifted(float(np.float32(0.999)), num_steps, shift))


def dpmpp_table(num_steps: int, shift: float) -> NoiseTable:
    """Wan's grid for DPM++: as `unipc_table`, from level 1."""
    return _whole_timesteps(_shifted(1.0, num_steps, shift))


def euler_table(num_steps: int, shift: float) -> NoiseTable:
    """Grid of diffusers' flow-matching Euler scheduler, one level for all frames.

    Parity: S levels from 1 to the shifted 1/1000, both ends included, are shifted once more.

    Raises:
      ValueError: num_steps < 1 or shift <= 0.
    """
    _check(num_steps, shift)
    levels = np.linspace(1.0, float(_shift(np.float32(0.001), shift)), num_steps)
    sigmas = np.append(_shift(levels, shift), 0.0).astype(np.float32)[:, None]
    return _table(sigmas, sigmas[:-1] * np.float32(1000))


def _check(num_steps: int, shift: float) -> None:
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}.")
    if not shift > 0:
        raise ValueError(f"shift must be positive, got {shift}.")


def _shift(levels, shift: float):
    return shift * levels / (1 + (shift - 1) * levels)


def _shifted(first: float, num_steps: int, shift: float) -> Float[np.ndarray, " steps_and_end"]:
    _check(num_steps, shift)
    return _shift(np.linspace(first, 0.0, num_steps + 1), shift)


def _whole_timesteps(sigmas: Float[np.ndarray, " steps_and_end"]) -> NoiseTable:
    return _table(
        sigmas.astype(np.float32)[:, None],
        np.trunc(1000 * sigmas[:-1]).astype(np.float32)[:, None],
    )


def _table(sigmas: Float[np.ndarray, "steps_and_end 1"], timesteps: Any) -> NoiseTable:
    return NoiseTable(
        sigmas=sigmas,
        timesteps=timesteps,
        step_sizes=sigmas[1:] - sigmas[:-1],
        levels=sigmas[:-1, 0],
    )


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
