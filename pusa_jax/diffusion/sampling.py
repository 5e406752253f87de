"""The one sampling loop. Every task is a table of noise levels; the loop does not know tasks.

    noise, clean, multipliers --> start()  --> latents at the table's first row
    for each row:  v = velocity(latents, timesteps[i]);  latents += v * (sigmas[i+1] - sigmas[i])

A run may be cut at any row (`NoiseTable.part`): the parts follow each other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.diffusion.flow import NoiseTable, interpolate
from pusa_jax.diffusion.solvers import EULER, Solver
from pusa_jax.typing import Latents, Velocity


def start(clean: Latents, noise: Latents, table: NoiseTable) -> Latents:
    """Latents entering the first step: noise, given frames mixed in at their own first level."""
    return interpolate(clean, noise, _every_clip(table.sigmas[0], clean))


def integrate(
    velocity: Velocity,
    state: Any,
    timesteps: Float[Array, "S F"] | Float[np.ndarray, "S F"],
    rows: Any,
    solver: Solver,
) -> Any:
    """The loop: asks the network, lets the solver step, once per row.

    Args:
      velocity: network with its prompt bound, see `typing.Velocity`.
      state: the solver's, see `Solver.init`.
      timesteps: what the network is told at each step; F = 1 where all frames share a level.
      rows: the solver's table for these steps, see `Solver.coefficients`.
      solver: Euler for any table; multistep solvers where all frames share a level.

    Returns:
      the solver's state after the last row.
    """

    def step(state, told_and_row):
        told, row = told_and_row
        v = velocity(state.latents, _every_clip(told, state.latents))
        return solver.step(state, v, row), None

    return jax.lax.scan(step, state, (jnp.asarray(timesteps), rows))[0]


def denoise(velocity: Velocity, latents: Latents, table: NoiseTable) -> Latents:
    """Integrates the flow by Euler steps along a table of per-frame noise levels.

    Args:
      velocity: network with its prompt bound, see `typing.Velocity`.
      latents: at the levels of the table's first row.
      table: a frame whose timestep is 0 does not move.

    Returns:
      latents at the levels of the table's last row, same dtype as given.
    """
    rows = table.step_sizes()
    return integrate(velocity, EULER.init(latents), table.timesteps, rows, EULER).latents


def _every_clip(
    row: Float[Array, " F"] | Float[np.ndarray, " F"], latents: Latents
) -> Float[Array, "B F"]:
    return jnp.broadcast_to(jnp.asarray(row)[None], latents.shape[:2])
