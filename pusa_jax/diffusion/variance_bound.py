"""The variational bound: what a network learns the variance of its ancestral steps from.

    t > 0   how far the network's step lies from the step that knows the clean latents:
            KL( q(x[t-1] | x[t], clean) || p(x[t-1] | x[t]) )
    t = 0   -log p(clean | x[0]), latents taken as 8-bit pixels

Both in bits per dimension (arXiv 2102.09672, section 3.1; FVDM's gaussian_diffusion.py:
_vb_terms_bpd). Only the variance learns from it; the mean, which has its own loss, is held fixed.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pusa_jax.diffusion.ancestral import ancestral_rows, learned_log_variance, posterior_mean
from pusa_jax.diffusion.ddim import guess_clean, widen
from pusa_jax.diffusion.linear_betas import TIMESTEPS, linear_betas
from pusa_jax.diffusion.timesteps import LevelTable
from pusa_jax.typing import Latents, Prediction

BIN = 1 / 255
"""Half the width of an 8-bit pixel's bin, where pixels lie in [-1, 1]."""

EDGE = 0.999
"""Values beyond it belong to the first or the last bin, which have no other end."""

LEAST = 1e-12
"""Probabilities below it count as this."""


def variance_bound(
    prediction: Prediction, clean: Latents, noised: Latents, levels: LevelTable
) -> Float[Array, "B F"]:
    """The bound of every latent frame, in bits per dimension.

    Parity: a clip has the term of t = 0 only where all its frames are at 0 (the original asks for
    the largest timestep); frames at 0 among others have the first term, whose posterior variance
    is there that of t = 1.

    Args:
      prediction: of the noise, and in as many channels behind it of the variance.
      clean: latents.
      noised: the same at the timesteps of `levels`.
      levels: drawn from the table of linear betas.
    """
    steps = levels.timesteps.astype(jnp.int32)  # [B, F]
    table = ancestral_rows(linear_betas(), np.arange(TIMESTEPS), np.ones(TIMESTEPS, bool))
    row = jax.tree.map(lambda column: jnp.asarray(column)[steps], table)
    noise, said = jnp.split(prediction.astype(jnp.float32), 2, axis=-1)
    guess = guess_clean(noised, jax.lax.stop_gradient(noise), row.guess)
    mean, log_variance = posterior_mean(guess, noised, row), learned_log_variance(said, row)
    divergence = gaussian_divergence(
        posterior_mean(clean, noised, row), widen(row.log_lowest), mean, log_variance
    )
    surprise = -pixel_log_likelihood(clean, mean, log_variance)
    is_last = jnp.max(steps, axis=1, keepdims=True) == 0  # [B, 1]
    nats = jnp.where(widen(is_last), surprise, divergence)
    return jnp.mean(nats, axis=(2, 3, 4)) / math.log(2)


def gaussian_divergence(
    mean: Array, log_variance: Array, other_mean: Array, other_log_variance: Array
) -> Array:
    """KL(one || other) of each element, in nats."""
    spread = jnp.exp(log_variance - other_log_variance)
    apart = jnp.square(mean - other_mean) * jnp.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance - 1 + spread + apart)


def pixel_log_likelihood(clean: Array, mean: Array, log_variance: Array) -> Array:
    """Log of a Gaussian's probability of each element's bin of 8 bits, in nats."""
    per_deviation = jnp.exp(-0.5 * log_variance)
    above = _below((clean + BIN - mean) * per_deviation)
    below = _below((clean - BIN - mean) * per_deviation)
    share = jnp.where(clean < -EDGE, above, jnp.where(clean > EDGE, 1 - below, above - below))
    return jnp.log(jnp.maximum(share, LEAST))


def _below(deviations: Array) -> Array:
    """Share of a Gaussian below so many deviations, by the original's approximation."""
    inner = math.sqrt(2 / math.pi) * (deviations + 0.044715 * deviations**3)
    return 0.5 * (1 + jnp.tanh(inner))
