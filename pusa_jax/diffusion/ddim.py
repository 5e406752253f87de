"""DDIM: the solver of variance-preserving diffusion that adds no noise (arXiv 2010.02502).

    guess = (x - sqrt(1 - abar) * noise predicted) / sqrt(abar)
    x'    = sqrt(abar') * guess + sqrt(1 - abar' - spread^2) * noise of the guess + spread * noise

`spread`, eta times that of the ancestral solver, is 0 here unless asked for. Rows are made on the
host from an index into a process for each step and frame: frames need not share one.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pusa_jax.diffusion.linear_betas import LinearBetas
from pusa_jax.diffusion.solvers import EulerState, Levels, Solver
from pusa_jax.typing import Latents, Prediction

Factor = Float[Array | np.ndarray, "*axes"]


class GuessFactors(NamedTuple):
    """The guess of the clean latents: latents * `of_latents` - predicted noise * `of_noise`."""

    of_latents: Factor
    of_noise: Factor


def guess_factors(process: LinearBetas, indices: Int[np.ndarray, "*axes"]) -> GuessFactors:
    """Gathers them, in float64 up to the rounding to float32."""
    abar = process.alphas_cumprod[indices]
    return GuessFactors(
        of_latents=np.sqrt(1 / abar).astype(np.float32),
        of_noise=np.sqrt(1 / abar - 1).astype(np.float32),
    )


def guess_clean(
    latents: Latents, noise: Latents, factors: GuessFactors, limit: float = np.inf
) -> Latents:
    """What the clean latents would be if the predicted noise were right.

    Args:
      latents: at the index that the factors are of.
      noise: predicted there.
      factors: one per frame, for all clips [F] or for each [B, F].
      limit: what is further from 0 is brought back to it; 1 for pixels, latents have none.
    """
    guess = widen(factors.of_latents) * latents - widen(factors.of_noise) * noise
    return jnp.clip(guess, -limit, limit)


class DDIMRows(NamedTuple):
    """The table of DDIM; leaves [S, F], or [F] of one step.

    Attributes:
      guess: of the guess of the clean latents.
      to_clean: factor of the guess in the next latents.
      to_noise: factor of the noise that the guess leaves over.
      moves: whether a frame takes the step, or stays as it is.
      spread: factor of fresh noise.
      noise: fresh, [B, F, H, W, C] of one step; None where the spread is 0.
    """

    guess: GuessFactors
    to_clean: Factor
    to_noise: Factor
    moves: Bool[Array | np.ndarray, "*axes"]
    spread: Factor
    noise: Float[Array | np.ndarray, "*wide"] | None = None


def ddim_rows(
    process: LinearBetas,
    indices: Int[np.ndarray, "*axes"],
    moves: Bool[np.ndarray, "*axes"],
    *,
    eta: float = 0.0,
    to_more_noise: bool = False,
) -> DDIMRows:
    """The steps from each index to the one before, from index 0 to clean.

    Parity: what is gathered is rounded to float32 before it is computed with (FVDM's
    gaussian_diffusion.py: ddim_sample), which leaves 1 - 0.9999 with four digits.

    Args:
      process: whose steps are taken.
      indices: where every step starts, for each frame.
      moves: whether a frame takes the step.
      eta: 0 adds no noise, 1 as much as the posterior has.
      to_more_noise: whether steps lead to the index after instead, as when a clip is inverted; from
        the last index to pure noise.

    Raises:
      ValueError: steps to more noise with an eta.
    """
    if to_more_noise and eta:
        raise ValueError(f"steps to more noise have eta 0, got {eta}.")
    abar = process.alphas_cumprod[indices].astype(np.float32)
    ends = process.alphas_cumprod_prev
    if to_more_noise:
        ends = np.append(process.alphas_cumprod[1:], 0.0)
    end, one = ends[indices].astype(np.float32), np.float32(1)
    spread = np.zeros_like(end)
    if eta:
        spread = np.float32(eta) * np.sqrt((one - end) / (one - abar)) * np.sqrt(one - abar / end)
    return DDIMRows(
        guess=guess_factors(process, indices),
        to_clean=np.sqrt(end),
        to_noise=np.sqrt(one - end - spread**2),
        moves=moves,
        spread=spread,
    )


def ddim_step(
    state: EulerState, prediction: Prediction, row: DDIMRows, limit: float = np.inf
) -> EulerState:
    """One step of every frame; see the module.

    Args:
      state: the latents.
      prediction: of the noise in them; channels beyond theirs play no part.
      row: the step.
      limit: of the guess, see `guess_clean`.
    """
    x = state.latents.astype(jnp.float32)
    noise = prediction[..., : x.shape[-1]].astype(jnp.float32)
    guess = guess_clean(x, noise, row.guess, limit)
    # Parity: the original takes the noise from the guess, which may have been limited.
    left_over = (widen(row.guess.of_latents) * x - guess) / widen(row.guess.of_noise)
    moved = widen(row.to_clean) * guess + widen(row.to_noise) * left_over
    if row.noise is not None:
        moved = moved + widen(row.spread) * row.noise
    return stepped(state, moved, row.moves)


def stepped(
    state: EulerState, moved: Latents, moves: Bool[Array | np.ndarray, "*axes"]
) -> EulerState:
    """The moved latents of the frames that move, the others to the last bit as they were."""
    latents = jnp.where(widen(moves), moved.astype(state.latents.dtype), state.latents)
    return EulerState(latents=latents)


def widen(factor: Array | np.ndarray) -> Array:
    """One number per frame, for all clips or for each, so that it multiplies latents."""
    return jnp.atleast_2d(factor)[..., None, None, None]  # [1 or B, F, 1, 1, 1]


def without_levels(sigmas: Levels) -> None:
    """Stands for `Solver.coefficients` where rows come with the table.

    Raises:
      ValueError: always.
    """
    raise ValueError(
        "a solver of variance-preserving diffusion takes the rows of its model's table; noise "
        f"levels, of which {len(sigmas)} were given, are for those of flow matching."
    )


DDIM = Solver(coefficients=without_levels, init=lambda x: EulerState(latents=x), step=ddim_step)
"""DDIM with eta 0, as FVDM and Latte sample."""
