import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.diffusion.timesteps import LEVELS, LevelConfig, draw, drawn_indices, level_table

DRAWS = {
    sampler: np.asarray(draw(jax.random.key(0), 4000, 7, LevelConfig(sampler=sampler)))
    for sampler in ("independent", "ptss", "ptss_per_batch", "shared", "first_frame_clean")
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
        ({"probability": -0.1}, r"probability must be in \[0, 1\], got -0.1"),
        ({"shift": 0.0}, "shift must be positive, got 0.0"),
        ({"shift": float("nan")}, "shift must be positive, got nan"),
    ],
)
def test_wrong_settings_are_named(field, message):
    with pytest.raises(ValueError, match=message):
        LevelConfig(**field)


EXPERTS = [(0.875, 1.0), (0.0, 0.875)]


@pytest.mark.parametrize("lowest, highest", EXPERTS)
@pytest.mark.parametrize("rounding", ["none", "bfloat16"])
@pytest.mark.parametrize("sampler", DRAWS)
def test_draws_never_leave_the_levels_of_an_expert(sampler, rounding, lowest, highest):
    config = LevelConfig(sampler=sampler, rounding=rounding, lowest=lowest, highest=highest)
    drawn = np.asarray(draw(jax.random.key(0), 4000, 7, config))
    levels = level_table(config).at(jnp.asarray(drawn[:, 1:]))  # the first frame may be clean
    for told in (levels.sigmas, levels.timesteps / LEVELS):
        assert lowest <= told.min() and (told.max() < highest or told.max() == highest == 1)
    first, end = drawn_indices(config)
    assert set(np.unique(drawn[:, 1:])) == set(range(first, end))  # and reach all of them


@pytest.mark.parametrize("rounding", ["none", "bfloat16"])
def test_experts_share_the_table_between_them(rounding):
    high, low = (
        drawn_indices(LevelConfig(rounding=rounding, lowest=a, highest=b)) for a, b in EXPERTS
    )
    assert (high[0], low[1]) == (0, LEVELS) and high[1] == low[0]
    # DiffSynth-Studio trains the two on 0 to 0.417 and on 0.417 to 1 of the same table.
    assert abs(high[1] / LEVELS - 0.417) < 0.003


def test_a_whole_table_is_drawn_from_as_ever():
    assert drawn_indices(LevelConfig()) == (0, LEVELS)
    narrowed = draw(jax.random.key(0), 9, 7, LevelConfig(lowest=1e-6))
    assert drawn_indices(LevelConfig(lowest=1e-6)) == (0, LEVELS)
    np.testing.assert_array_equal(narrowed, draw(jax.random.key(0), 9, 7, LevelConfig()))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"lowest": 0.9, "highest": 0.9}, "lowest=0.9 and highest=0.9"),
        ({"lowest": -0.1}, "lowest=-0.1"),
        ({"highest": 1.5}, "highest=1.5"),
        ({"highest": 0.001}, "no level of the training table lies between"),
    ],
)
def test_a_range_without_levels_is_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        LevelConfig(**levels)


@pytest.mark.parametrize("edge", [{"probability": 0.0}, {"probability": 1.0}, {"shift": 0.5}])
def test_settings_at_the_edge_are_taken(edge):
    [(name, value)] = edge.items()
    assert getattr(LevelConfig(**edge), name) == value


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_table_has_the_shift_of_the_settings(shift):
    table = level_table(LevelConfig(shift=shift, rounding="none"))
    assert np.array_equal(table.sigmas, pusa_schedule(LEVELS, shift))
    assert np.array_equal(table.timesteps[:-1], table.sigmas[:-1] * np.float32(1000))


PINNED = {
    "independent": [[185, 33, 385], [986, 36, 839], [260, 1, 149], [453, 260, 959]],
    "ptss": [[185, 33, 385], [646, 646, 646], [120, 120, 120], [455, 455, 455]],
    "shared": [[332, 332, 332], [646, 646, 646], [120, 120, 120], [455, 455, 455]],
    "first_frame_clean": [[1000, 332, 332], [1000, 646, 646], [1000, 120, 120], [1000, 455, 455]],
}
"""Sampler -> draws of key 7, half of the ptss clips independent."""


@pytest.mark.parametrize("sampler", PINNED)
def test_a_key_draws_the_same_in_every_version(sampler):
    """Or a run that goes on with a newer version would not be the run that began."""
    config = LevelConfig(sampler=sampler, probability=0.5)
    assert draw(jax.random.key(7), 4, 3, config).tolist() == PINNED[sampler]


def test_even_levels_of_mochi_lie_alike_far_apart_down_to_the_last():
    table = level_table(LevelConfig(schedule="linear_quadratic", even=True, rounding="none"))
    np.testing.assert_allclose(table.sigmas, np.linspace(1, 0, LEVELS + 1), atol=1e-6)
    np.testing.assert_allclose(table.timesteps, np.arange(LEVELS + 1), atol=1e-3)
    even = LevelConfig(schedule="linear_quadratic", even=True)
    assert drawn_indices(even) == (0, LEVELS)
