"""A second order for any noise table: the velocity of the step before bends the line of Euler's.

    x' = x + h (v + r / 2 (v - v_before)),   r = h / h_before

This is the two-point Adams-Bashforth method with unequal steps, for every latent frame along its
own levels. A frame takes an Euler step where it has none to look back to: at the start, and when it
did not move before. One that does not move stays as it is to the last bit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.diffusion.flow import per_frame
from pusa_jax.diffusion.solvers import Levels, Solver
from pusa_jax.typing import Latents

FEWEST = 8
"""Steps of a run that looks back. In fewer, neighbours are so far apart that it does harm."""


class AdamsState(NamedTuple):
    """The latents, and the velocity of the step before in float32; zeros before the first."""

    latents: Latents
    velocity: Float[Array, "B F H W C"]


def adams_rows(
    step_sizes: Float[np.ndarray, "S F"], is_new: Sequence[bool] | None = None
) -> Float[np.ndarray, "S 2 F"]:
    """Weights of the velocity of each step and of the one before.

    Args:
      step_sizes: change of level per step and frame.
      is_new: steps whose velocity is another function than that of the step before, as where an
        expert or the guidance scale changes: they do not look back. None is at no step.
    """
    h = np.asarray(step_sizes, np.float64)  # [S, F]
    before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
    looks_back = (before != 0) & (len(h) >= FEWEST)
    if is_new is not None:
        looks_back &= ~np.asarray(is_new)[:, None]
    ratio = np.divide(h, before, out=np.zeros_like(h), where=looks_back)
    return np.stack([h * (1 + ratio / 2), -h * ratio / 2], axis=1).astype(np.float32)


def adams_coefficients(sigmas: Levels) -> Float[np.ndarray, "S 2 F"]:
    """Rows of levels alone; F = 1 where all frames share them."""
    return adams_rows(np.diff(np.asarray(sigmas, np.float64).reshape(len(sigmas), -1), axis=0))


def adams_step(state: AdamsState, velocity: Latents, row: Float[Array, "2 f"]) -> AdamsState:
    """Moves every frame by its two weights."""
    now, before = (per_frame(weight[None]) for weight in row)  # [1, f, 1, 1, 1] each
    velocity = velocity.astype(jnp.float32)
    moved = state.latents + now * velocity + before * state.velocity
    return AdamsState(latents=moved.astype(state.latents.dtype), velocity=velocity)


AB2 = Solver(
    coefficients=adams_coefficients,
    of_step_sizes=adams_rows,
    init=lambda x: AdamsState(latents=x, velocity=jnp.zeros(x.shape, jnp.float32)),
    step=adams_step,
)
