"""The tiny image autoencoder: trained on frames of the world, its latents put to mean 0."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from pusa_jax.models.latte.config import VAEConfig
from pusa_jax.models.latte.vae import FrameVAE, decode_first, moments
from pusa_jax.training.state import (
    OptimizerConfig,
    Params,
    TrainState,
    apply_gradients,
    fresh_state,
)
from pusa_jax.weights.leaves import assemble, leaves_of

VAE = VAEConfig(
    block_out_channels=(8, 16, 32, 32), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0
)

BATCH = 32
"""Frames of a step."""

LOG_VARIANCE = -4.0
"""At the start: little noise, or the decoder learns to ignore the latents."""

KL = 1e-4
"""Weight of the mean divergence of a latent value from the unit normal distribution."""

Frames = UInt8[np.ndarray, "N H W 3"]
OnStep = Callable[[int, int, str], None]
"""Told about the step, the number of steps, and the quality in words."""


def trained(frames: Frames, steps: int, on_step: OnStep) -> Params:
    """Leaves of an autoencoder of these frames, a running average, float32."""
    optimizer = OptimizerConfig(
        learning_rate=4e-3,
        warmup_steps=min(30, steps // 2),
        decay="cosine",
        beta2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.98,
    )
    state = fresh_state(start_values(0), optimizer, steps, jax.random.key(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def step_fn(state: TrainState, pixels: Array) -> tuple[TrainState, Array]:
        key = jax.random.fold_in(state.key, state.step)
        (_, squared), grads = jax.value_and_grad(
            lambda params: loss_of(params, pixels, key), has_aux=True
        )(state.params)
        return apply_gradients(state, grads, optimizer, steps)[0], squared

    rng = np.random.default_rng(0)
    for step in range(steps):
        state, squared = step_fn(state, frames[rng.integers(len(frames), size=BATCH)])
        on_step(step + 1, steps, f"{-10 * np.log10(float(squared) / 4):.1f} dB")
    return dict(state.ema)


def loss_of(
    params: Params, pixels: UInt8[Array, "N H W 3"], key: Key[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean absolute and squared error and the divergence together; and the squared error alone."""
    vae = network(params)
    video = pixels[None].astype(jnp.float32) / 127.5 - 1
    mean, log_variance = moments(vae, video)
    drawn = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    error = decode_first(vae, drawn)[0] - video
    squared = jnp.mean(jnp.square(error))
    divergence = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
    return jnp.mean(jnp.abs(error)) + squared + KL * divergence, squared


def start_values(seed: int) -> Params:
    """Leaves to train from: residual branches end in zeros, and latents have little noise."""
    leaves = jax.jit(lambda key: leaves_of(FrameVAE(VAE, rngs=nnx.Rngs(key))))(jax.random.key(seed))
    for path, leaf in leaves.items():
        if "/layers/" in path and path.endswith(("/conv2/kernel", "/o/kernel")):
            leaves[path] = jnp.zeros_like(leaf)
    z = VAE.z_dim
    leaves["quantise/kernel"] = leaves["quantise/kernel"].at[:, z:].set(0)
    leaves["quantise/bias"] = leaves["quantise/bias"].at[z:].set(LOG_VARIANCE)
    return leaves


def network(leaves: Params, config: VAEConfig = VAE) -> FrameVAE:
    """The autoencoder of leaves."""
    return assemble(lambda: FrameVAE(config, rngs=nnx.Rngs(0)), leaves)


def encoded(leaves: Params, frames: Frames) -> Float[np.ndarray, "N h w C"]:
    """Posterior means of frames, not scaled."""
    encode = jax.jit(lambda leaves, x: moments(network(leaves), x[None] / 127.5 - 1)[0][0])
    parts = [encode(leaves, part.astype(np.float32)) for part in np.array_split(frames, 64)]
    return np.concatenate([np.asarray(part) for part in parts])


def centred(leaves: Params, mean: Float[np.ndarray, " C"]) -> Params:
    """The same autoencoder with latents of mean 0.

    Args:
      leaves: as trained.
      mean: of each latent channel so far.
    """
    shift = jnp.asarray(mean)
    moved = leaves["quantise/bias"].at[: VAE.z_dim].add(-shift)
    back = leaves["unquantise/bias"] + shift @ leaves["unquantise/kernel"]
    return leaves | {"quantise/bias": moved, "unquantise/bias": back}
