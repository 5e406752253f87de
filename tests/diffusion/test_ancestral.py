"""Ancestral sampling frame by frame, with the variance that the network says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.ancestral import ANCESTRAL, ancestral_rows, learned_log_variance
from pusa_jax.diffusion.ddim import DDIM
from pusa_jax.diffusion.linear_betas import respaced
from pusa_jax.testing.compare import assert_close

PROCESS = respaced("10")
CLEAN, NOISE, FRESH = jax.random.normal(jax.random.key(0), (3, 2, 3, 2, 2, 4))
INDICES = np.asarray([6, 1, 0])


def row(moves=(True, True, True), noise=FRESH):
    return ancestral_rows(PROCESS, INDICES, np.asarray(moves))._replace(noise=noise)


def stepped(said, row):
    prediction = jnp.concatenate([NOISE, jnp.full_like(NOISE, said)], -1)
    return ANCESTRAL.step(ANCESTRAL.init(CLEAN), prediction, row).latents


def test_the_mean_is_the_posterior_s_for_the_guess():
    mean = stepped(0.0, row(noise=jnp.zeros_like(FRESH)))
    abar = PROCESS.alphas_cumprod[INDICES][None, :, None, None, None]
    guess = (CLEAN - np.sqrt(1 - abar) * NOISE) / np.sqrt(abar)
    of_guess, of_latents = (
        factor[INDICES][None, :, None, None, None]
        for factor in (PROCESS.posterior_mean_of_clean, PROCESS.posterior_mean_of_noised)
    )
    assert_close(mean, of_guess * guess + of_latents * CLEAN, 1e-6)


@pytest.mark.parametrize(
    ("said", "deviation"),
    [
        (-1.0, np.sqrt(PROCESS.posterior_variance)),
        (1.0, np.sqrt(PROCESS.betas)),
        (0.0, (PROCESS.posterior_variance * PROCESS.betas) ** 0.25),
    ],
)
def test_the_network_says_where_the_deviation_lies_in_its_range(said, deviation):
    added = stepped(said, row()) - stepped(said, row(noise=jnp.zeros_like(FRESH)))
    for frame in (0, 1):
        assert_close(added[:, frame], deviation[INDICES[frame]] * FRESH[:, frame], 1e-5)


def test_a_range_may_be_left():
    here = row()
    beyond = learned_log_variance(jnp.full_like(CLEAN, 3.0), here)
    expected = 2 * here.log_highest - here.log_lowest
    assert_close(beyond[0, :, 0, 0, 0], expected, 1e-6)


def test_no_noise_is_added_to_a_frame_at_index_0():
    silent = stepped(0.5, row(noise=jnp.zeros_like(FRESH)))
    assert jnp.array_equal(stepped(0.5, row())[:, 2], silent[:, 2])
    assert not jnp.allclose(stepped(0.5, row())[:, 1], silent[:, 1], atol=1e-3)


def test_a_frame_that_does_not_move_keeps_its_bits():
    end = stepped(jnp.nan, row(moves=(False, True, False)))
    assert jnp.array_equal(end[:, 0], CLEAN[:, 0]) and jnp.array_equal(end[:, 2], CLEAN[:, 2])
    assert jnp.isnan(end[:, 1]).all()


def test_gaussian_clips_come_out_of_a_whole_run():
    """Of deviation 1 the optimal prediction is known; its best variance keeps that of the clips."""
    process, shape = respaced("50"), (1, 1, 64, 64, 4)
    x = jax.random.normal(jax.random.key(1), shape)
    indices = np.arange(50)[::-1, None]
    table = ancestral_rows(process, indices, np.ones_like(indices, bool))
    state = ANCESTRAL.init(x)
    for i, index in enumerate(indices[:, 0]):
        noise = jax.random.normal(jax.random.key(2 + i), shape)
        here = jax.tree.map(lambda leaf, i=i: leaf[i], table)._replace(noise=noise)
        predicted = np.sqrt(1 - process.alphas_cumprod[index]) * state.latents
        said = jnp.ones_like(predicted)  # x[t-1] given x[t] has variance beta if clips have 1
        state = ANCESTRAL.step(state, jnp.concatenate([predicted, said], -1), here)
    assert float(state.latents.std()) == pytest.approx(1, abs=0.02)
    assert abs(float(state.latents.mean())) < 0.03


def test_only_ancestral_sampling_asks_for_noise_and_does_not_go_without():
    assert ANCESTRAL.is_random and not DDIM.is_random
    assert ancestral_rows(PROCESS, INDICES, np.ones(3, bool)).noise is None
    with pytest.raises(ValueError, match="needs fresh noise in every row"):
        stepped(0.0, row(noise=None))
    with pytest.raises(ValueError, match="takes the rows of its model's table"):
        ANCESTRAL.coefficients(np.linspace(1, 0, 4))
