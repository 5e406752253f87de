"""Windows: the frames are those of the original, and chance is even and the same everywhere."""

import collections

import numpy as np
import pytest

from pusa_jax.data.windows import draw, spread, strided
from tests.parity.golden import discover, golden_dirs

SPREAD = [0, 3, 6, 9, 12, 15, 18, 21, 25, 28, 31, 34, 37, 40, 43, 47]


@pytest.mark.parametrize(("total", "begin"), [(49, 0), (60, 11), (120, 37), (300, 200)])
def test_sixteen_frames_of_a_window_of_48_are_the_originals(total, begin):
    assert spread(begin, total, 16, 3).tolist() == [begin + i for i in SPREAD]
    assert strided(begin, total, 16, 3).tolist() == [begin + 3 * i for i in range(16)]


def test_recorded_frames_are_met(request):
    recorded = [
        golden
        for folder in golden_dirs(request.config.getoption("--golden-dir"))
        for golden in discover(folder)
        if golden.kind == "fvdm_eval"
    ]
    if not recorded:
        pytest.skip("no recording of kind fvdm_eval in the folders of golden files")
    for golden in recorded:
        rows = next(case["rows"] for case in golden.cases() if case["name"] == "frames")
        for rule, name in ((spread, "linspace"), (strided, "stride3")):
            got = [rule(row["begin"], row["total_frames"], 16, 3) for row in rows]
            np.testing.assert_array_equal(got, golden.tensor(f"out.frames.{name}"))
        for row in rows:
            first, last = row["begin_drawn_from"]
            drawn = {draw("v", i, row["total_frames"], 48).begin for i in range(4000)}
            assert drawn == set(range(first, last + 1))


@pytest.mark.parametrize("num_frames", [1, 5, 17])
def test_at_an_interval_of_1_a_clip_is_the_window_itself(num_frames):
    for rule in (spread, strided):
        assert rule(4, 40, num_frames, 1).tolist() == list(range(4, 4 + num_frames))


def test_a_short_video_is_spread_from_its_first_frame_to_its_last():
    assert spread(0, 16, 16, 3).tolist() == list(range(16))
    assert spread(0, 31, 16, 3).tolist() == list(range(0, 31, 2))


def test_every_place_but_the_last_is_as_likely():
    count = collections.Counter(draw("a.avi", i, 59, 48).begin for i in range(11_000))
    assert set(count) == set(range(11))  # 11 would end with the last frame
    # Five standard deviations of a count whose mean is 1000.
    assert all(abs(n - 1000) < 5 * np.sqrt(1000 * 10 / 11) for n in count.values()), count


def test_half_of_the_windows_are_mirrored_wherever_they_begin():
    draws = [draw("a.avi", i, 51, 48) for i in range(9000)]
    for begin in range(3):
        flips = [d.is_flipped for d in draws if d.begin == begin]
        assert abs(np.mean(flips) - 0.5) < 5 * 0.5 / np.sqrt(len(flips))


@pytest.mark.parametrize("total", [20, 48, 49])
def test_a_video_no_longer_than_its_window_begins_at_its_start(total):
    assert {draw(f"{i}.avi", 0, total, 48).begin for i in range(50)} == {0}


def test_a_draw_depends_on_the_video_and_the_number_of_the_window():
    # These numbers must stay: a dataset that is gone on with would otherwise mix two draws.
    kept = {("a", 0): 354, ("a", 1): 172, ("b", 0): 662, ("x/ä.avi", 2): 765}
    assert {which: draw(*which, 1000, 48).begin for which in kept} == kept
    assert [draw(*which, 1000, 48).is_flipped for which in kept] == [True, False, False, False]
