"""Latte's plan: which step of the process every frame is at, what it starts from, who stays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.linear_betas import linear_betas
from pusa_jax.diffusion.process import VARIANCE_PRESERVING
from pusa_jax.diffusion.sampling import rows_of, sample, start, take_step
from pusa_jax.models.latte.schedule import renoised, sampling_table

CLEAN, NOISE = jax.random.normal(jax.random.key(0), (2, 1, 3, 2, 2, 4))
ABAR = linear_betas().alphas_cumprod
FALLING = [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


def plan(multipliers, steps=10, **settings):
    wanted = dataclasses.replace(SamplingConfig(num_steps=steps, solver="ddim"), **settings)
    return sampling_table(
        wanted,
        np.asarray(multipliers, np.float32),
        is_conditioned=bool(np.any(np.asarray(multipliers) != 1)),
        compute_dtype="float32",
    )


def run(table, solver="ddim", clean=CLEAN):
    """A run with a network that says something; the states behind all steps."""
    solver = VARIANCE_PRESERVING.solvers[solver]

    def network(x, t):
        mean = x.mean(1, keepdims=True) + t[:, :, None, None, None] / 1000
        return jnp.concatenate([0.9 * x + 0.1 * mean, jnp.tanh(x)], -1)

    def step(state, i):
        row = rows[i]
        if solver.is_random:
            noise = jax.random.normal(jax.random.key(i), NOISE.shape)
            row = row._replace(coefficients=row.coefficients._replace(noise=noise))
        return take_step(network, solver, state, row)

    states, rows = [], rows_of(table, solver)
    sample(step, solver.init(start(clean, NOISE, table)), len(rows), lambda _, s: states.append(s))
    return [state.latents for state in states]


def test_free_frames_are_told_the_steps_of_the_original_and_start_from_noise():
    table = plan([1, 1, 1])
    assert table.timesteps.tolist() == [[t] * 3 for t in FALLING]
    np.testing.assert_allclose(table.levels, np.sqrt(1 - ABAR[FALLING]), rtol=1e-6)
    assert (np.diff(table.levels) < 0).all() and table.num_steps == 10
    assert np.array_equal(start(CLEAN, NOISE, table), NOISE)


def test_sigmas_are_the_factor_of_the_noise_and_end_in_0():
    table = plan([1, 0.5, 0], original_conditions=False)
    np.testing.assert_allclose(table.sigmas[:-1, 0], np.sqrt(1 - ABAR[FALLING]), rtol=1e-6)
    assert not table.sigmas[-1].any() and not table.sigmas[:, 2].any()
    assert np.array_equal(table.step_sizes, table.sigmas[1:] - table.sigmas[:-1])


def test_a_frame_given_exactly_is_at_index_0_throughout_and_enters_clean():
    table = plan([0, 1, 1])
    assert not table.timesteps[:, 0].any() and table.timesteps[:, 1].tolist() == FALLING
    assert np.array_equal(start(CLEAN, NOISE, table)[:, 0], CLEAN[:, 0])
    assert table.coefficients.moves.all()
    np.testing.assert_allclose(table.sigmas[:-1, 0], 0.01, rtol=1e-5)


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_frame_given_exactly_drifts_as_in_the_original_or_keeps_its_bits(solver):
    drifting, frozen = (
        run(plan([0, 1, 1], solver=solver, original_conditions=original), solver)
        for original in (True, False)
    )
    way = [float(jnp.abs(x[:, 0] - CLEAN[:, 0]).max()) for x in drifting]
    assert 0 < way[0] < way[-1] < 0.5
    assert all(jnp.array_equal(x[:, 0], CLEAN[:, 0]) for x in frozen)
    assert not jnp.allclose(frozen[-1][:, 1], NOISE[:, 1], atol=0.1)


def test_a_frame_given_with_noise_has_its_part_of_the_index_and_waits_where_that_is_the_same():
    table = plan([0.5, 1, 0.7], steps=6)
    indices = [[2, 5, 4], [2, 4, 3], [2, 3, 2], [1, 2, 1], [0, 1, 1], [0, 0, 0]]
    spaced = np.asarray([0, 200, 400, 599, 799, 999])
    assert np.array_equal(table.timesteps, spaced[np.asarray(indices)])
    moves = [[0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]
    assert np.array_equal(table.coefficients.moves, np.asarray(moves, bool))


def test_a_frame_given_with_noise_enters_at_its_own_first_step():
    begun = start(CLEAN, NOISE, plan([0.5, 1, 0.7], steps=6))
    for frame, told in ((0, 400), (2, 799)):
        share = ABAR[told]
        expected = np.sqrt(share) * CLEAN[:, frame] + np.sqrt(1 - share) * NOISE[:, frame]
        np.testing.assert_allclose(begun[:, frame], expected, atol=1e-6)


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_frames_with_noise_come_out_clean_where_the_clip_is_known(solver):
    table = plan([0.5, 1, 0.7], steps=20, solver=solver)
    kind = VARIANCE_PRESERVING.solvers[solver]
    state = kind.init(start(CLEAN, NOISE, table))
    for row in rows_of(table, kind):
        if kind.is_random:
            row = row._replace(coefficients=row.coefficients._replace(noise=NOISE))

        def network(x, t):
            share = jnp.asarray(ABAR, jnp.float32)[t.astype(int)][:, :, None, None, None]
            noise = (x - jnp.sqrt(share) * CLEAN) / jnp.sqrt(1 - share)
            return jnp.concatenate([noise, -jnp.ones_like(noise)], -1)

        state = take_step(network, kind, state, row)
    np.testing.assert_allclose(state.latents, CLEAN, atol=2e-4)


def test_rows_of_frames_do_not_depend_on_one_another():
    mixed, free = plan([1, 0, 0.5]), plan([1, 1, 1])
    for one, other in zip(
        jax.tree.leaves(mixed.coefficients), jax.tree.leaves(free.coefficients), strict=True
    ):
        assert np.array_equal(one[:, 0], other[:, 0])


def test_later_chunks_of_a_long_video_enter_noised_as_told():
    """FVDM's numbers: 0.99995 x + 0.01 e for what is carried over, 0.99998 e for the rest."""
    given = jnp.where(jnp.arange(3)[None, :, None, None, None] < 2, CLEAN, 0)
    begun = start(given, NOISE, renoised(plan([0, 0, 1])))
    expected = 0.99995 * CLEAN[:, :2] + 0.01 * NOISE[:, :2]
    np.testing.assert_allclose(begun[:, :2], expected, atol=1e-6)
    np.testing.assert_allclose(begun[:, 2], np.sqrt(1 - ABAR[999]) * NOISE[:, 2], atol=1e-6)
    assert np.sqrt(1 - ABAR[999]) == pytest.approx(0.99998, abs=1e-6)


def test_frozen_frames_of_later_chunks_enter_clean():
    table = renoised(plan([0, 0, 1], original_conditions=False))
    assert np.array_equal(start(CLEAN, NOISE, table)[:, :2], CLEAN[:, :2])
    assert jnp.array_equal(run(table)[-1][:, 0], CLEAN[:, 0])


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"solver": "euler"}, "sampled with ddim or ddpm, not with euler"),
        ({"solver": "dpm++"}, "not with dpm"),
        ({"steps": 1}, "2 to 1000 steps, got 1"),
        ({"steps": 1001}, "2 to 1000 steps, got 1001"),
        ({"steps": 2, "levels": (1.0, 0.5)}, "levels of one's own"),
    ],
)
def test_what_the_process_does_not_have_is_refused(wrong, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        plan([1, 1], **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [2, 1000])
def test_the_fewest_and_the_most_steps_end_at_timestep_0(steps):
    table = plan([1, 0.3], steps=steps)
    assert table.timesteps[0, 0] == 999 and not table.timesteps[-1].any()
    assert table.coefficients.moves[-1].all()
