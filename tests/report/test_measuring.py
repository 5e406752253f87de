"""One pass over a video."""

import io

import numpy as np
import pytest
from PIL import Image
from small_videos import moving, written

from pusa_jax.media import video
from pusa_jax.report import quality
from pusa_jax.report.measuring import Asked, measure, reduced

CLIP = moving(9, size=64)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measuring")
    written(folder / "a.mp4", CLIP)
    written(folder / "b.mp4", np.clip(CLIP[:6].astype(int) + 9, 0, 255).astype(np.uint8))
    written(folder / "small.mp4", moving(9))
    return folder


def measured(clips, name="a.mp4", shown=(), given=None, against=None):
    asked = Asked(shown=shown, width=48, given=given or {}, against=against and clips / against)
    ticks = []
    series = measure(clips / name, asked, lambda: ticks.append(1))
    assert len(ticks) == len(series.colours)
    return series


def test_numbers_are_those_of_the_frames(clips):
    frames, _ = video.read_video(clips / "a.mp4")
    series, bright = measured(clips), np.stack([quality.luma(frame) for frame in frames])
    assert series.size == (64, 64)
    np.testing.assert_allclose(series.colours, frames.mean((1, 2)))
    np.testing.assert_allclose(series.changes, np.abs(np.diff(bright, axis=0)).mean((1, 2)))
    assert series.closing == pytest.approx(np.abs(bright[-1] - bright[0]).mean())


def test_frames_are_held_against_those_of_another_as_far_as_both_go(clips):
    one, other = (video.read_video(clips / name)[0] for name in ("a.mp4", "b.mp4"))
    series = measured(clips, against="b.mp4")
    assert len(series.errors) == len(series.similar) == 6
    assert series.errors[3] == pytest.approx(quality.squared_error(one[3], other[3]))
    alike = quality.ssim(quality.luma(one[3]), quality.luma(other[3]))
    assert series.similar[3] == pytest.approx(alike)
    assert measured(clips, against="a.mp4").errors.tolist() == [0.0] * 9


def test_another_size_is_not_held_against(clips):
    assert measured(clips, against="small.mp4").errors.tolist() == []


def test_frames_are_held_against_what_was_given(clips):
    frames, _ = video.read_video(clips / "a.mp4")
    series = measured(clips, given={0: frames[0], 5: frames[0], 99: frames[0]})
    assert sorted(series.given) == [0, 5]
    assert series.given[0] == (0.0, pytest.approx(1.0))
    assert series.given[5][0] == pytest.approx(quality.squared_error(frames[5], frames[0]))


def test_enlarged_clips_are_judged_at_their_own_size(clips):
    small = moving(9)
    series = measured(clips, given={4: small[4], 5: np.zeros((60, 60, 3), np.uint8)})
    assert sorted(series.given) == [4]
    assert quality.psnr(series.given[4][0]) > 35
    np.testing.assert_array_equal(reduced(CLIP[3], (32, 32)), small[3])
    np.testing.assert_array_equal(reduced(CLIP[3], (64, 64)), CLIP[3])
    assert reduced(CLIP[3], (32, 64)) is None and reduced(CLIP[3], (128, 128)) is None


def test_pictures_are_small_and_the_last_takes_the_place_of_those_behind_the_end(clips):
    frames, _ = video.read_video(clips / "a.mp4")
    pictures = measured(clips, shown=(0, 4, 12)).pictures
    assert sorted(pictures) == [0, 4, 8]
    shown = Image.open(io.BytesIO(pictures[4]))
    assert shown.size == (48, 48) and shown.format == "JPEG"
    theirs = np.asarray(Image.fromarray(frames[4]).resize((48, 48), Image.Resampling.LANCZOS))
    assert np.abs(np.asarray(shown).astype(int) - theirs).mean() < 6
