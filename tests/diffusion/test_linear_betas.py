"""The variance-preserving process and steps taken from it."""

import numpy as np
import pytest

from pusa_jax.diffusion.linear_betas import TIMESTEPS, linear_betas, respaced


def test_betas_rise_evenly_between_the_published_ends():
    process = linear_betas()
    assert (process.betas[0], process.betas[-1]) == (1e-4, 0.02)
    np.testing.assert_allclose(np.diff(process.betas), 0.0199 / 999, rtol=1e-9)
    assert process.betas.dtype == np.float64 and [*process.timesteps] == [*range(TIMESTEPS)]


def test_all_steps_taken_are_the_process_itself():
    every, process = respaced("1000"), linear_betas()
    np.testing.assert_array_equal(every.timesteps, process.timesteps)
    np.testing.assert_allclose(every.betas, process.betas, rtol=1e-11)


@pytest.mark.parametrize(
    ("spacing", "first", "last"),
    [
        ("50", [0, 20, 41, 61, 82], [979, 999]),
        ("ddim50", [0, 20, 40, 60, 80], [960, 980]),
        ("37", [0, 28, 56, 83, 111], [971, 999]),
        ("2", [0, 999], [0, 999]),
        ("30,20,10", [0, 11, 23, 34, 46], [962, 999]),
        ("1,1", [0, 500], [0, 500]),
    ],
)
def test_steps_are_spaced(spacing, first, last):
    timesteps = [*respaced(spacing).timesteps]
    assert timesteps[: len(first)] == first and timesteps[-len(last) :] == last
    assert len(timesteps) == sum(map(int, spacing.removeprefix("ddim").split(",")))


def test_positions_halfway_are_rounded_to_even():
    assert respaced("37").timesteps[[2, 6]].tolist() == [56, 166]  # of 55.5 and 166.5


def test_parts_that_do_not_divide_the_process_are_longer_in_front():
    timesteps = respaced("2,2,2").timesteps
    assert timesteps.tolist() == [0, 333, 334, 666, 667, 999]


@pytest.mark.parametrize("spacing", ["50", "ddim10"])
def test_steps_taken_keep_the_noise_of_the_process(spacing):
    some, process = respaced(spacing), linear_betas()
    np.testing.assert_allclose(
        some.alphas_cumprod, process.alphas_cumprod[some.timesteps], rtol=1e-12
    )
    np.testing.assert_array_equal(some.alphas_cumprod_prev[1:], some.alphas_cumprod[:-1])
    assert some.alphas_cumprod_prev[0] == 1


def test_the_posterior_is_that_of_two_gaussians():
    """Mean and variance of x[t-1] given clean and x[t], from the product of their densities."""
    process = respaced("20")
    abar, prev, beta = process.alphas_cumprod, process.alphas_cumprod_prev, process.betas
    precision = 1 / np.where(prev < 1, 1 - prev, np.inf) + (1 - beta) / beta
    i = slice(1, None)
    np.testing.assert_allclose(process.posterior_variance[i], 1 / precision[i], rtol=1e-10)
    of_clean = np.sqrt(prev[i]) / (1 - prev[i]) / precision[i]
    np.testing.assert_allclose(process.posterior_mean_of_clean[i], of_clean, rtol=1e-10)
    of_noised = np.sqrt(1 - beta[i]) / beta[i] / precision[i]
    np.testing.assert_allclose(process.posterior_mean_of_noised[i], of_noised, rtol=1e-10)
    assert process.posterior_variance[0] == 0 == process.posterior_mean_of_noised[0]
    assert process.posterior_mean_of_clean[0] == pytest.approx(1, rel=1e-12)
    assert (abar < prev).all()


def test_learned_ranges_begin_at_the_posterior_and_end_at_the_betas():
    process = respaced("20")
    lowest = process.posterior_log_variance
    np.testing.assert_allclose(np.exp(lowest[1:]), process.posterior_variance[1:])
    assert lowest[0] == lowest[1]
    np.testing.assert_allclose(np.exp(process.log_betas), process.betas)


@pytest.mark.parametrize(
    ("spacing", "complaint"),
    [
        ("", 'written like "50"'),
        ("ddim", "written like"),
        ("50,", "written like"),
        ("0", "written like"),
        ("-3", "written like"),
        ("5.0", "written like"),
        ("1", "at least 2 of its steps"),
        ("ddim1", "at least 2 of its steps|no whole stride"),
        ("1001", "1001 steps do not fit into 1000"),
        ("3,400,3", "400 steps do not fit into 333"),
        ("ddim37", "no whole stride takes 37 of 1000"),
    ],
)
def test_other_spacings_are_refused(spacing, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        respaced(spacing)
    assert "\n" not in str(caught.value)
