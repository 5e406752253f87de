"""Tasks: what is given where, with which multiplier, and what is refused.

Their published defaults are a table of `test_published_defaults.py`; layouts of single tasks with
another number of frames are in `test_conditioning.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numbered import frame, frames, told

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.models.wan.schedule import noise_table

A, B, C = frame(1), frame(2), frame(3)
CLIP, OTHER = frames(range(40)), frames(range(100, 140))

CHOSEN = {
    "i2v": (lambda at, m: tasks.image_to_video(A, at, m), (3,), (0.7,)),
    "start-end": (lambda at, m: tasks.start_end(A, B, 9, at, m), (1, 5), (0.7, 0.1)),
    "loop": (lambda at, m: tasks.loop(A, 9, at, m), (1, 5), (0.7, 0.1)),
    "interpolate": (
        lambda at, m: tasks.interpolate([A, B, C], 9, at, m),
        (1, 2, 5),
        (0.1, 0.7, 0.0),
    ),
    "complete": (lambda at, m: tasks.complete(CLIP, 9, 4, at, m), (0, 2, 5), (0.1, 0.7, 0.0)),
    "extend": (lambda at, m: tasks.extend(CLIP, 4, at, m), (0, 1, 2, 3), (0.1, 0.7, 0.0, 1.0)),
    "transition": (
        lambda at, m: tasks.transition(CLIP, OTHER, 9, 4, at, m),
        (0, 2, 6, 8),
        (0.1, 0.7, 0.0, 1.0),
    ),
}
"""Task -> a call of it, places and multipliers that are not its defaults."""


def placed(conditions):
    """Place -> multiplier."""
    return {i: m for c in conditions for i, m in zip(c.at, c.multipliers, strict=True)}


@pytest.mark.parametrize("name", CHOSEN)
def test_places_and_multipliers_that_are_given_replace_the_defaults(name):
    call, at, multipliers = CHOSEN[name]
    assert placed(call(at, multipliers)) == dict(zip(at, multipliers, strict=True))


DEFAULT_MULTIPLIERS = {
    "i2v": (0.2,),
    "start-end": (0.2, 0.5),
    "loop": (0.2, 0.5),
    "interpolate": (0.2, 0.5, 0.5),
    "complete": (0.3, 0.3, 0.3),
    "extend": (0.0, 0.3, 0.4, 0.5),
    "transition": (0.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_places_alone_leave_the_multipliers_of_the_task(name):
    call, at, _ = CHOSEN[name]
    assert placed(call(at, None)) == dict(zip(at, DEFAULT_MULTIPLIERS[name], strict=True))


@pytest.mark.parametrize("name", sorted(CHOSEN.keys() - {"complete", "transition"}))
def test_multipliers_alone_leave_the_places_of_the_task(name):
    call, _, multipliers = CHOSEN[name]
    default = [*placed(call(None, None))]
    assert placed(call(None, multipliers)) == dict(zip(default, multipliers, strict=True))


def test_five_latent_frames_of_an_extension_are_kept_exactly():
    assert placed(tasks.extend(CLIP, 4, range(5))) == dict.fromkeys(range(5), 0.0)


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.parametrize("change", [-1, 1], ids=["one less", "one more"])
def test_other_numbers_of_multipliers_than_places_are_refused(name, change):
    call, at, multipliers = CHOSEN[name]
    wrong = (*multipliers, 0.5)[: len(at) + change]
    with pytest.raises(ValueError, match=f"must agree, got .*{len(at)} and {len(wrong)}"):
        call(at, wrong)


def test_other_numbers_of_pictures_than_places_are_refused():
    with pytest.raises(ValueError, match="must agree, got 3, 2 and 2"):
        tasks.images_at([A, B, C], (0, 1), (0.5, 0.5))


def test_a_picture_stands_where_it_is_named():
    conditions = tasks.images_at([A, B], (4, 1), (0.1, 0.2))
    assert told(conditions) == [([1], (0,), (4,), (0.1,)), ([2], (0,), (1,), (0.2,))]


@pytest.mark.parametrize("stride", [2, 4])
def test_a_clip_is_cut_behind_the_last_latent_frame_that_is_used(stride):
    (condition,) = told(tasks.video_at(CLIP, (5, 2), (0.1, 0.2), stride))
    assert condition == ([*range(5 * stride + 1)], (5, 2), (5, 2), (0.1, 0.2))


def test_a_clip_of_exactly_the_frames_that_are_needed_is_long_enough():
    (condition,) = tasks.video_at(CLIP[:21], (5,), (0.1,), 4)
    assert len(condition.frames) == 21
    with pytest.raises(ValueError, match="has 20 frames, 21 are needed for position 5"):
        tasks.video_at(CLIP[:20], (5,), (0.1,), 4)


def test_interpolation_rounds_places_to_the_nearest_latent_frame():
    assert [*placed(tasks.interpolate([A, B, C, A], 9))] == [0, 3, 5, 8]
    assert [*placed(tasks.interpolate([A, B], 9))] == [0, 8]


def test_interpolation_needs_two_pictures():
    with pytest.raises(ValueError, match="needs at least 2 images, got 1"):
        tasks.interpolate([A], 9)


@pytest.mark.parametrize(
    ("call", "given", "room"),
    [
        (lambda: tasks.start_end(A, B, 1), 2, 1),
        (lambda: tasks.loop(A, 1), 2, 1),
        (lambda: tasks.complete(CLIP, 1, 4), 2, 1),
        (lambda: tasks.interpolate([A, B, C], 2), 3, 2),
        (lambda: tasks.transition(CLIP, OTHER, 5, 4), 6, 5),
    ],
)
def test_defaults_without_room_are_refused(call, given, room):
    with pytest.raises(ValueError, match=f"^{given} given .* no room in a clip of {room}; make it"):
        call()


def test_given_places_decide_where_defaults_would_have_no_room():
    assert placed(tasks.start_end(A, B, 1, (0, 1))) == {0: 0.2, 1: 0.5}
    assert placed(tasks.transition(CLIP, OTHER, 4, 4, (0, 3))) == {0: 0, 3: 0}


def test_the_shortest_transition_keeps_all_of_its_six_latent_frames():
    assert [*placed(tasks.transition(CLIP, OTHER, 6, 4))] == [0, 1, 2, 3, 4, 5]


def test_a_transition_takes_frames_by_their_distance_to_the_ends():
    """Places 0 and 2 span nine frames, places 6 and 8 of 9 the twelve of the last three."""
    conditions = told(tasks.transition(CLIP, OTHER, 9, 4, (0, 2, 6, 8), (0.1, 0.2, 0.3, 0.4)))
    assert conditions == [
        ([*range(31, 40)], (0, 2), (0, 2), (0.1, 0.2)),
        ([100, *range(100, 112)], (1, 3), (6, 8), (0.3, 0.4)),
    ]


def test_a_transition_gives_each_place_its_own_multiplier_in_any_order():
    conditions = tasks.transition(CLIP, OTHER, 9, 4, (8, 0, 6, 2), (0.1, 0.2, 0.3, 0.4))
    assert placed(conditions) == {8: 0.1, 0: 0.2, 6: 0.3, 2: 0.4}
    assert [c.at for c in conditions] == [(0, 2), (6, 8)]


@pytest.mark.parametrize(
    ("f", "stride", "at", "frames_needed"),
    [
        (21, 4, None, (9, 12)),
        (21, 2, None, (5, 6)),
        (21, 4, (3, 19), (13, 8)),
        (8, 4, (3, 4), (13, 16)),
        (9, 4, (4, 5), (17, 16)),
    ],
)
def test_frames_a_transition_needs_of_each_clip(f, stride, at, frames_needed):
    assert tasks.transition_frames(f, stride, at) == frames_needed
    first, second = (CLIP[:n] for n in frames_needed)
    opening, closing = tasks.transition(first, second, f, stride, at)
    assert (len(opening.frames), len(closing.frames)) == (len(first), len(second) + 1)


@pytest.mark.parametrize(("short", "missing"), [("first", (8, 12)), ("second", (9, 11))])
def test_a_clip_too_short_for_a_transition_is_named(short, missing):
    has, needed = min(zip(missing, (9, 12), strict=True), key=lambda pair: pair[0] - pair[1])
    with pytest.raises(ValueError, match=f"the {short} video has {has} frames, {needed} are"):
        tasks.transition(CLIP[: missing[0]], OTHER[: missing[1]], 21, 4)


@pytest.mark.parametrize("at", [(0, 1), (8, 9), (0, 4)])
def test_a_transition_needs_places_in_both_halves(at):
    with pytest.raises(ValueError, match=r"in both halves of 0\.\.9, got"):
        tasks.transition(CLIP, OTHER, 10, 4, at)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (0, "got 0; nearest are 1 and 5"),
        (-3, "got -3; nearest are 1 and 5"),
        (4, "got 4; nearest are 1 and 5"),
        (82, "got 82; nearest are 81 and 85"),
    ],
)
def test_frame_counts_that_do_not_fit_name_both_neighbours(frames, message):
    with pytest.raises(ValueError, match=message):
        tasks.latent_frames(frames, 4)


@pytest.mark.parametrize("name", CHOSEN)
def test_frames_with_multiplier_0_stay_bit_for_bit(name):
    """Through noise table, first mix and every step, whatever the network answers."""
    call, at, multipliers = CHOSEN[name]
    exact = [0.0] * (len(at) - 1) + [multipliers[-1]]
    clean = jax.random.normal(jax.random.key(1), (1, 9, 2, 2, 4))
    given = [
        FrameCondition(index=i, latents=clean[:, i : i + 1], multiplier=m)
        for i, m in placed(call(at, exact)).items()
    ]
    noise = jax.random.normal(jax.random.key(0), clean.shape)
    laid_out, levels = place(given, noise)
    table = noise_table(4, 5.0, levels, rounding="bfloat16", truncate=True)
    end = denoise(lambda x, t: jnp.sin(99 * x) + 1, start(laid_out, noise, table), table)
    for i, m in placed(call(at, exact)).items():
        assert np.array_equal(end[:, i], clean[:, i]) == (m == 0)


def test_a_vae_that_keeps_every_frame_has_as_many_latent_frames():
    assert [tasks.latent_frames(n, 1) for n in (1, 2, 5)] == [1, 2, 5]
    assert [tasks.pixel_frames(n, 1) for n in (1, 2, 5)] == [1, 2, 5]


def test_the_first_picture_is_at_the_first_place_and_the_last_at_the_last():
    first, last = tasks.start_end(A, B, 9)
    assert np.array_equal(first.frames[0], A) and first.at == (0,)
    assert np.array_equal(last.frames[0], B) and last.at == (8,)


def test_a_joined_transition_is_one_clip_with_a_cut():
    """19 frames of 4 latent ones: ten of the first clip's beginning, nine of the second's."""
    (condition,) = tasks.joined_transition(CLIP, OTHER, 4, 6, (0, 3), (0.1, 0.3))
    np.testing.assert_array_equal(condition.frames, np.concatenate([CLIP[:10], OTHER[:9]]))
    assert condition.take == condition.at == (0, 3) and condition.multipliers == (0.1, 0.3)
    assert placed(tasks.joined_transition(CLIP, OTHER, 7, 4)) == dict.fromkeys(
        (0, 1, 2, 4, 5, 6), 0
    )


def test_a_joined_transition_needs_half_of_the_result_of_either_clip():
    with pytest.raises(ValueError, match="first video has 9 frames, 10 are needed"):
        tasks.joined_transition(CLIP[:9], OTHER, 4, 6, (0, 3))
    with pytest.raises(ValueError, match="second video has 8 frames, 9 are needed"):
        tasks.joined_transition(CLIP, OTHER[:8], 4, 6, (0, 3))
