"""The step of a run that leaves out blocks: two programs, one that computes and one that reuses."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.guidance import away_from
from pusa_jax.diffusion.sampling import Row, take_step
from pusa_jax.diffusion.solvers import Solver
from pusa_jax.inference.mesh_choice import is_together
from pusa_jax.inference.plan import Plan
from pusa_jax.inference.settings import new_functions
from pusa_jax.models.family import Family, Prepared
from pusa_jax.typing import Latents, Prediction, Timesteps


def check_reusing(settings: SamplingConfig, mesh: Mesh) -> None:
    """Raises ValueError if blocks are to be left out on a mesh that runs both passes as one."""
    if settings.teacache is not None and is_together(mesh):
        raise ValueError("TeaCache runs the passes of guidance in turn: give a mesh with data=1.")


def steps_left_out(
    family: Family,
    plan: Plan,
    take: Callable[[int], Any],
    served: Sequence[int],
    scales: Sequence[float],
) -> list[bool] | None:
    """Which steps of a plan are without blocks; None where no cache is asked for.

    Args:
      family: has the rule.
      plan: the run.
      take: number of an expert -> its network.
      served: which expert takes each step.
      scales: with which guidance.
    """
    cache = plan.settings.teacache
    if cache is None or family.reuse is None:
        return None
    told = np.asarray(plan.table.timesteps)
    return family.reuse.left_out(cache, take, told, served, new_functions(served, scales))


@dataclasses.dataclass(kw_only=True)
class ReusingStep:
    """Takes the steps of one run in turn.

    Attributes:
      family: of the denoiser.
      mesh: of its weights.
      solver: takes the steps.
      reuses: which steps use the residuals of the last one that did not.
    """

    family: Family
    mesh: Mesh
    solver: Solver
    reuses: Sequence[bool]

    def __post_init__(self):
        self._done, self._residuals = 0, None

    def __call__(
        self, dit: nnx.Module, prepared: Prepared, scale: jax.Array, state: Any, row: Row
    ) -> Any:
        """The next step; see `step.jitted_step`."""
        given = self._residuals if self.reuses[self._done] else None
        self._done += 1
        program = _program(self.family, self.mesh, self.solver)
        with jax.set_mesh(self.mesh):
            state, self._residuals = program(dit, prepared, scale, state, row, given)
        return state


@functools.lru_cache(maxsize=8)
def _program(family: Family, mesh: Mesh, solver: Solver) -> Any:
    """The program of a step, compiled once with residuals and once without."""
    assert family.reuse is not None
    reused = family.reuse.velocity

    def step(dit, prepared, scale, state, row, residuals):
        """A step, and the residual of each pass [2, B, F, S, D]; zeros of one that is not run."""
        kept = []

        def velocity(latents: Latents, timesteps: Timesteps) -> Prediction:
            """Both passes in turn, as `guidance.guided` runs them."""

            def one(i, given):
                text = jax.tree.map(lambda leaf: leaf[i], prepared)
                return reused(dit, latents, timesteps, text, given)

            def one_pass(i, carry):
                velocities, residual = carry
                v, r = one(i, None if residuals is None else residuals[i])
                return velocities.at[i].set(v), residual.at[i].set(r)

            shapes = jax.eval_shape(lambda: one(0, None))
            empty = tuple(jnp.zeros((2, *leaf.shape), leaf.dtype) for leaf in shapes)
            passes = jnp.where(scale == 1, 1, 2)
            (prompt, negative), residual = jax.lax.fori_loop(0, passes, one_pass, empty)
            kept.append(residual)
            return away_from(negative, prompt, scale, latents.shape[-1])

        return take_step(velocity, solver, state, row), kept[0]

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()), keep_unused=True)
