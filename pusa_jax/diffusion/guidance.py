"""Classifier-free guidance as a wrapper: the result is again a velocity function.

The two passes are run in turn (`guided`) or as one batch (`guided_together`), which a mesh with
room on its data axis runs side by side.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pusa_jax.typing import Latents, Prediction, Timesteps, Velocity


def guided(
    velocity: Callable[[Latents, Timesteps, Any], Prediction],
    texts: Any,
    scale: Float[Array, ""],
) -> Velocity:
    """Returns v_negative + scale * (v_prompt - v_negative), the two passes run one after the other.

    Both passes see the same latents and timesteps. At scale 1 only the prompt's pass is run; as
    that is decided at run time, one compiled program serves every scale.

    Args:
      velocity: the network as a function of latents, timesteps and projected text.
      texts: projected text with a new first axis of two, prompt first, then negative prompt.
      scale: guidance scale; 1 is off.
    """

    def call(latents: Latents, timesteps: Timesteps) -> Prediction:
        def one_pass(i, velocities):
            text = jax.tree.map(lambda leaf: leaf[i], texts)
            return velocities.at[i].set(velocity(latents, timesteps, text))

        passes = jnp.where(scale == 1, 1, 2)
        shape = jax.eval_shape(velocity, latents, timesteps, jax.tree.map(lambda x: x[0], texts))
        prompt, negative = jax.lax.fori_loop(
            0, passes, one_pass, jnp.zeros((2, *shape.shape), shape.dtype)
        )
        return away_from(negative, prompt, scale, latents.shape[-1])

    return call


def guided_together(
    velocity: Callable[[Latents, Timesteps, Any], Prediction],
    texts: Any,
    scale: Float[Array, ""],
) -> Velocity:
    """Like `guided`, with both passes as one batch of 2B clips, prompts first.

    Both passes are always run; at scale 1 the result is that of the prompt alone.

    Args:
      velocity: the network as a function of latents, timesteps and projected text.
      texts: projected text of 2B clips, the prompts of the batch and then their negative prompts.
      scale: guidance scale; 1 is off.
    """

    def call(latents: Latents, timesteps: Timesteps) -> Prediction:
        twice = velocity(jnp.tile(latents, (2, 1, 1, 1, 1)), jnp.tile(timesteps, (2, 1)), texts)
        prompt, negative = jnp.split(twice, 2)
        return away_from(negative, prompt, scale, latents.shape[-1])

    return call


def away_from(
    negative: Prediction, prompt: Prediction, scale: Float[Array, ""], channels: int
) -> Prediction:
    """Guidance of the first channels; what is predicted beside them is that of the prompt's pass.

    A variance, for one, must not be pushed out of its range (original: forward_with_cfg).
    """
    apart = jnp.where(scale == 1, prompt, negative + scale * (prompt - negative))
    return jnp.concatenate([apart[..., :channels], prompt[..., channels:]], axis=-1)
