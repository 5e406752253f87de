"""Wan's noise table: the shifted schedule, and the timesteps 1000 * sigma the DiT is told."""

from collections.abc import Sequence
from typing import Literal

import ml_dtypes
import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable, pusa_schedule
from pusa_jax.diffusion.grids import dpmpp_table, unipc_table
from pusa_jax.diffusion.process import SOLVERS
from pusa_jax.typing import Precision

Rounding = Literal["none", "bfloat16"]


def sampling_table(
    settings: SamplingConfig,
    multipliers: Float[np.ndarray, " F"],
    *,
    is_conditioned: bool,
    compute_dtype: Precision,
) -> NoiseTable:
    """Plans a sampling run as the original does, or with exact timesteps.

    Args:
      settings: solver, steps, shift, and whether timesteps are rounded as in the original.
      multipliers: one per latent frame, 1 where free.
      is_conditioned: whether frames are given; Pusa's pipelines truncate timesteps then.
      compute_dtype: of the DiT; Pusa's pipelines round timesteps to it.

    Raises:
      ValueError: a solver of another process, or a multistep solver with frames given at other
        multipliers than 0 and 1.
    """
    if settings.solver not in SOLVERS:
        raise ValueError(f"Wan is sampled with {', '.join(SOLVERS)}, not with {settings.solver}.")
    original = settings.original_timesteps
    if settings.solver in GRIDS:
        return multistep_table(settings, multipliers)
    return noise_table(
        settings.num_steps,
        settings.shift,
        multipliers,
        levels=settings.levels,
        rounding="bfloat16" if original and compute_dtype == "bfloat16" else "none",
        truncate=original and is_conditioned,
    )


GRIDS = {"unipc": unipc_table, "dpm++": dpmpp_table}
"""Solver -> the official grid of its levels, where it has one; others take Pusa's schedule."""


def multistep_table(settings: SamplingConfig, multipliers: Float[np.ndarray, " F"]) -> NoiseTable:
    """Plans a run of the official pipelines: one level for all frames, whole timesteps.

    Frames that are given exactly (multiplier 0) are told 0 and do not move, as the first frame of
    TI2V-5B's image-to-video (textimage2video.py: WanTI2V.i2v).

    Raises:
      ValueError: a multiplier between 0 and 1.
    """
    if settings.levels is not None:
        raise ValueError(f"levels of one's own need the Euler solver, not {settings.solver}.")
    noisy = [float(m) for m in multipliers if m not in (0, 1)]
    if noisy:
        raise ValueError(
            f"a frame given with noise (multiplier {noisy[0]:g}) moves along levels of its own, "
            f"and {settings.solver} looks back along one that all frames share: use the Euler "
            "solver, or multipliers of 0."
        )
    grid = GRIDS[settings.solver](settings.num_steps, settings.shift)
    moving = np.asarray(multipliers, np.float32)[None]  # [1, F]
    told = grid.timesteps if settings.original_timesteps else grid.sigmas[:-1] * np.float32(1000)
    return NoiseTable(
        sigmas=grid.sigmas * moving,
        timesteps=told * moving,
        step_sizes=grid.step_sizes * moving,
        levels=grid.levels,
        entry=(1 - moving[0], moving[0]),
    )


def noise_table(
    num_steps: int,
    shift: float,
    multipliers: Float[np.ndarray, " F"],
    *,
    levels: Sequence[float] | None = None,
    rounding: Rounding = "none",
    truncate: bool = False,
) -> NoiseTable:
    """Plans a run: schedule times multipliers, and the timesteps as the original rounds them.

    Parity: Pusa's pipelines hand the DiT timesteps in the dtype they run in (`rounding`), and those
    with conditioned frames multiply first and then drop the fraction (`truncate`); step sizes are
    never rounded (pusa-v1: FlowMatchSchedulerPusaV2V.step, PusaMultiFramesPipeline.__call__).

    Args:
      num_steps: solver steps S; any number, steps are taken by index.
      shift: 5 for Wan and Pusa.
      multipliers: one per latent frame, 1 where free.
      levels: noise level of every step, in place of the schedule.
      rounding: dtype the timesteps pass through.
      truncate: whether to truncate them to whole numbers.
    """
    multipliers = np.asarray(multipliers, np.float32)
    schedule = pusa_schedule(num_steps, shift)
    if levels is not None:
        schedule = np.asarray([*levels, 0.0], np.float32)
    dtype = ml_dtypes.bfloat16 if rounding == "bfloat16" else np.float32
    scheduled = (schedule[:-1] * np.float32(1000)).astype(dtype).astype(np.float32)  # [S]
    timesteps = (scheduled[:, None] * multipliers[None]).astype(dtype)  # [S, F]
    if truncate:
        timesteps = np.trunc(timesteps.astype(np.float32)).astype(dtype)
    sigmas = schedule[:, None] * multipliers[None]
    # Parity: a frame that the network is told to be clean does not move, whatever its level.
    step_sizes = np.where(timesteps == 0, np.float32(0), sigmas[1:] - sigmas[:-1])
    return NoiseTable(
        sigmas=sigmas,
        timesteps=timesteps.astype(np.float32),
        step_sizes=step_sizes,
        levels=schedule[:-1],
    )
