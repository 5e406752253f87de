"""The loop on the host: what it calls, in which order, and what it tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.sampling import denoise, rows_of, sample, start, take_step
from pusa_jax.diffusion.solvers import EULER
from pusa_jax.models.wan.schedule import noise_table

TABLE = noise_table(4, 5.0, np.asarray([0.3, 1.0, 1.0]))
CLEAN, NOISE = jax.random.normal(jax.random.key(0), (2, 2, 3, 2, 2, 4))


def test_steps_are_taken_in_order_and_told_with_what_they_gave():
    told = []
    end = sample(lambda state, i: [*state, i], ["start"], 3, lambda *seen: told.append(seen))
    assert end == ["start", 0, 1, 2]
    assert told == [(1, ["start", 0]), (2, ["start", 0, 1]), (3, ["start", 0, 1, 2])]


def test_nobody_needs_to_watch_and_no_step_is_no_change():
    assert sample(lambda state, i: state + 1, 5, 2) == 7
    assert sample(lambda state, i: state + 1, 5, 0) == 5


def velocity(latents, timesteps):
    return jnp.sin(latents) + timesteps[:, :, None, None, None] / 1000


def test_the_loop_on_the_host_is_the_loop_in_a_program():
    rows, turn = (
        rows_of(TABLE),
        jax.jit(lambda state, row: take_step(velocity, EULER, state, row)),
    )
    state = EULER.init(start(CLEAN, NOISE, TABLE))
    state = sample(lambda state, i: turn(state, rows[i]), state, len(rows))
    whole = denoise(velocity, start(CLEAN, NOISE, TABLE), TABLE)
    np.testing.assert_allclose(state.latents, whole, atol=1e-6)


def test_rows_are_the_timesteps_and_step_sizes_of_the_table():
    rows = rows_of(TABLE)
    assert len(rows) == 4
    assert np.array_equal([row.timesteps for row in rows], TABLE.timesteps)
    assert np.array_equal([row.coefficients for row in rows], TABLE.step_sizes)


def test_rows_that_a_table_brings_along_are_taken_as_they_are():
    rows = rows_of(TABLE._replace(coefficients={"factor": np.arange(4), "noise": None}))
    assert [row.coefficients for row in rows] == [{"factor": i, "noise": None} for i in range(4)]
    assert np.array_equal([row.timesteps for row in rows], TABLE.timesteps)


def test_a_table_whose_columns_differ_in_length_is_refused():
    with pytest.raises(ValueError):
        rows_of(TABLE._replace(step_sizes=TABLE.step_sizes[:-1]))


def test_a_run_starts_at_the_first_row_of_levels():
    begun = start(CLEAN, NOISE, TABLE)
    np.testing.assert_allclose(begun[:, 0], 0.7 * CLEAN[:, 0] + 0.3 * NOISE[:, 0], atol=1e-6)
    assert np.array_equal(begun[:, 1:], NOISE[:, 1:])
