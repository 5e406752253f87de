"""The one sampling loop. Every task is a table of noise levels; the loop does not know tasks.

    noise, clean, multipliers --> start()  --> latents at the table's first row
    for each row:  v = velocity(latents, timesteps[i]);  latents += v * (sigmas[i+1] - sigmas[i])

A run may be cut at any row (`NoiseTable.part`): the parts follow each other.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.diffusion.flow import NoiseTable, interpolate, per_frame
from pusa_jax.typing import Latents, Velocity


def start(clean: Latents, noise: Latents, table: NoiseTable) -> Latents:
    """Latents entering the first step: noise, given frames mixed in at their own first level."""
    return interpolate(clean, noise, _every_clip(table.sigmas[0], clean))


def denoise(velocity: Velocity, latents: Latents, table: NoiseTable) -> Latents:
    """Integrates the flow by Euler steps along a table of per-frame noise levels.

    Args:
      velocity: network with its prompt bound, see `typing.Velocity`.
      latents: at the levels of the table's first row.
      table: a frame whose timestep is 0 does not move.

    Returns:
      latents at the levels of the table's last row, same dtype as given.
    """

    def step(x, row):
        timesteps, step_sizes = row
        v = velocity(x, _every_clip(timesteps, x))
        return (x + v * per_frame(_every_clip(step_sizes, x))).astype(x.dtype), None

    rows = (jnp.asarray(table.timesteps), table.step_sizes())
    return jax.lax.scan(step, latents, rows)[0]


def _every_clip(
    row: Float[Array, " F"] | Float[np.ndarray, " F"], latents: Latents
) -> Float[Array, "B F"]:
    return jnp.broadcast_to(jnp.asarray(row)[None], latents.shape[:2])
