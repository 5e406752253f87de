"""Clips made of noise, and the order in which they are shown."""

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.data.batches import Batches, Clips, NoiseClips

CLIP, TEXT = (3, 2, 2, 4), (5, 6)


@pytest.fixture(scope="module")
def clips():
    return NoiseClips(CLIP, TEXT, count=7)


def test_they_are_what_a_run_takes(clips):
    assert isinstance(clips, Clips) and isinstance(clips.batches(2, (0,), 0), Batches)
    assert (clips.clip_shape, clips.text_shape, len(clips)) == (CLIP, TEXT, 7)
    assert len(NoiseClips(CLIP, TEXT)) == 64


def test_the_empty_prompt_is_zeros(clips):
    assert clips.no_text.shape == TEXT and clips.no_text.dtype == ml_dtypes.bfloat16
    assert not clips.no_text.any()


def test_a_clip_is_the_same_wherever_it_is_shown(clips):
    one, some = clips.at([4]), clips.at([2, 4])
    for name in ("latents", "text"):
        assert one[name].dtype == ml_dtypes.bfloat16
        assert np.array_equal(one[name][0], some[name][1])
        assert np.array_equal(one[name], NoiseClips(CLIP, TEXT, count=7).at([4])[name])
    assert one["latents"].shape == (1, *CLIP) and some["text"].shape == (2, *TEXT)
    assert some["id"] == ["noise-2", "noise-4"]


def test_every_clip_is_standard_normal_and_its_own(clips):
    wide = NoiseClips((8, 8, 8, 16), (8, 8), count=2).examples(2)["latents"].astype(np.float32)
    assert abs(wide.mean()) < 0.05 and abs(wide.std() - 1) < 0.05
    assert not np.array_equal(wide[0], wide[1])


def test_text_is_not_the_latents_again():
    clip = NoiseClips((1, 2, 2, 4), (4, 4), count=1).at([0])
    assert not np.array_equal(clip["latents"].ravel(), clip["text"].ravel())


def test_examples_are_the_first_clips(clips):
    assert clips.examples(3)["id"] == ["noise-0", "noise-1", "noise-2"]


@pytest.mark.parametrize("wrong", [((3, 2, 2, 5), TEXT), (CLIP, (5, 7))])
def test_other_shapes_are_refused_with_both(clips, wrong):
    clips.check_fits(CLIP, TEXT)
    clips.check_fits(CLIP, TEXT, {"any": "vae"})
    with pytest.raises(ValueError, match=r"noise has shapes .* the run wants"):
        clips.check_fits(*wrong)


def test_a_pass_has_each_clip_once_and_the_next_another_order(clips):
    batches = clips.batches(1, (0,), 5)
    first, second = ([next(batches)["id"][0] for _ in range(7)] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(clips.examples(7)["id"])
    assert first != second


def test_rows_are_places_in_the_batch_of_the_step(clips):
    """Batches may end amid a pass: 7 clips in batches of 4."""
    single, batches = clips.batches(1, (0,), 5), clips.batches(4, (1, 3), 5)
    order = [next(single)["id"][0] for _ in range(12)]
    assert [next(batches)["id"] for _ in range(3)] == [
        [order[1], order[3]],
        [order[5], order[7]],
        [order[9], order[11]],
    ]


def test_a_position_is_the_number_of_batches_shown(clips):
    batches, again = clips.batches(2, (0, 1), 5), clips.batches(2, (0, 1), 5)
    shown = [next(batches)["id"] for _ in range(3)]
    assert batches.state() == {"step": 3}
    again.restore({"step": 2})
    assert next(again)["id"] == shown[2]


def test_a_seed_decides_the_order(clips):
    one, same, other = (clips.batches(7, range(7), seed) for seed in (1, 1, 2))
    ids = next(one)["id"]
    assert next(same)["id"] == ids != next(other)["id"]


def test_labels_of_noise_are_numbers_of_the_classes():
    clips = NoiseClips((1, 2, 2, 4), (1, 1), classes=3)
    assert {*clips.examples(64)["text"].astype(int).ravel().tolist()} == {0, 1, 2}
