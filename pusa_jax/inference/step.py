"""One guided step of a run: the program that is compiled, planned and benchmarked.

Where nobody watches, as in training and evaluation, a whole run is one program: `sample_at_once`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.guidance import guided, guided_together
from pusa_jax.diffusion.sampling import Row, denoise, start, take_step
from pusa_jax.diffusion.solvers import Solver
from pusa_jax.inference.mesh_choice import is_together
from pusa_jax.models.family import Family, Prepared
from pusa_jax.typing import Latents, Prediction, Text, Timesteps, Velocity


def prepare_prompts(family: Family, dit: nnx.Module, texts: tuple[Text, Text]) -> Prepared:
    """What a denoiser attends to for prompt and negative prompt, as `guide` takes it.

    They are stacked along a new first axis; a mesh that runs the two passes of guidance beside each
    other has them along the batch axis.
    """
    if is_together(jax.sharding.get_abstract_mesh()):
        return family.prepare(dit, jnp.concatenate(texts))
    prompt, negative = (family.prepare(dit, text) for text in texts)
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), prompt, negative)


def guide(family: Family, dit: nnx.Module, prepared: Prepared, scale: jax.Array) -> Velocity:
    """The guided velocity of a denoiser, its passes laid as the mesh has room for them.

    Args:
      family: of the denoiser.
      dit: the denoiser.
      prepared: prompt and negative prompt, see `prepare_prompts`.
      scale: guidance scale; 1 is off.
    """

    def velocity(latents: Latents, timesteps: Timesteps, prompt: Prepared) -> Prediction:
        return family.velocity(dit, latents, timesteps, prompt)

    together = is_together(jax.sharding.get_abstract_mesh())
    return (guided_together if together else guided)(velocity, prepared, scale)


def sample_at_once(
    family: Family,
    dit: nnx.Module,
    texts: tuple[Text, Text],
    clean: Latents,
    noise: Latents,
    table: NoiseTable,
    scale: jax.Array,
) -> Latents:
    """A whole run inside one program: prompts prepared, guided steps along a noise table.

    Args:
      family: of the denoiser.
      dit: the denoiser.
      texts: prompts and negative prompts, each [B, L, E].
      clean: given latents in their places, [B, F, h, w, C].
      noise: standard normal, same shape.
      table: the plan.
      scale: guidance scale; 1 is off.

    Returns:
      latents at the table's last levels.
    """
    velocity = guide(family, dit, prepare_prompts(family, dit, texts), scale)
    return denoise(velocity, start(clean, noise, table), table, family.process.solver)


def jitted_step(family: Family, mesh: Mesh, solver: Solver | None = None) -> Any:
    """The program of one step of a solver, for a mesh that is to be entered while it is lowered.

    Without a solver it is that of the family's process.

    It takes (dit, prepared, scale, state, row), see `diffusion.sampling.take_step`. Weights that a
    step does not read, those that prepare the text, stay among its arguments: they are on the
    devices all the same.
    """

    def step(dit: nnx.Module, prepared: Prepared, scale: jax.Array, state: Any, row: Row) -> Any:
        chosen = solver or family.process.solver
        return take_step(guide(family, dit, prepared, scale), chosen, state, row)

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()), keep_unused=True)
