import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition, check_conditions, place
from pusa_jax.diffusion.guidance import guided, guided_together

LIKE = jnp.zeros((1, 5, 2, 3, 4))


def given(index, multiplier, value=1.0):
    return FrameCondition(
        index=index, latents=jnp.full((1, 1, 2, 3, 4), value), multiplier=multiplier
    )


def test_frames_are_laid_out_in_any_order():
    clean, multipliers = place([given(4, 0.5, 4.0), given(0, 0.2, 2.0)], LIKE)
    assert np.allclose(multipliers, [0.2, 1, 1, 1, 0.5])
    assert np.allclose(clean[0, :, 0, 0, 0], [2, 0, 0, 0, 4])


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([given(5, 0.2)], "position 5 is outside the clip: use 0 to 4"),
        ([given(-1, 0.2)], "position -1 is outside"),
        ([given(1, 0.2), given(1, 0.3)], "position 1 is given twice"),
        ([given(1, 1.2)], "1.2 is outside"),
        ([given(1, -0.1)], "-0.1 is outside"),
        ([given(i, 0.0) for i in range(5)], "nothing is left to sample"),
    ],
)
def test_impossible_conditions_are_refused(conditions, message):
    with pytest.raises(ValueError, match=message):
        place(conditions, LIKE)


@pytest.mark.parametrize(("indices", "multipliers"), [([0, 1], [0.2]), ([0], [0.2, 0.3])])
def test_every_place_needs_its_own_multiplier(indices, multipliers):
    with pytest.raises(ValueError, match=f"got {len(multipliers)} multipliers for {len(indices)}"):
        check_conditions(indices, multipliers, 5)


def test_every_frame_may_be_given_if_one_is_left_to_sample():
    check_conditions(range(5), [0.0, 0.0, 0.0, 0.0, 1.0], 5)
    check_conditions(range(4), [0.0] * 4, 5)


def test_a_given_frame_has_the_shape_of_one_of_the_clip():
    small = FrameCondition(index=0, latents=jnp.ones((1, 1, 1, 1, 4)), multiplier=0.2)
    with pytest.raises(ValueError, match="one frame of the clip, got"):
        place([small], LIKE)


def test_what_is_laid_out_has_the_dtype_of_the_clip():
    assert place([given(0, 0.2)], LIKE.astype(jnp.bfloat16))[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_moves_away_from_the_negative_prompt(scale):
    x, t = jnp.ones((1, 5, 2, 3, 4)), jnp.ones((1, 5))
    velocity = guided(lambda x, t, text: x * text, jnp.asarray([2.0, 0.5]), jnp.float32(scale))
    assert jnp.allclose(velocity(x, t), 0.5 + scale * 1.5)


def test_guidance_off_leaves_the_negative_pass_out():
    x, t = jnp.ones((1, 5, 2, 3, 4)), jnp.ones((1, 5))
    velocity = guided(lambda x, t, text: x * text, jnp.asarray([2.0, jnp.nan]), jnp.float32(1))
    assert jnp.array_equal(velocity(x, t), 2 * x)


def test_guidance_off_asks_the_network_once():
    x, t, asked = jnp.ones((1, 5, 2, 3, 4)), jnp.ones((1, 5)), []

    def velocity(x, t, text):
        jax.debug.callback(lambda text: asked.append(float(text)), text)
        return x * text

    for scale, prompts in ((1, [2.0]), (3, [2.0, 0.5])):
        jax.block_until_ready(guided(velocity, jnp.asarray([2.0, 0.5]), jnp.float32(scale))(x, t))
        jax.effects_barrier()
        assert asked == prompts
        asked.clear()


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_both_passes_as_one_batch_are_the_same_guidance(scale):
    x, t = jax.random.normal(jax.random.key(0), (2, 5, 2, 3, 4)), jnp.arange(10.0).reshape(2, 5)

    def velocity(x, t, text):
        return (x + t[:, :, None, None, None]) * text.reshape(-1, 1, 1, 1, 1)

    prompts, negatives = (
        jnp.asarray([2.0, 3.0]),
        jnp.asarray([0.5, jnp.nan if scale == 1 else -1.0]),
    )
    together = guided_together(velocity, jnp.concatenate([prompts, negatives]), jnp.float32(scale))
    in_turn = guided(velocity, jnp.stack([prompts, negatives]), jnp.float32(scale))
    assert jnp.allclose(together(x, t), in_turn(x, t), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_guidance_leaves_channels_alone_that_latents_do_not_have(scale):
    x, t = jnp.ones((1, 2, 1, 1, 4)), jnp.ones((1, 2))

    def network(x, t, text):
        return jnp.concatenate([x, 10 * x], -1) * text.reshape(-1, 1, 1, 1, 1)

    texts = jnp.asarray([2.0, 0.5])
    for guide in (guided, guided_together):
        found = guide(network, texts, jnp.float32(scale))(x, t)
        assert found.shape == (1, 2, 1, 1, 8)
        assert (found[..., :4] == 0.5 + 1.5 * scale).all() and (found[..., 4:] == 20).all()


def picture(value, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


def clip(count):
    return np.stack([picture(i) for i in range(count)])


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (5, 2), (81, 21), (121, 31)])
def test_pixel_and_latent_frames_correspond(frames, latent):
    assert tasks.latent_frames(frames, 4) == latent
    assert tasks.pixel_frames(latent, 4) == frames


@pytest.mark.parametrize("frames", [0, -3, 2, 80, 82])
def test_other_frame_counts_name_their_neighbours(frames):
    with pytest.raises(ValueError, match=f"must be 4k\\+1, got {frames}; nearest are"):
        tasks.latent_frames(frames, 4)


def test_start_end_keeps_both_ends():
    conditions = tasks.start_end(picture(1), picture(2), 21)
    assert [c.at for c in conditions] == [(0,), (20,)]
    assert [c.multipliers for c in conditions] == [(0.2,), (0.5,)]
    assert [len(c.frames) for c in conditions] == [1, 1]


def test_loop_ends_where_it_began():
    first, last = tasks.loop(picture(7), 21)
    assert np.array_equal(first.frames, last.frames) and last.at == (20,)


def test_interpolation_spreads_its_pictures():
    conditions = tasks.interpolate([picture(i) for i in range(3)], 21)
    assert [c.at[0] for c in conditions] == [0, 10, 20]


def test_extension_uses_no_more_frames_than_it_needs():
    (condition,) = tasks.extend(clip(40), 4)
    assert len(condition.frames) == 13
    assert condition.take == condition.at == (0, 1, 2, 3)


def test_completion_of_a_short_clip_says_how_many_frames_are_needed():
    with pytest.raises(ValueError, match="has 80 frames, 81 are needed"):
        tasks.complete(clip(80), 21, 4)


def test_transition_takes_the_end_of_one_clip_and_the_beginning_of_the_other():
    first, second = tasks.transition(clip(30), 100 + clip(30), 21, 4)
    assert np.array_equal(first.frames[:, 0, 0, 0], np.arange(21, 30))
    assert first.at == (0, 1, 2)
    assert np.array_equal(second.frames[:, 0, 0, 0], [100, *range(100, 112)])
    assert second.take == (1, 2, 3) and second.at == (18, 19, 20)


def test_transition_needs_both_halves():
    with pytest.raises(ValueError, match="both halves"):
        tasks.transition(clip(30), clip(30), 21, 4, at=(0, 1))
