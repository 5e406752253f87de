"""Which rows of a fine table a run takes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.config import SamplingConfig, in_few_steps
from pusa_jax.diffusion.flow import per_frame
from pusa_jax.diffusion.rows import FINE, front, rows_taken
from pusa_jax.diffusion.sampling import rows_of, sample, take_step
from pusa_jax.diffusion.solvers import EULER
from pusa_jax.models.wan.schedule import noise_table

ROWS = (0, 1, 2, 5, 9, 14, 30, 49)


def test_24_rows_are_the_first_ten_and_then_every_third():
    assert front(24) == (*range(10), *range(10, 50, 3))


@pytest.mark.parametrize("num_steps", range(2, FINE + 1))
def test_rows_rise_from_the_first_to_the_last_of_the_table(num_steps):
    rows = front(num_steps)
    assert len(rows) == num_steps and rows == tuple(sorted({*rows}))
    assert (rows[0], rows[-1]) == (0, FINE - 1)
    assert rows_taken(rows, num_steps) == rows == rows_taken("front", num_steps)


@pytest.mark.parametrize(
    ("rows", "num_steps", "words"),
    [
        ("front", 51, "are 2 to 50 of a table of 50, got 51"),
        ("front", 1, "are 2 to 50"),
        ((1, 2), 2, "must rise from 0 to at most 49"),
        ((0, 2, 2), 3, "got 0,2,2"),
        ((0, 50), 2, "got 0,50"),
        ((), 0, "must rise from 0"),
        ((0, 3, 5), 4, "3 rows make a run of 3 steps, not of 4"),
    ],
)
def test_rows_that_are_none_are_told(rows, num_steps, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        rows_taken(rows, num_steps)


def test_a_row_left_out_is_a_velocity_used_twice():
    """Frames at levels of their own, one of which is stopped early by its timesteps."""
    table = noise_table(50, 5.0, np.asarray([1.0, 0.6, 0.01, 0.0]), truncate=True)
    latents = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 2, 2, 3)))

    def velocity(x, told):
        return jnp.sin(x) + per_frame(told) / 1000

    thin = table.thinned(ROWS)
    rows = jax.tree.map(jnp.asarray, rows_of(thin))
    thinned = sample(
        lambda s, i: take_step(velocity, EULER, s, rows[i]), EULER.init(latents), len(ROWS)
    )
    x = latents
    for i, row in enumerate(rows_of(table)):
        if i in ROWS:
            reused = velocity(x, jnp.asarray(row.timesteps[None]))
        x = x + reused * row.coefficients[None, :, None, None, None]
    np.testing.assert_allclose(thinned.latents, x, rtol=2e-6, atol=2e-6)
    assert np.array_equal(thin.sigmas, table.sigmas[[*ROWS, 50]])
    assert np.array_equal(thin.timesteps, table.timesteps[[*ROWS]])
    assert np.array_equal(thin.levels, table.levels[[*ROWS]])


def test_all_rows_are_the_table():
    table = noise_table(50, 5.0, np.asarray([1.0, 0.6]))
    whole = table.thinned(range(50))
    assert all(np.array_equal(a, b) for a, b in zip(whole[:4], table[:4], strict=True))


def test_a_table_with_rows_of_its_own_is_not_thinned():
    table = noise_table(4, 5.0, np.ones(2))._replace(coefficients=np.ones((4, 2)))
    with pytest.raises(ValueError, match="this model takes a number of steps"):
        table.thinned([0, 2])


def test_levels_and_rows_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        SamplingConfig(num_steps=2, levels=(1.0, 0.5), rows="front")


def test_few_steps_are_a_table_of_their_own_and_one_pass_each():
    asked = SamplingConfig(num_steps=24, rows="front", guidance_until=0.5)
    fast = in_few_steps(asked)
    assert (fast.rows, fast.guidance_until, fast.full_passes) == ("even", 1.0, 4)
    assert asked.full_passes == 100 and SamplingConfig(num_steps=24).full_passes == 48


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_the_steps_is_0_to_1(share):
    with pytest.raises(ValueError, match="0 to 1"):
        SamplingConfig(guidance_until=share)
