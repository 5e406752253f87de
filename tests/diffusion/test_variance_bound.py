"""What the variance of ancestral steps is learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.linear_betas import linear_betas
from pusa_jax.diffusion.process import VARIANCE_PRESERVING
from pusa_jax.diffusion.timesteps import LEVELS, LevelConfig, level_table
from pusa_jax.diffusion.variance_bound import (
    gaussian_divergence,
    pixel_log_likelihood,
    variance_bound,
)

CLEAN, NOISE, OTHER = jax.random.normal(jax.random.key(0), (3, 2, 3, 2, 2, 4))
TABLE = level_table(LevelConfig(schedule="linear_betas"))


def bound(timesteps, noise=NOISE, said=-1.0):
    levels = TABLE.at(LEVELS - 1 - jnp.asarray(timesteps))
    noised = VARIANCE_PRESERVING.noised(CLEAN, NOISE, levels)
    prediction = jnp.concatenate([noise, jnp.broadcast_to(said, noise.shape)], axis=-1)
    return variance_bound(prediction, CLEAN, noised, levels)


MIXED = [[700, 20, 0], [999, 1, 300]]


def test_the_right_noise_with_the_least_variance_has_no_bound():
    assert bound(MIXED).shape == (2, 3)
    np.testing.assert_allclose(bound(MIXED), 0, atol=2e-5)


def test_the_largest_variance_costs_what_it_is_larger_in_bits():
    process, steps = linear_betas(), np.asarray(MIXED)
    ratio = np.exp(process.posterior_log_variance - process.log_betas)[steps]
    expected = 0.5 * (ratio - 1 - np.log(ratio)) / np.log(2)
    np.testing.assert_allclose(bound(MIXED, said=1.0), expected, rtol=1e-3, atol=2e-5)


def test_a_wrong_mean_costs_its_distance_in_deviations():
    process, steps = linear_betas(), np.asarray([[700, 20, 5], [999, 2, 300]])
    abar = process.alphas_cumprod[steps]
    moved = process.posterior_mean_of_clean[steps] * np.sqrt(1 / abar - 1)
    squared = np.mean(np.square(OTHER - NOISE), axis=(2, 3, 4)) * moved**2
    expected = 0.5 * squared / process.posterior_variance[steps] / np.log(2)
    np.testing.assert_allclose(bound(steps, noise=OTHER), expected, rtol=1e-3)


def test_only_the_variance_learns_from_it():
    noise, said = jax.grad(lambda n, s: bound(MIXED, n, s).sum(), (0, 1))(OTHER, 0.1 * OTHER)
    assert not noise.any() and (said != 0).mean() > 0.9


def test_a_clip_has_the_likelihood_only_where_all_its_frames_are_at_0():
    """A frame at 0 among others is compared with the step from 1."""
    zeros, mixed = bound([[0, 0, 0], [0, 5, 0]])
    assert (zeros > 1).all()  # bins of 1/255 are narrow: some bits each
    np.testing.assert_allclose(mixed, 0, atol=2e-5)


def test_the_likelihood_is_that_of_the_guess_with_the_learned_deviation():
    process = linear_betas()
    guess_error = (NOISE - OTHER) * np.sqrt(1 / process.alphas_cumprod[0] - 1)
    log_variance = 0.3 * process.log_betas[0] + 0.7 * process.posterior_log_variance[0]
    likelihood = pixel_log_likelihood(CLEAN, CLEAN + guess_error, jnp.asarray(log_variance))
    expected = -np.mean(likelihood, axis=(2, 3, 4)) / np.log(2)
    found = bound([[0, 0, 0], [0, 0, 0]], noise=OTHER, said=-0.4)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_divergence_is_the_integral_of_its_definition():
    x = np.linspace(-30, 30, 200_001)
    mean, log_variance, other_mean, other_log_variance = 0.4, -0.7, -1.1, 0.9

    def log_density(mean, log_variance):
        return -0.5 * ((x - mean) ** 2 / np.exp(log_variance) + log_variance + np.log(2 * np.pi))

    p, q = log_density(mean, log_variance), log_density(other_mean, other_log_variance)
    expected = np.sum(np.exp(p) * (p - q)) * (x[1] - x[0])
    found = gaussian_divergence(*map(jnp.asarray, (mean, log_variance)), *map(
        jnp.asarray, (other_mean, other_log_variance)))  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 0.05), (-0.9, 0.3), (1.4, 0.2), (0.0, 2.0)])
def test_probabilities_of_all_pixel_values_add_up_to_one(mean, deviation):
    pixels = jnp.arange(256) / 127.5 - 1
    logs = pixel_log_likelihood(pixels, jnp.asarray(mean), jnp.asarray(2 * np.log(deviation)))
    assert jnp.exp(logs).sum() == pytest.approx(1, abs=1e-4)
    likeliest = pixels[1:-1][jnp.argmax(logs[1:-1])]  # of those with two ends
    assert likeliest == pytest.approx(np.clip(mean, pixels[1], pixels[-2]), abs=0.005)


def test_the_least_probability_bounds_the_loss():
    far = pixel_log_likelihood(jnp.asarray(0.0), jnp.asarray(50.0), jnp.asarray(-8.0))
    assert far == pytest.approx(np.log(1e-12))
