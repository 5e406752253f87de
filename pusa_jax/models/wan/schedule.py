"""Wan's noise table: the shifted schedule, and the timesteps 1000 * sigma the DiT is told."""

from typing import Literal

import ml_dtypes
import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable, pusa_schedule
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
      settings: steps, shift, and whether timesteps are rounded as in the original.
      multipliers: one per latent frame, 1 where free.
      is_conditioned: whether frames are given; the original truncates timesteps then.
      compute_dtype: of the DiT; the original rounds timesteps to it.
    """
    original = settings.original_timesteps
    return noise_table(
        settings.num_steps,
        settings.shift,
        multipliers,
        rounding="bfloat16" if original and compute_dtype == "bfloat16" else "none",
        truncate=original and is_conditioned,
    )


def noise_table(
    num_steps: int,
    shift: float,
    multipliers: Float[np.ndarray, " F"],
    *,
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
      rounding: dtype the timesteps pass through.
      truncate: whether to truncate them to whole numbers.
    """
    multipliers = np.asarray(multipliers, np.float32)
    schedule = pusa_schedule(num_steps, shift)
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
