import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.flow import per_frame
from pusa_jax.diffusion.timesteps import LevelConfig, LevelTable, clip_keys
from pusa_jax.training.objective import ObjectiveConfig, clip_losses, frame_errors, noised_batch

KEYS = clip_keys(jax.random.key(0), jnp.arange(64))
CLEAN = jax.random.normal(jax.random.key(1), (64, 5, 2, 2, 3))
TEXT = jax.random.normal(jax.random.key(2), (64, 4, 6))
NO_TEXT = jnp.full((1, 4, 6), 7.0, "float32")


def run(count=64, **config):
    return noised_batch(
        KEYS[:count], CLEAN[:count], TEXT[:count], NO_TEXT, ObjectiveConfig(**config)
    )


def test_noised_frames_lie_on_the_path_to_the_target():
    task = run()
    back = task.noised - per_frame(task.levels.sigmas) * task.target
    assert np.allclose(back, CLEAN, atol=1e-5)
    assert abs(float((task.target + CLEAN).std()) - 1) < 0.02


def test_a_clip_gets_the_same_exercise_in_any_batch():
    alone, among = run(3), run()
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(among), strict=True):
        assert np.array_equal(one, many[:3])


def test_text_is_dropped_clip_by_clip():
    assert np.array_equal(run().text, TEXT)
    dropped = (run(text_dropout=0.3).text == NO_TEXT).all(axis=(1, 2))
    assert abs(dropped.mean() - 0.3) < 0.15
    kept = run(text_dropout=0.3).text[~dropped]
    assert np.array_equal(kept, TEXT[~dropped])
    assert np.array_equal(run(text_dropout=0.3).noised, run().noised)


def levels(sigmas, weights):
    return LevelTable(
        sigmas=jnp.asarray(sigmas), timesteps=jnp.asarray(sigmas), weights=jnp.asarray(weights)
    )


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("pusa", 2.0 * 1.5), ("per_frame", (1 * 2 + 3 * 1) / 2), ("none", 2.0)],
)
def test_weightings(weighting, expected):
    drawn = levels([[0.5, 0.9]], [[2.0, 1.0]])
    assert clip_losses(jnp.asarray([[1.0, 3.0]]), drawn, weighting)[0] == pytest.approx(expected)


@pytest.mark.parametrize("weighting", ["pusa", "per_frame", "none"])
def test_clean_frames_do_not_count(weighting):
    three = levels([[0.0, 0.5, 0.9]], [[0.0, 2.0, 1.0]])
    two = levels([[0.5, 0.9]], [[2.0, 1.0]])
    errors = jnp.asarray([[100.0, 1.0, 3.0]])
    assert clip_losses(errors, three, weighting) == clip_losses(errors[:, 1:], two, weighting)


def test_errors_are_means_over_a_frame():
    target = jnp.zeros((1, 2, 2, 2, 3))
    assert np.array_equal(frame_errors(target.at[:, 1].set(2.0), target), [[0.0, 4.0]])


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_dropout_of_all_text_or_of_less_than_none_is_refused(share):
    with pytest.raises(ValueError, match=rf"text_dropout must be in \[0, 1\), got {share}"):
        ObjectiveConfig(text_dropout=share)


def test_first_frame_clean_shows_the_clean_frame():
    task = run(levels=LevelConfig(sampler="first_frame_clean"))
    assert np.array_equal(task.noised[:, 0], CLEAN[:, 0])


def test_the_defaults_are_those_of_the_original():
    config = ObjectiveConfig()
    assert (config.weighting, config.text_dropout) == ("pusa", 0.0)
    levels = config.levels
    assert (levels.sampler, levels.shift, levels.rounding) == ("independent", 5.0, "bfloat16")


def test_a_frame_of_pure_noise_counts_though_its_weight_is_zero():
    drawn = levels([[1.0, 0.5]], [[0.0, 2.0]])
    assert clip_losses(jnp.asarray([[4.0, 2.0]]), drawn, "pusa")[0] == 3.0


def test_a_clip_without_noise_has_no_loss():
    assert clip_losses(jnp.ones((1, 2)), levels([[0.0, 0.0]], [[0.0, 0.0]]), "pusa")[0] == 0


def test_errors_are_taken_in_float32_whatever_the_network_computes_in():
    predicted, target = jnp.ones((1, 1, 1, 1, 1), "bfloat16"), jnp.full((1, 1, 1, 1, 1), 1.001)
    assert frame_errors(predicted, target)[0, 0] == pytest.approx(1e-6, rel=1e-2)


def test_text_keeps_its_dtype_where_it_is_dropped():
    text = TEXT[:3].astype("bfloat16")
    config = ObjectiveConfig(text_dropout=0.3)
    assert noised_batch(KEYS[:3], CLEAN[:3], text, NO_TEXT, config).text.dtype == jnp.bfloat16


def test_latents_of_any_dtype_are_noised_in_float32():
    halves = CLEAN[:3].astype("bfloat16")
    task = noised_batch(KEYS[:3], halves, TEXT[:3], NO_TEXT, ObjectiveConfig())
    assert task.noised.dtype == task.target.dtype == jnp.float32
    exact = noised_batch(KEYS[:3], halves.astype("float32"), TEXT[:3], NO_TEXT, ObjectiveConfig())
    assert np.array_equal(task.noised, exact.noised)


def test_a_key_makes_the_same_exercise_in_every_version():
    """Or a run that goes on with a newer version would not be the run that began."""
    task = run(6, text_dropout=0.5)
    assert (task.text == NO_TEXT).all(axis=(1, 2)).tolist() == [
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    assert task.levels.timesteps[0].tolist() == [916.0, 908.0, 704.0, 796.0, 286.0]
    np.testing.assert_allclose(
        (task.target + CLEAN[:6])[0, 0, 0, 0],
        [-1.2574800252914429, -0.4016000032424927, -1.121359944343567],
        atol=1e-5,
    )


def test_every_frame_of_every_clip_has_noise_of_its_own():
    task = run(3)
    noise = np.asarray(task.target + CLEAN[:3]).reshape(15, -1)
    assert np.abs(np.corrcoef(noise) - np.eye(15)).max() < 0.95
