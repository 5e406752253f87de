"""Latte's plan of a run: some of the 1000 steps of its process, an index into them for each frame.

A free frame falls through all of them. A frame given with multiplier m has index m * index, rounded
half to even, and waits where that is the same as at the step before. With multiplier 0 it enters
clean and has index 0 throughout; the original predicts it anew at every step, so that it drifts.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from pusa_jax.diffusion.ancestral import ancestral_rows
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.ddim import ddim_rows
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.linear_betas import TIMESTEPS, linear_betas, respaced
from pusa_jax.typing import Precision

ROWS = {"ddim": ddim_rows, "ddpm": ancestral_rows}
"""Solver -> what makes its rows."""


def sampling_table(
    settings: SamplingConfig,
    multipliers: Float[np.ndarray, " F"],
    *,
    is_conditioned: bool,
    compute_dtype: Precision,
) -> NoiseTable:
    """Plans a run. The table's `sigmas` are sqrt(1 - abar), which solvers do not read.

    Parity: a frame given with multiplier 0 is at index 0 at every step and moves to the guess
    (gaussian_diffusion.py: ddim_sample_loop_i2v), unless `original_conditions` is off: then it
    stays to the last bit. FVDM has no multipliers in between.

    Args:
      settings: solver and steps, and whether frames given exactly drift as in the original.
      multipliers: one per latent frame, 1 where free.
      is_conditioned: whether frames are given, which changes nothing here.
      compute_dtype: of the network, which changes nothing either: it embeds timesteps in float32.

    Raises:
      ValueError: a solver of another process, levels of one's own, or too few or too many steps.
    """
    if settings.solver not in ROWS:
        raise ValueError(f"Latte is sampled with {' or '.join(ROWS)}, not with {settings.solver}.")
    if settings.levels is not None:
        raise ValueError(
            "levels of one's own are for flow matching; Latte takes a number of steps."
        )
    if not 2 <= settings.num_steps <= TIMESTEPS:
        raise ValueError(f"Latte is sampled in 2 to {TIMESTEPS} steps, got {settings.num_steps}.")
    process, is_given_exactly = respaced(str(settings.num_steps)), multipliers == 0
    falling = np.arange(settings.num_steps)[::-1]  # [S]
    indices, moves = _indices(falling, multipliers)
    moves = np.where(is_given_exactly, settings.original_conditions, moves)
    noise = np.sqrt(1 - process.alphas_cumprod).astype(np.float32)
    end = np.zeros((1, len(multipliers)), np.float32)
    sigmas = np.append(noise[indices], end, axis=0)
    if not settings.original_conditions:
        sigmas = np.where(is_given_exactly, np.float32(0), sigmas)
    told = process.timesteps[indices].astype(np.float32)
    return NoiseTable(
        sigmas=sigmas,
        timesteps=told,
        step_sizes=sigmas[1:] - sigmas[:-1],
        levels=noise[falling],
        entry=_entry(told[0], is_clean=is_given_exactly, is_noise=multipliers == 1),
        coefficients=ROWS[settings.solver](process, indices, moves),
    )


def _indices(
    falling: Int[np.ndarray, " S"], multipliers: Float[np.ndarray, " F"]
) -> tuple[Int[np.ndarray, "S F"], Bool[np.ndarray, "S F"]]:
    """Index of each frame at each step, and whether its next one is lower; the last step ends.

    In float32, where 0.7 * 5 is 3.5.
    """
    factors = np.asarray(multipliers, np.float32)
    indices = np.rint(falling[:, None].astype(np.float32) * factors).astype(int)
    moves = np.ones(indices.shape, bool)
    moves[:-1] = indices[1:] < indices[:-1]
    return indices, moves


def renoised(table: NoiseTable) -> NoiseTable:
    """The plan of a run in which every frame enters noised to the level that it claims.

    FVDM makes the later chunks of a long video so: the frames carried over, given with multiplier
    0, enter as 0.99995 * clean + 0.01 * noise, and free frames as 0.99998 * noise beside zeros
    (sample_video_long.py, by q_sample). Call it on the table of every chunk but the first, and
    draw noise anew for each. Frames that are frozen still enter clean.

    Args:
      table: of `sampling_table`.
    """
    is_frozen = np.asarray(table.sigmas)[0] == 0
    return table._replace(entry=_entry(np.asarray(table.timesteps)[0], is_clean=is_frozen))


def _entry(
    told: Float[np.ndarray, " F"],
    *,
    is_clean: Bool[np.ndarray, " F"],
    is_noise: Bool[np.ndarray, " F"] | Literal[False] = False,
) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
    """Factors of clean and noise: of clean frames, of nothing but noise, or noised as told."""
    abar = linear_betas().alphas_cumprod[told.astype(int)]
    kept = np.where(is_clean, 1, np.where(is_noise, 0, abar))
    return np.sqrt(kept).astype(np.float32), np.sqrt(1 - kept).astype(np.float32)
