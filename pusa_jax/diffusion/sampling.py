"""The one sampling loop. Every task is a table of noise levels; the loop does not know tasks.

    noise, clean, multipliers --> start()  --> latents at the table's first row
    for each row:  v = velocity(latents, timesteps told)
                   state = solver.step(state, v, row)          Euler: latents += v * step_sizes

`take_step` is one turn of the loop. `sample` runs it from the host, a compiled program per step, so
that a run can be watched and its network changed; `integrate` runs it inside one program.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.diffusion.flow import NoiseTable, per_frame
from pusa_jax.diffusion.solvers import EULER, Solver
from pusa_jax.typing import Latents, Velocity


class Row(NamedTuple):
    """One step of a run, or with a first axis S all of them.

    Attributes:
      timesteps: what the network is told about each frame, [F]; [1] where all share a level.
      coefficients: what the solver needs to know of the step, see `Solver.coefficients`.
    """

    timesteps: Float[Array | np.ndarray, " F"] | Float[Array | np.ndarray, "S F"]
    coefficients: Any


def rows_of(
    table: NoiseTable, solver: Solver = EULER, is_new: Sequence[bool] | None = None
) -> list[Row]:
    """The steps of a table for a solver, on the host.

    Rows that the table brings along are taken as they are. Else solvers for any table go by its
    step sizes, which may stop a frame early, and others go by its levels.

    Args:
      table: the plan.
      solver: takes the steps.
      is_new: see `Solver.of_step_sizes`.

    Raises:
      ValueError: a multistep solver, and frames that move along different levels; or a solver that
        does not go by levels, and a table without rows for it.
    """
    timesteps = np.asarray(table.timesteps)
    steps = table.coefficients
    if steps is None and solver.of_step_sizes is not None:
        steps = solver.of_step_sizes(np.asarray(table.step_sizes), is_new)
    elif steps is None:
        steps = solver.coefficients(np.asarray(table.sigmas))
    leaves, structure = jax.tree.flatten(steps)
    by_step = [structure.unflatten(step) for step in zip(*leaves, strict=True)]
    return [Row(*pair) for pair in zip(timesteps, by_step, strict=True)]


def start(clean: Latents, noise: Latents, table: NoiseTable) -> Latents:
    """Latents entering the first step: noise, given frames mixed in at their own first level."""
    if table.entry is None:
        levels = jnp.asarray(table.sigmas[0])
        of_clean, of_noise = 1 - levels, levels
    else:
        of_clean, of_noise = table.entry
    of_clean, of_noise = (per_frame(_every_clip(factor, clean)) for factor in (of_clean, of_noise))
    return of_clean * clean + of_noise * noise


def take_step(velocity: Velocity, solver: Solver, state: Any, row: Row) -> Any:
    """One turn of the loop: asks the network, lets the solver step.

    Args:
      velocity: network with its prompt bound, see `typing.Velocity`.
      solver: Euler for any table; multistep solvers where all frames that move share a level.
      state: the solver's, see `Solver.init`.
      row: the step.

    Returns:
      the solver's state at the next level.
    """
    v = velocity(state.latents, _every_clip(row.timesteps, state.latents))  # dx/dsigma
    return solver.step(state, v, row.coefficients)


def sample(
    step: Callable[[Any, int], Any],
    state: Any,
    num_steps: int,
    on_step: Callable[[int, Any], None] = lambda done, state: None,
) -> Any:
    """The loop on the host.

    Args:
      step: (state, index of the step) -> state; usually a compiled `take_step`.
      state: the solver's, and whatever else `step` carries along.
      num_steps: how many steps there are.
      on_step: told how many steps are done, and the state behind them.

    Returns:
      the state after the last step.
    """
    for i in range(num_steps):
        state = step(state, i)
        on_step(i + 1, state)
    return state


def integrate(velocity: Velocity, state: Any, rows: Row, solver: Solver) -> Any:
    """The loop inside one program; `rows` have a first axis S. See `take_step`."""

    def turn(state, row):
        return take_step(velocity, solver, state, row), None

    return jax.lax.scan(turn, state, jax.tree.map(jnp.asarray, rows))[0]


def with_noise(row: Row, noise: Latents) -> Row:
    """A step of a random solver, with the noise it adds."""
    return row._replace(coefficients=row.coefficients._replace(noise=noise))


def denoise(
    velocity: Velocity, latents: Latents, table: NoiseTable, solver: Solver = EULER
) -> Latents:
    """Goes along a table of per-frame noise levels in one program, by Euler steps by default.

    Args:
      velocity: network with its prompt bound, see `typing.Velocity`.
      latents: at the levels of the table's first row.
      table: the plan; it brings along the rows of a solver other than Euler.
      solver: takes the steps.

    Returns:
      latents at the levels of the table's last row, same dtype as given.
    """
    steps = table.step_sizes if table.coefficients is None else table.coefficients
    rows = Row(table.timesteps, steps)
    return integrate(velocity, solver.init(latents), rows, solver).latents


def _every_clip(
    row: Float[Array, " F"] | Float[np.ndarray, " F"], latents: Latents
) -> Float[Array, "B F"]:
    return jnp.broadcast_to(jnp.asarray(row)[None], latents.shape[:2])
