"""One run planned: its noise table, the rows its solver steps along, and the noise it draws."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.sampling import Row, rows_of
from pusa_jax.diffusion.seeds import random_key
from pusa_jax.diffusion.solvers import Solver
from pusa_jax.inference.settings import (
    Configs,
    Given,
    latent_shape,
    new_functions,
    plan_run,
)
from pusa_jax.models.family import Family
from pusa_jax.typing import Latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is decided of a run before anything is computed.

    Attributes:
      settings: of the run.
      shape: of the latents of a clip, [1, F, h, w, C].
      given: latent frames in their places.
      table: noise levels and timesteps.
      solver: takes the steps.
      seeds: of the noise of each clip.
    """

    settings: SamplingConfig
    shape: tuple[int, int, int, int, int]
    given: Sequence[Any]
    table: NoiseTable
    solver: Solver
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls,
        family: Family,
        settings: SamplingConfig,
        given: Sequence[Given],
        configs: Configs,
        seeds: Sequence[int] = (),
    ) -> "Plan":
        """Plans a run of a clip for each seed, by default that of the settings.

        Raises as `settings.plan_run`.
        """
        return cls(
            settings=settings,
            shape=latent_shape(settings, configs),
            given=given,
            table=plan_run(family, settings, given, configs),
            solver=family.process.solvers[settings.solver],
            seeds=tuple(seeds) or (settings.seed,),
        )

    def rows(self, served: Sequence[int], scales: Sequence[float]) -> list[Row]:
        """The steps, of which solvers that look back know where expert or guidance change."""
        return rows_of(self.table, self.solver, new_functions(served, scales))

    @property
    def draws(self) -> int:
        """How often noise is drawn: at the start, and after each step by a random solver."""
        return 1 + self.table.num_steps * self.solver.is_random

    def draws_from(self, noise: Latents, pieces: int) -> np.ndarray:
        """Noise that is given for all draws of all pieces, [N, 1, F, h, w, C].

        Raises:
          ValueError: it is not of the latents' size, or there are more or fewer draws.
        """
        array = np.asarray(noise)
        wanted = (pieces * self.draws, *self.shape[1:])
        if array.shape[-4:] != wanted[1:] or array.size != math.prod(wanted):
            raise ValueError(
                f"noise must be of shape {[*wanted]}, [draws, F, h, w, C], got {[*array.shape]}."
            )
        return array.reshape(-1, *self.shape)

    def noise(self, number: int) -> Latents:
        """A draw, standard normal; the first is the one that a seed always meant.

        A clip has the noise of its seed, whichever others lie beside it.
        """

        def of_clip(seed: int) -> Latents:
            key = random_key(seed)
            key = jax.random.fold_in(key, number) if number else key
            return jax.random.normal(key, self.shape, jnp.float32)

        return jnp.concatenate([of_clip(seed) for seed in self.seeds])

    def continued(self, family: Family) -> "Plan":
        """The same, for a piece that begins with the end of another."""
        change = family.renoised or (lambda table: table)
        return dataclasses.replace(self, table=change(self.table))
