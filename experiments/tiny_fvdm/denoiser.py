"""The tiny LatteVIDEO: its size, the values it starts from, and its training with PTSS.

The step, its objective and the draws of timesteps are those of `pusa-jax train`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from experiments.tiny.optimizer import from_nothing
from experiments.tiny_fvdm.autoencoder import VAE, OnStep
from experiments.tiny_fvdm.world import CLASSES, SIZE
from pusa_jax.diffusion.timesteps import LevelConfig
from pusa_jax.models.latte.config import DiTConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.family import LATTE
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import Params
from pusa_jax.training.step import Frozen, Recipe, first_state, train_step
from pusa_jax.weights.leaves import leaves_of

FRAMES = 16
"""Of a clip."""

BATCH = 16
"""Clips of a step."""

PROBABILITY = 0.8
"""That the frames of a clip have a timestep each: most of what clips of 128 frames need, see
`experiments/tiny/fvdm`, where 0.2, the paper's, is worse at all but plain motion."""

CELLS = SIZE // VAE.spatial_stride

DIT = DiTConfig(
    dim=96,
    num_heads=4,
    num_layers=6,
    in_dim=VAE.z_dim,
    patch_size=(1, CELLS, CELLS),
    num_classes=len(CLASSES),
    num_frames=FRAMES,
    grid=(1, 1),
    freq_dim=64,
)
"""A token is a frame."""


def trained(
    latents: Float[np.ndarray, "N F h w C"],
    labels: Int[np.ndarray, " N"],
    steps: int,
    on_step: OnStep,
) -> Params:
    """Leaves of a denoiser of these clips, a running average, float32."""
    recipe = _recipe(steps)
    state = jax.jit(functools.partial(first_state, recipe))(start_values(DIT, 0), jax.random.key(0))
    step_fn = jax.jit(functools.partial(train_step, recipe), donate_argnums=0)
    frozen = Frozen(base={}, no_text=jnp.full((1, 1, 1), float(DIT.num_classes)))
    rng, since = np.random.default_rng(0), []
    for step in range(steps):
        chosen = rng.integers(len(latents), size=BATCH)
        text = labels[chosen].astype(np.float32).reshape(-1, 1, 1)
        state, found = step_fn(state, frozen, {"latents": latents[chosen], "text": text})
        since = [*since[-99:], float(found["loss"])]
        on_step(step + 1, steps, f"loss {np.mean(since):.3f}")
    return dict(state.ema)


def _recipe(steps: int) -> Recipe:
    return Recipe(
        family=LATTE,
        dit=DIT,
        adapter=None,
        objective=ObjectiveConfig(
            levels=LevelConfig(
                sampler="ptss",
                probability=PROBABILITY,
                schedule=LATTE.training_schedule,
                rounding="none",
            ),
            weighting="none",
            text_dropout=0.1,
        ),
        optimizer=from_nothing(3e-3, steps),
        steps=steps,
    )


def start_values(config: DiTConfig, seed: int) -> Params:
    """Leaves to train from, float32.

    Gates are open and branches end in zeros; the head undoes the embedding of patches, a rotation,
    and says nothing of the variance: the network hands its input through, which is mostly noise.
    """
    keys, dim = jax.random.split(jax.random.key(seed)), config.dim
    leaves = jax.jit(lambda key: leaves_of(LatteVideo(config, rngs=nnx.Rngs(key))))(keys[0])
    for kind in ("spatial", "temporal"):
        for end in ("o/kernel", "mlp/down/kernel"):
            leaves[f"blocks/{kind}/{end}"] = jnp.zeros_like(leaves[f"blocks/{kind}/{end}"])
        # Shift, scale and gate of attention, then of the feed-forward.
        bias = leaves[f"blocks/{kind}/modulation/linear/bias"]
        gates = jnp.repeat(jnp.asarray([0.0, 0, 1, 0, 0, 1]), dim)
        leaves[f"blocks/{kind}/modulation/linear/bias"] = jnp.broadcast_to(gates, bias.shape)
    patch = leaves["patch_embedding/kernel"].shape[0]
    rotation = jnp.linalg.qr(jax.random.normal(keys[1], (dim, dim)))[0][:patch]
    leaves["patch_embedding/kernel"] = rotation
    # The norm in the head scales a token to variance 1; the embedding gave it patch / dim.
    back = rotation.T.reshape(dim, -1, config.in_dim) * (patch / dim) ** 0.5
    leaves["head/linear/kernel"] = jnp.concatenate([back, 0 * back], -1).reshape(dim, -1)
    return leaves
