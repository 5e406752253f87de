"""Ancestral sampling of variance-preserving diffusion (DDPM, arXiv 2006.11239): mean plus noise.

    x' = mean of x[t-1] given x and the guess of the clean latents + noise * standard deviation

The network says where the log variance lies between its smallest and largest value, beside the
noise that it predicts (arXiv 2102.09672, section 3.1). The last step of a frame adds no noise.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pusa_jax.diffusion.ddim import (
    Factor,
    GuessFactors,
    guess_clean,
    guess_factors,
    stepped,
    widen,
    without_levels,
)
from pusa_jax.diffusion.linear_betas import LinearBetas
from pusa_jax.diffusion.solvers import EulerState, Solver
from pusa_jax.typing import Latents, Prediction


class AncestralRows(NamedTuple):
    """The table of ancestral sampling; leaves [S, F], or [F] of one step.

    Attributes:
      guess: of the guess of the clean latents.
      of_clean: factor of the guess in the mean.
      of_latents: factor of the latents in the mean.
      log_lowest: end of the range of the log variance where the network says -1.
      log_highest: end where it says 1.
      moves: whether a frame takes the step, or stays as it is.
      spreads: 1 where noise is added, 0 at index 0.
      noise: fresh, [B, F, H, W, C] of one step; None in a table, a run draws it.
    """

    guess: GuessFactors
    of_clean: Factor
    of_latents: Factor
    log_lowest: Factor
    log_highest: Factor
    moves: Bool[Array | np.ndarray, "*axes"]
    spreads: Factor
    noise: Float[Array | np.ndarray, "*wide"] | None = None


def ancestral_rows(
    process: LinearBetas, indices: Int[np.ndarray, "*axes"], moves: Bool[np.ndarray, "*axes"]
) -> AncestralRows:
    """The steps from each index to the one before, from index 0 to the guess itself.

    Args:
      process: whose steps are taken.
      indices: where every step starts, for each frame.
      moves: whether a frame takes the step.
    """
    return AncestralRows(
        guess=guess_factors(process, indices),
        of_clean=process.posterior_mean_of_clean[indices].astype(np.float32),
        of_latents=process.posterior_mean_of_noised[indices].astype(np.float32),
        log_lowest=process.posterior_log_variance[indices].astype(np.float32),
        log_highest=process.log_betas[indices].astype(np.float32),
        moves=moves,
        spreads=(indices != 0).astype(np.float32),
    )


def posterior_mean(clean: Latents, latents: Latents, row: AncestralRows) -> Latents:
    """Mean of the latents one step before, given them and the clean ones."""
    return widen(row.of_clean) * clean + widen(row.of_latents) * latents


def learned_log_variance(said: Latents, row: AncestralRows) -> Latents:
    """Log variance of the step.

    Args:
      said: by the network, -1 for the smallest and 1 for the largest; it may go beyond.
      row: the step.
    """
    share = (said + 1) / 2
    return share * widen(row.log_highest) + (1 - share) * widen(row.log_lowest)


def ancestral_step(state: EulerState, prediction: Prediction, row: AncestralRows) -> EulerState:
    """One step of every frame; see the module.

    Args:
      state: the latents.
      prediction: of the noise in them, and of the variance in as many channels behind it.
      row: the step, with its noise.

    Raises:
      ValueError: a row without noise.
    """
    if row.noise is None:
        raise ValueError("ancestral sampling needs fresh noise in every row, got a row without.")
    x = state.latents.astype(jnp.float32)
    noise, said = jnp.split(prediction.astype(jnp.float32), 2, axis=-1)
    mean = posterior_mean(guess_clean(x, noise, row.guess), x, row)
    deviation = jnp.exp(0.5 * learned_log_variance(said, row))
    return stepped(state, mean + widen(row.spreads) * deviation * row.noise, row.moves)


ANCESTRAL = Solver(
    coefficients=without_levels,
    init=lambda x: EulerState(latents=x),
    step=ancestral_step,
    is_random=True,
)
"""With the learned variance of FVDM and Latte."""
