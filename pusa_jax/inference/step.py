"""One guided step of a run: the program that is compiled, planned and benchmarked."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.guidance import guided, guided_together
from pusa_jax.diffusion.sampling import denoise
from pusa_jax.inference.mesh_choice import is_together
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.typing import Latents, Text

BothTexts = tuple[Float[Array, "*axes L K P"], Float[Array, "*axes L K P"]]
"""Keys and values of prompt and negative prompt, see `project_texts`."""


def velocity_of(dit: WanDiT):
    """The DiT as a function of latents, timesteps and projected text, in float32 at the border."""

    def velocity(latents, timesteps, text):
        return dit(latents, timesteps, text).astype(latents.dtype)

    return velocity


def project_texts(dit: WanDiT, texts: tuple[Text, Text]) -> BothTexts:
    """Keys and values of prompt and negative prompt, as `denoise_part` takes them.

    They are stacked along a new first axis; a mesh that runs the two passes of guidance beside each
    other has them along the batch axis.
    """
    if is_together(jax.sharding.get_abstract_mesh()):
        return dit.project_text(jnp.concatenate(texts))
    prompt, negative = (dit.project_text(text) for text in texts)
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), prompt, negative)


def denoise_part(
    dit: WanDiT, texts: BothTexts, scale: jax.Array, latents: Latents, table: NoiseTable
) -> Latents:
    """Guided steps of one part of a run: the program that is compiled, planned and benchmarked."""
    together = is_together(jax.sharding.get_abstract_mesh())
    guide = guided_together if together else guided
    return denoise(guide(velocity_of(dit), texts, scale), latents, table)


def jitted_step(mesh: Mesh) -> Any:
    """`denoise_part` for a mesh, which is to be entered while it is lowered.

    Weights that a step does not read, those of the projected text, stay among its arguments: they
    are on the devices all the same.
    """
    return jax.jit(
        denoise_part, out_shardings=NamedSharding(mesh, PartitionSpec()), keep_unused=True
    )
