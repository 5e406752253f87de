"""Wan's noise table: the shifted schedule, and the timesteps 1000 * sigma the DiT is told."""

from typing import Literal

import ml_dtypes
import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.flow import NoiseTable, pusa_schedule

Rounding = Literal["none", "bfloat16"]


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
    told = (schedule[:-1] * np.float32(1000)).astype(dtype).astype(np.float32)
    timesteps = (told[:, None] * multipliers[None]).astype(dtype)
    if truncate:
        timesteps = np.trunc(timesteps.astype(np.float32)).astype(dtype)
    return NoiseTable(
        sigmas=schedule[:, None] * multipliers[None], timesteps=timesteps.astype(np.float32)
    )
