"""DDIM frame by frame: exact where the network knows the answer, else of first order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.ddim import DDIM, DDIMRows, ddim_rows, ddim_step, guess_clean
from pusa_jax.diffusion.linear_betas import LinearBetas, respaced
from pusa_jax.diffusion.solvers import EulerState
from pusa_jax.testing.compare import assert_close

CLEAN, NOISE = jax.random.normal(jax.random.key(0), (2, 2, 3, 2, 2, 4))
FRAMES = CLEAN.shape[1]


def every(process: LinearBetas) -> np.ndarray:
    """Indices of a whole run, falling, [S, F]."""
    return np.repeat(np.arange(len(process.betas))[::-1, None], FRAMES, 1)


def rows(process, indices=None, *, moves: bool | np.ndarray = True, **options) -> DDIMRows:
    indices = every(process) if indices is None else indices
    return ddim_rows(process, indices, np.broadcast_to(moves, indices.shape), **options)


def run(table: DDIMRows, latents, predict):
    """Steps along a table; `predict` is told how many steps are done."""
    state = DDIM.init(latents)
    for i in range(len(table.to_clean)):
        row = jax.tree.map(lambda leaf, i=i: leaf[i], table)
        state = DDIM.step(state, predict(state.latents, i), row)
    return state.latents


def factors(process, indices):
    """Of clean and noise, in float64, widened."""
    abar = process.alphas_cumprod[indices][None, ..., None, None, None]
    return np.sqrt(abar), np.sqrt(1 - abar)


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_any_number_of_steps_is_exact_towards_a_known_clip(steps):
    process = respaced(str(steps))

    def predict(x, i):
        of_clean, of_noise = factors(process, every(process)[i])
        return (x - of_clean * CLEAN) / of_noise

    of_clean, of_noise = factors(process, every(process)[0])
    assert_close(run(rows(process), of_clean * CLEAN + of_noise * NOISE, predict), CLEAN, 1e-5)


def test_the_error_halves_with_twice_the_steps_where_clips_are_gaussian():
    """Of deviation 2: x moves as the deviation of noised clips does."""

    def error(steps):
        process = respaced(str(steps))

        def spread_at(i):
            of_clean, of_noise = factors(process, every(process)[i])
            return np.sqrt((2 * of_clean) ** 2 + of_noise**2)

        def predict(x, i):
            return factors(process, every(process)[i])[1] * x / spread_at(i) ** 2

        end = run(rows(process), spread_at(0) * NOISE, predict)
        return float(jnp.abs(end / NOISE - 2).max())

    errors = [error(steps) for steps in (50, 100, 200)]
    ratios = [one / other for one, other in itertools.pairwise(errors)]
    assert errors[0] < 0.1 and all(1.8 < ratio < 2.3 for ratio in ratios), (errors, ratios)


def test_frames_step_from_indices_of_their_own():
    process, indices = respaced("10"), np.asarray([[9, 4, 0]])
    together = run(rows(process, indices), CLEAN, lambda x, i: NOISE)
    for frame, index in enumerate(indices[0]):
        alone = run(rows(process, np.full((1, FRAMES), index)), CLEAN, lambda x, i: NOISE)
        assert jnp.array_equal(together[:, frame], alone[:, frame])
    assert len({float(together[0, f].sum()) for f in range(FRAMES)}) == FRAMES


def test_a_step_from_index_0_gives_the_guess():
    process, indices = respaced("10"), np.zeros((1, FRAMES), int)
    table = rows(process, indices)
    guess = guess_clean(CLEAN, NOISE, jax.tree.map(lambda leaf: leaf[0], table.guess))
    assert jnp.array_equal(run(table, CLEAN, lambda x, i: NOISE), guess)
    assert not jnp.allclose(guess, CLEAN, atol=1e-3)


def test_a_frame_that_does_not_move_keeps_its_bits():
    moves = np.asarray([False, True, True])
    table = rows(respaced("10"), moves=moves)
    end = run(table, CLEAN, lambda x, i: jnp.where(x > 2, jnp.nan, jnp.sin(x)))
    assert jnp.array_equal(end[:, 0], CLEAN[:, 0]) and not jnp.allclose(end[:, 1], CLEAN[:, 1])


def test_channels_beyond_the_latents_play_no_part():
    table = rows(respaced("3"))
    alone = run(table, NOISE, lambda x, i: jnp.sin(x))
    with_more = run(table, NOISE, lambda x, i: jnp.concatenate([jnp.sin(x), jnp.nan * x], -1))
    assert jnp.array_equal(alone, with_more)


def test_steps_to_more_noise_lead_back_where_the_noise_is_known():
    process = respaced("20")
    of_clean, of_noise = factors(process, np.zeros(FRAMES, int))
    begun = of_clean * CLEAN + of_noise * NOISE
    up = rows(process, every(process)[:0:-1], to_more_noise=True)
    there = run(up, begun, lambda x, i: NOISE)
    of_clean, of_noise = factors(process, every(process)[0])
    assert_close(there, of_clean * CLEAN + of_noise * NOISE, 1e-5)
    down = rows(process, every(process)[:-1])
    assert_close(run(down, there, lambda x, i: NOISE), begun, 1e-4)


def test_fresh_noise_keeps_the_variance():
    """From clean and noise of variance 1, the variance of the end is 1 whatever eta."""
    process, index = respaced("10"), np.full(FRAMES, 6)
    for eta in (0.3, 1.0):
        row = ddim_rows(process, index, np.ones(FRAMES, bool), eta=eta)
        total = row.to_clean**2 + row.to_noise**2 + row.spread**2
        np.testing.assert_allclose(total, 1, rtol=1e-6)
    posterior = process.posterior_variance[6]
    np.testing.assert_allclose(row.spread**2, posterior, rtol=1e-5)


def test_fresh_noise_is_added_with_its_factor():
    row = ddim_rows(respaced("10"), np.full(FRAMES, 6), np.ones(FRAMES, bool), eta=1.0)
    plain, noisy = (
        ddim_step(EulerState(latents=CLEAN), NOISE, row._replace(noise=noise)).latents
        for noise in (None, jnp.ones_like(CLEAN))
    )
    np.testing.assert_allclose(noisy - plain, row.spread[0], rtol=1e-5)


def test_a_limited_guess_decides_the_noise_that_is_left():
    row = ddim_rows(respaced("10"), np.full(FRAMES, 6), np.ones(FRAMES, bool))
    moved = ddim_step(EulerState(latents=5 + CLEAN), NOISE, row, 0.5).latents
    of_clean, of_noise = factors(respaced("10"), np.full(FRAMES, 6))
    left_over = (5 + CLEAN - of_clean * 0.5) / of_noise
    to_clean, to_noise = factors(respaced("10"), np.full(FRAMES, 5))
    assert_close(moved, to_clean * 0.5 + to_noise * left_over, 1e-5)


def test_latents_keep_their_dtype():
    table = rows(respaced("3"))
    state = DDIM.init(NOISE.astype(jnp.bfloat16))
    row = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), table)
    with jax.numpy_dtype_promotion("strict"):
        state = DDIM.step(state, NOISE.astype(jnp.bfloat16), row)
    assert state.latents.dtype == jnp.bfloat16


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="have eta 0, got 1"):
        rows(respaced("3"), eta=1.0, to_more_noise=True)
    with pytest.raises(ValueError, match="takes the rows of its model's table"):
        DDIM.coefficients(np.linspace(1, 0, 4))
