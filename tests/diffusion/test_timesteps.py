import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.timesteps import LEVELS, LevelConfig, draw, level_table

DRAWS = {
    sampler: np.asarray(draw(jax.random.key(0), 4000, 7, LevelConfig(sampler=sampler)))
    for sampler in ("independent", "ptss", "shared", "first_frame_clean")
}


def is_shared(draws):
    return (draws == draws[:, :1]).all(axis=1)


def test_independent_frames_are_uniform_over_the_shifted_table():
    draws, table = DRAWS["independent"], level_table(LevelConfig(rounding="none"))
    assert draws.min() == 0 and draws.max() == LEVELS - 1
    quantiles = np.quantile(table.sigmas[draws], [0.05, 0.25, 0.5, 0.75, 0.95])
    assert np.allclose(quantiles, [0.212, 0.626, 0.834, 0.938, 0.990], atol=0.012)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.05
    assert is_shared(draws).sum() == 0


def test_ptss_flips_a_coin_for_every_clip():
    share = 1 - is_shared(DRAWS["ptss"]).mean()
    assert abs(share - 0.2) < 0.02
    for probability in (0.0, 1.0):
        config = LevelConfig(sampler="ptss", probability=probability)
        draws = np.asarray(draw(jax.random.key(1), 50, 7, config))
        assert is_shared(draws).all() == (probability == 0)


def test_shared_is_one_uniform_draw_per_clip():
    assert is_shared(DRAWS["shared"]).all()
    assert len(np.unique(DRAWS["shared"][:, 0])) > 900


def test_first_frame_clean_leaves_the_rest_synchronous():
    draws = DRAWS["first_frame_clean"]
    first = level_table(LevelConfig()).at(jnp.asarray(draws[:, 0]))
    assert (first.sigmas == 0).all() and (first.timesteps == 0).all()
    assert is_shared(draws[:, 1:]).all() and draws[:, 1:].max() < LEVELS


@pytest.mark.parametrize("sampler", DRAWS)
def test_a_clip_draws_the_same_in_any_batch(sampler):
    alone = draw(jax.random.key(0), 3, 7, LevelConfig(sampler=sampler))
    assert np.array_equal(alone, DRAWS[sampler][:3])


def test_bfloat16_rounding_leaves_294_levels():
    rounded, exact = level_table(LevelConfig()), level_table(LevelConfig(rounding="none"))
    assert len(np.unique(rounded.sigmas[:-1])) == len(np.unique(rounded.timesteps[:-1])) == 294
    assert np.count_nonzero(rounded.sigmas != exact.sigmas) == 706
    assert np.abs(rounded.sigmas - exact.sigmas).max() <= 0.0025


def test_weights_have_mean_one_and_vanish_at_the_ends():
    table = level_table(LevelConfig(rounding="none"))
    assert table.weights[:-1].mean() == pytest.approx(1, abs=1e-6)
    assert table.weights[0] == table.weights[-1] == 0
    assert table.weights.max() == pytest.approx(2.076, abs=1e-3)
    for timestep, weight in ((950, 0.318), (900, 0.631), (800, 1.209), (300, 1.671), (5, 0.032)):
        nearest = np.abs(table.timesteps - timestep).argmin()
        assert table.weights[nearest] == pytest.approx(weight, abs=6e-3)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"probability": 1.5}, r"probability must be in \[0, 1\], got 1.5"),
        ({"shift": 0.0}, "shift must be positive, got 0.0"),
    ],
)
def test_wrong_settings_are_named(field, message):
    with pytest.raises(ValueError, match=message):
        LevelConfig(**field)
