"""The flow-matching algebra: noise levels, the straight path between clean and noise, schedules.

A noise level sigma runs from 1 (pure noise) to 0 (clean): x = (1 - sigma) * clean + sigma * noise,
and networks predict dx/dsigma = noise - clean. Everything is per latent frame: sigmas are [B, F].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.typing import Latents, Sigmas


def per_frame(levels: Sigmas) -> Float[Array, "B F 1 1 1"]:
    """Widens one number per latent frame so that it multiplies latents."""
    return levels[:, :, None, None, None]


def interpolate(clean: Latents, noise: Latents, sigmas: Sigmas) -> Latents:
    """Moves each latent frame along the straight path from clean to noise.

    Args:
      clean: normalised VAE latents, about unit variance.
      noise: standard normal, same shape.
      sigmas: noise level per frame in [0, 1]; 0 returns `clean`, 1 returns `noise` exactly.

    Returns:
      (1 - sigma) * clean + sigma * noise.
    """
    sigma = per_frame(sigmas)
    return (1 - sigma) * clean + sigma * noise


def velocity_target(clean: Latents, noise: Latents) -> Latents:
    """What the network learns to predict, noise - clean; the same at every noise level."""
    return noise - clean


def pusa_schedule(
    num_steps: int, shift: float, strength: float = 1.0
) -> Float[np.ndarray, " steps_and_end"]:
    """Decreasing sigmas of one run: evenly spaced levels, shifted towards noise, ending in 0.

    sigma = shift * u / (1 + (shift - 1) * u) for u = strength * (1 - i / num_steps), i < num_steps.

    Parity: float32 operation by operation as torch.linspace and the original scheduler do it,
    because the original truncates products of these numbers to whole timesteps, some on the edge.

    Args:
      num_steps: solver steps S, at least 1.
      shift: 1 leaves the levels evenly spaced; Wan and Pusa use 5.
      strength: first unshifted level; below 1 a run starts from partly noised latents.

    Returns:
      float32 [S + 1].

    Raises:
      ValueError: num_steps < 1, shift <= 0 or strength outside (0, 1].
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}.")
    if not 0 < shift < np.inf:
        raise ValueError(f"shift must be a positive number, got {shift}.")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}.")
    one, first, spread = np.float32(1), np.float32(strength), np.float32(shift - 1)
    gap = -first / np.float32(num_steps)
    index = np.arange(num_steps + 1, dtype=np.float32)
    from_start, from_end = first + gap * index, -gap * (np.float32(num_steps) - index)
    levels = np.where(index < (num_steps + 1) // 2, from_start, from_end)
    return np.float32(shift) * levels / (one + spread * levels)


class NoiseTable(NamedTuple):
    """The whole plan of a sampling run: a schedule times one multiplier per latent frame.

    Attributes:
      sigmas: noise level of each frame before every step and after the last, [S + 1, F].
      timesteps: what the network is told about each frame at each step, in its own units, [S, F]. A
        table of its own because originals round it while their solvers step by exact sigmas.
      step_sizes: change of sigma per step and frame, [S, F]; a family may stop a frame early.
      levels: scheduled noise level of each step, before multipliers, [S]; experts go by it.
      entry: what each frame is made of when a run starts, factors of clean and of noise, each [F];
        None is where the path has the first of `sigmas`. Solvers that cannot compute with level 1
        start just below it, from pure noise all the same.
      coefficients: rows of a solver that does not go by noise levels, with a first axis S.
    """

    sigmas: Float[Array | np.ndarray, "steps_and_end F"]
    timesteps: Float[Array | np.ndarray, "S F"]
    step_sizes: Float[Array | np.ndarray, "S F"]
    levels: Float[Array | np.ndarray, " S"]
    entry: tuple[Float[Array | np.ndarray, " F"], Float[Array | np.ndarray, " F"]] | None = None
    coefficients: Any = None

    @property
    def num_steps(self) -> int:
        """Solver steps S."""
        return self.timesteps.shape[0]

    def part(self, start: int, stop: int) -> "NoiseTable":
        """Steps start..stop of the plan: for progress, or to change the network in mid-run."""
        return NoiseTable(
            sigmas=self.sigmas[start : stop + 1],
            timesteps=self.timesteps[start:stop],
            step_sizes=self.step_sizes[start:stop],
            levels=self.levels[start:stop],
            coefficients=jax.tree.map(lambda leaf: leaf[start:stop], self.coefficients),
        )

    def thinned(self, rows: Sequence[int]) -> "NoiseTable":
        """The steps that start from some of the levels only, each to the next of them.

        With Euler steps that is to use the velocity of each of these again until the next, step by
        step of the whole table.

        Args:
          rows: rising, from 0.

        Raises:
          ValueError: a table with rows of a solver that does not go by levels.
        """
        if self.coefficients is not None:
            raise ValueError(
                "a list of rows is for flow matching; this model takes a number of steps."
            )
        chosen = np.asarray(rows)
        return NoiseTable(
            sigmas=np.asarray(self.sigmas)[[*chosen, self.num_steps]],
            timesteps=np.asarray(self.timesteps)[chosen],
            step_sizes=np.add.reduceat(np.asarray(self.step_sizes), chosen),
            levels=np.asarray(self.levels)[chosen],
            entry=self.entry,
        )
