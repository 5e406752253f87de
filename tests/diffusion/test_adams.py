"""The solver of second order along each frame's own levels, on a flow whose solution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.adams import AB2, FEWEST, adams_rows
from pusa_jax.diffusion.flow import NoiseTable, per_frame, pusa_schedule
from pusa_jax.diffusion.sampling import rows_of, sample, take_step
from pusa_jax.diffusion.solvers import EULER
from pusa_jax.models.wan.schedule import noise_table

MULTIPLIERS = np.asarray([1.0, 0.7, 0.3, 0.0])
SPREAD = 0.5
"""Standard deviation of the clean frames, which are normal: their flow is known."""


def velocity(latents, sigmas):
    """The exact velocity of frames that are normal when they are clean."""
    s = per_frame(sigmas)
    return latents * (s - (1 - s) * SPREAD**2) / (s**2 + (1 - s) ** 2 * SPREAD**2)


def solved(latents, sigmas):
    """Where the flow leads from the levels of the first row to those of the last."""
    first, last = (
        np.sqrt(s**2 + (1 - s) ** 2 * SPREAD**2)[None, :, None, None, None]
        for s in (sigmas[0], sigmas[-1])
    )
    return latents * last / first


def error(solver, num_steps):
    """Largest error of a run that stops above level 0, frames at levels of their own."""
    levels = np.linspace(1, 0.1, num_steps + 1)[:, None] * MULTIPLIERS
    table = NoiseTable(
        sigmas=levels,
        timesteps=levels[:-1],
        step_sizes=levels[1:] - levels[:-1],
        levels=levels[:-1, 0],
    )
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 2, 2, 3)), jnp.float32)
    rows = jax.tree.map(jnp.asarray, rows_of(table, solver))
    end = sample(
        lambda state, i: take_step(velocity, solver, state, rows[i]), solver.init(noise), num_steps
    )
    return float(np.abs(end.latents - solved(np.asarray(noise), levels)).max())


@pytest.mark.parametrize(("solver", "order"), [(EULER, 1), (AB2, 2)])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(solver, order):
    ratio = error(solver, 20) / error(solver, 40)
    assert np.log2(ratio) == pytest.approx(order, abs=0.15)


def test_a_frame_that_does_not_move_stays_to_the_last_bit():
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((1, 2, 2, 2, 3)), jnp.float32)
    state = AB2.init(noise)
    for row in adams_rows(np.asarray([[-0.1, 0.0]] * 9)):
        state = AB2.step(state, 3 * state.latents + 1, jnp.asarray(row))
    assert np.array_equal(state.latents[:, 1], noise[:, 1])
    assert not np.array_equal(state.latents[:, 0], noise[:, 0])


def test_weights_are_those_of_unequal_steps():
    steps = np.full((9, 1), -0.1)
    steps[4] = -0.3
    rows = adams_rows(steps)[..., 0]
    np.testing.assert_allclose(rows[0], [-0.1, 0.0], rtol=1e-6)
    np.testing.assert_allclose(rows[1], [-0.15, 0.05], rtol=1e-6)
    np.testing.assert_allclose(rows[4], [-0.3 * 2.5, 0.3 * 1.5], rtol=1e-6)  # three times the last
    np.testing.assert_allclose(rows[5], [-0.1 * (1 + 1 / 6), 0.1 / 6], rtol=1e-6)


def test_a_frame_that_starts_or_stops_to_move_takes_no_look_back():
    steps = np.full((9, 2), -0.1)
    steps[:3, 1] = steps[7:, 1] = 0
    rows = adams_rows(steps)[..., 1]
    np.testing.assert_allclose(rows[3], [-0.1, 0], rtol=1e-6)
    assert not rows[:3].any() and not rows[7:].any()
    assert rows[4, 1]


def test_a_new_velocity_is_not_held_against_the_old_one():
    steps, is_new = np.full((9, 1), -0.1), [i == 5 for i in range(9)]
    rows = adams_rows(steps, is_new)[..., 0]
    np.testing.assert_allclose(rows[5], [-0.1, 0], rtol=1e-6)
    assert rows[4, 1] and rows[6, 1]


@pytest.mark.parametrize("num_steps", [FEWEST - 1, FEWEST])
def test_runs_of_few_steps_do_not_look_back(num_steps):
    rows = adams_rows(np.full((num_steps, 1), -0.1))
    assert rows[:, 1].any() == (num_steps == FEWEST)


def test_the_table_says_how_far_frames_move():
    """A frame that a table stops early moves no further, though its levels fall."""
    table = noise_table(12, 5.0, np.asarray([1.0, 0.0005]), truncate=True)
    rows = np.stack([row.coefficients for row in rows_of(table, AB2)])
    assert not rows[:, :, 1].any() and table.sigmas[0, 1] > 0
    np.testing.assert_allclose(rows[..., 0].sum(1), table.step_sizes[:, 0], rtol=1e-6)


def test_levels_alone_make_the_same_rows():
    levels = pusa_schedule(10, 5.0)
    np.testing.assert_allclose(
        AB2.coefficients(levels), adams_rows(np.diff(levels)[:, None]), rtol=1e-5
    )
