"""FVDM's draws: steps of variance-preserving diffusion, for each frame or for the clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.linear_betas import linear_betas
from pusa_jax.diffusion.timesteps import (
    LEVELS,
    LevelConfig,
    draw,
    draw_clip,
    drawn_indices,
    level_table,
    told,
)

STEPS, CLIPS, FRAMES = 6000, 3, 5


def config(sampler, **changes):
    return LevelConfig(sampler=sampler, schedule="linear_betas", **changes)


def timesteps(sampler):
    """Timesteps of many optimisation steps of FVDM, [STEPS, CLIPS, FRAMES]."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(STEPS))
    drawn = jax.vmap(lambda key: draw(key, CLIPS, FRAMES, config(sampler)))(keys)
    return np.asarray(level_table(config(sampler)).at(drawn).timesteps)


DRAWS = {sampler: timesteps(sampler) for sampler in ("ptss", "ptss_per_batch")}


def test_the_table_has_the_steps_of_the_process_with_the_most_noise_first():
    table, kept = level_table(config("ptss")), linear_betas().alphas_cumprod
    assert table.timesteps.tolist() == [*range(999, -1, -1), 0]
    np.testing.assert_allclose(table.sigmas[:-1], np.sqrt(1 - kept)[::-1], rtol=1e-6)
    assert (table.weights[:-1] == 1).all()
    assert table.sigmas[-1] == table.weights[-1] == 0
    assert (np.diff(table.sigmas) < 0).all()
    assert drawn_indices(config("ptss")) == (0, LEVELS)


def test_rounding_shift_and_evenness_are_of_other_tables():
    plain = level_table(config("ptss"))
    for change in ({"rounding": "none"}, {"shift": 1.0}, {"even": True}):
        other = level_table(config("ptss", **change))
        for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
            assert np.array_equal(ours, theirs)
        assert drawn_indices(config("ptss", **change)) == (0, LEVELS)


def test_a_range_of_levels_is_one_of_steps():
    half = config("ptss", lowest=0.5)
    first, end = drawn_indices(half)
    sigmas = level_table(half).sigmas
    assert first == 0 and sigmas[end - 1] >= 0.5 > sigmas[end]


def test_a_level_is_told_by_the_nearest_step():
    levels = np.sqrt(1 - linear_betas().alphas_cumprod)
    for step in (0, 1, 500, 999):
        assert told(float(levels[step]), "linear_betas") == step
    assert (told(0.0, "linear_betas"), told(1.0, "linear_betas")) == (0, 999)


@pytest.mark.parametrize("sampler", DRAWS)
def test_every_frame_is_uniform_over_all_steps(sampler):
    drawn = DRAWS[sampler]
    assert (drawn.min(), drawn.max()) == (0, 999)
    flat = drawn[:, :, [0, -1]].reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(axis=0), 499.5, atol=8)
    np.testing.assert_allclose(flat.std(axis=0), 288.7, atol=5)
    shares = np.histogram(flat[:, 1], np.linspace(0, 1000, 11))[0] / len(flat)
    np.testing.assert_allclose(shares, 0.1, atol=0.01)


@pytest.mark.parametrize("sampler", DRAWS)
def test_two_frames_of_a_clip_correlate_by_the_share_of_equal_draws(sampler):
    drawn = DRAWS[sampler]
    assert np.corrcoef(drawn[:, 0, 0], drawn[:, 0, 3])[0, 1] == pytest.approx(0.8, abs=0.03)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.05  # of two clips


def own_draws(sampler):
    """Whether the frames of a clip have draws of their own, [STEPS, CLIPS]."""
    drawn = DRAWS[sampler]
    return (drawn != drawn[:, :, :1]).any(axis=2)


def test_the_coin_of_a_batch_is_one_for_all_its_clips():
    own = own_draws("ptss_per_batch")
    assert (own == own[:, :1]).all()
    assert own[:, 0].mean() == pytest.approx(0.2, abs=0.02)


def test_the_coin_of_a_clip_is_its_own():
    own = own_draws("ptss").astype(float)
    assert own.mean() == pytest.approx(0.2, abs=0.01)
    assert abs(np.corrcoef(own[:, 0], own[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_coin_of_a_batch_has_the_probability_of_the_settings(probability):
    drawn = draw(jax.random.key(0), 20, 4, config("ptss_per_batch", probability=probability))
    assert (drawn == drawn[:, :1]).all() == (probability == 0)


def test_the_coin_decides_between_shared_and_independent_draws():
    """And falls alike in every version, or a run that goes on would not be the run that began."""
    coins = []
    for seed in range(12):
        drawn, shared, own = (
            np.asarray(draw(jax.random.key(seed), CLIPS, FRAMES, config(sampler, probability=0.5)))
            for sampler in ("ptss_per_batch", "shared", "independent")
        )
        coins.append(np.array_equal(drawn, own))
        assert coins[-1] or np.array_equal(drawn, shared)
    assert [seed for seed in range(12) if coins[seed]] == [1, 5, 6, 10]


def test_the_coin_of_a_batch_needs_the_key_of_the_step():
    with pytest.raises(ValueError, match="ptss_per_batch needs the key of the step"):
        draw_clip(jax.random.key(0), 3, config("ptss_per_batch"))
