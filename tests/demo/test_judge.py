"""The tiny world: its clips, its measuring stick, its dataset."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from experiments.tiny_world import evaluate
from pusa_jax.demo import judge
from pusa_jax.demo.world import BACKGROUNDS, NARROW, WIDE, draw, draw_any, render

SHORT = dataclasses.replace(NARROW, num_frames=9)


def test_a_scene_depends_on_seed_and_number_alone():
    first = draw(WIDE, 3, 5)
    draw(WIDE, 3, 6)
    again = draw(WIDE, 3, 5)
    assert np.array_equal(render(first), render(again))
    assert not np.array_equal(first.positions, draw(WIDE, 4, 5).positions)


def test_all_combinations_occur_about_equally_often():
    seen = collections.Counter(draw(NARROW, 0, i).caption for i in range(1200))
    assert len(seen) == 12
    assert min(seen.values()) > 60


@pytest.mark.parametrize("world", [NARROW, WIDE], ids=["narrow", "wide"])
def test_objects_stay_inside_the_frame(world):
    for i in range(60):
        scene = draw(world, 1, i)
        video, back = render(scene), BACKGROUNDS[scene.background]
        rim = [video[:, 0], video[:, -1], video[:, :, 0], video[:, :, -1]]
        assert all((part == back).all() for part in rim), scene.caption


def test_positions_are_the_centres_of_what_is_painted():
    scene = draw(SHORT, 0, 0)
    video = render(scene).astype(np.float64)
    bright = np.abs(video - BACKGROUNDS["black"]).sum(-1)
    y, x = np.indices(bright.shape[1:]) + 0.5
    total = bright.sum((1, 2))
    centres = np.stack([(bright * x).sum((1, 2)), (bright * y).sum((1, 2))], 1) / total[:, None]
    np.testing.assert_allclose(centres, scene.positions, atol=0.02)
    assert abs(np.diff(scene.positions, axis=0)).max() == pytest.approx(0.75)


def test_clips_for_the_autoencoder_show_one_shape():
    for i in range(10):
        video = draw_any(np.random.default_rng(i), 32, 9)
        assert video.shape == (9, 32, 32, 3)
        _, counts = np.unique(video[4].reshape(-1, 3), axis=0, return_counts=True)
        assert np.sort(counts)[-2:].sum() > 0.85 * counts.sum()


def spoiled(video, seed):
    """A clip as a fair autoencoder would hand it back: blurred a little, and noisy."""
    noise = np.random.default_rng(seed).normal(0, 6, video.shape)
    soft = ndimage.gaussian_filter(video.astype(np.float32), (0, 0.7, 0.7, 0)) + noise
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [lambda video, seed: video, spoiled], ids=["exact", "spoiled"])
@pytest.mark.parametrize("world", [NARROW, WIDE], ids=["narrow", "wide"])
def test_the_stick_is_right_about_the_truth(world, change):
    found = []
    for i in range(25):
        scene = draw(world, 2, i)
        # Every other frame: as much to see, in half the time.
        scene = dataclasses.replace(scene, positions=scene.positions[::2])
        verdict = judge.judge(change(render(scene), i), scene)
        found.append(
            [
                verdict.coherent,
                verdict.colour,
                verdict.background,
                verdict.shape,
                verdict.direction,
                verdict.path,
                np.mean(verdict.errors < 0.5),
            ]
        )
    assert np.mean(found, axis=0).min() >= 0.99, np.mean(found, axis=0)


def test_blobs_of_the_right_colour_are_not_coherent():
    scene = draw(NARROW, 0, 1)
    video = render(scene)[:4]
    video[:, 2:6, 2:6] = video[:, 20:48, 2:46].max((1, 2))[:, None, None]
    verdict = judge.judge(video, scene)
    assert verdict.colour == 1 and verdict.background == 1
    assert verdict.coherent == 0


def test_half_an_object_is_not_coherent():
    scene = draw(NARROW, 0, 1)
    video, x = render(scene)[:4], int(scene.positions[0, 0])
    video[:, :, : x + 1] = BACKGROUNDS["black"]
    assert judge.judge(video, scene).coherent == 0


def test_an_object_that_rests_has_no_direction():
    scene = draw(NARROW, 0, 1)
    still = np.repeat(render(scene)[:1], 5, axis=0)
    assert not judge.judge(still, scene).direction


def test_a_clip_played_backwards_goes_the_other_way():
    scene = draw(NARROW, 0, 1)
    assert not judge.judge(render(scene)[::-4], scene).direction


def test_given_frames_do_not_count():
    scene = draw(NARROW, 0, 1)
    video = render(scene)[::8]
    video[1:] = BACKGROUNDS["black"]
    assert judge.judge(video, scene).coherent == pytest.approx(1 / 5)
    assert judge.judge(video, scene, given=(0,)).coherent == 0


def test_a_body_of_many_colours_is_looked_at_without_warning(recwarn):
    frame = np.full((48, 48, 3), 8, np.uint8)
    for i in range(12, 36):
        frame[12:36, i, i % 3] = 200
    seen = judge.look(frame)
    assert seen.objects == 1 and seen.area == 0 and not seen.shape and not recwarn.list


def test_an_empty_clip_is_judged_without_warning():
    scene = draw(NARROW, 0, 1)
    verdict = judge.judge(np.zeros((5, 48, 48, 3), np.uint8), scene)
    assert verdict.coherent == 0 and not verdict.direction and np.isnan(verdict.errors).all()


def test_frames_that_a_task_gives_are_named_by_their_latents():
    assert evaluate.TEXT_TO_VIDEO.given(4) == ()
    assert evaluate.IMAGE_TO_VIDEO.given(4) == (0,)
    assert evaluate.START_END.given(4) == (0, 29, 30, 31, 32)
    assert evaluate.EXTENSION.given(4) == tuple(range(13))
