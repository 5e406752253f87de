"""Several videos measured side by side."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_videos import job_record, moving, written

from pusa_jax.media import video
from pusa_jax.report import comparing, quality
from pusa_jax.report.batch import report_of
from pusa_jax.report.comparing import beside_alike, beside_first, measured, names_of, open_all
from pusa_jax.report.text import NAME, ROWS, table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, frames = tmp_path_factory.mktemp("comparing"), moving(17)
    video.write_png(folder / "first.png", frames[0])
    inputs = ("i2v", folder / "first.png")
    written(folder / "a.mp4", frames, job_record(*inputs, at=(0,), multipliers=[0.2]))
    written(folder / "b.mp4", moving(17, 1), job_record(*inputs, at=(0,), seed=4))
    written(folder / "large.mp4", moving(17, size=64), job_record("t2v"), fps=8)
    written(folder / "loop.mp4", frames[:9], job_record("loop", folder / "first.png"))
    (folder / "damaged.mp4").write_bytes((folder / "a.mp4").read_bytes()[:-300])
    return folder


def report(folder, *names):
    sources = open_all([folder / name for name in names])
    return measured("t", sources, beside_first(sources))


def test_videos_are_held_against_the_first(folder):
    found = report(folder, "a.mp4", "b.mp4")
    a, b = (one.summary() for one in found.seen)
    one, other = (video.read_video(folder / name)[0] for name in ("a.mp4", "b.mp4"))
    assert a["psnr"] is None and found.seen[1].against == "a.mp4"
    assert b["psnr"] == pytest.approx(quality.psnr(quality.squared_error(one, other)), rel=1e-6)
    assert b["ssim"] == pytest.approx(np.mean(found.seen[1].series.similar))
    assert a["given psnr"] > 30 > b["given psnr"]
    assert found.seen[0].multipliers == {0: 0.2} and a["seam"] is not None
    assert found.differing["seed"] == ["0", "4"] and "prompt" not in found.differing


def test_another_size_and_another_length_are_told(folder):
    found = report(folder, "a.mp4", "large.mp4", "loop.mp4")
    assert found.seen[1].remarks == ("it is of another size than a.mp4 and not held against it",)
    assert found.seen[1].against == ""
    assert found.seen[2].remarks == (
        "a.mp4 has 17 frames, it has 9: the first 9 are held against each other",
    )


def test_only_a_loop_must_close(folder):
    loop, other = report(folder, "loop.mp4", "a.mp4").seen
    assert loop.summary()["closing"] > 1 and other.summary()["closing"] is None


def test_sheets_are_aligned_in_time(folder):
    found = report(folder, "a.mp4", "large.mp4")  # one second, and two
    assert found.moments == tuple(i * 0.25 for i in range(9))
    assert found.seen[0].shown == (0, 4, 8, 12, 16, None, None, None, None)
    assert found.seen[1].shown == tuple(range(0, 17, 2))
    assert set(found.seen[0].series.pictures) == {0, 4, 8, 12, 16}


def test_a_damaged_video_ends_a_comparison_and_is_listed_of_a_batch(folder, monkeypatch):
    paths = [folder / "a.mp4", folder / "large.mp4"]
    sources = open_all(paths)
    lost = dataclasses.replace(sources[1], path=folder / "gone.mp4")
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4 does not exist"):
        measured("t", [sources[0], lost], [None, None])
    found = measured("t", [sources[0], lost], [None, None], goes_on=True)
    assert [one.source.name for one in found.seen] == ["a.mp4"]
    assert found.missing[0][0] == "large.mp4" and "gone.mp4" in found.missing[0][1]
    with pytest.raises(ValueError, match="none of the videos can be read"):
        measured("t", [lost], [None], goes_on=True)


def test_progress_counts_frames_and_ends_with_the_last(folder):
    told = []
    sources = open_all([folder / "a.mp4", folder / "b.mp4"])
    measured("t", sources, [None, None], lambda *what: told.append(what))
    assert told[-1] == ("frames", 34, 34) and len(told) == 35
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_of_a_batch_each_is_held_against_the_first_of_its_kind(folder):
    names = ("a.mp4", "large.mp4", "b.mp4", "loop.mp4")
    sources = open_all([folder / name for name in names])
    assert beside_alike(sources) == [None, None, sources[0], None]
    a, b = sources[0], sources[2]
    assert beside_alike([b, a, a]) == [None, b, b]
    foreign = dataclasses.replace(sources[0], record={})
    assert beside_alike([foreign, foreign]) == [None, None]


def test_a_batch_shows_what_landed_and_says_what_did_not(folder):
    lines = [
        '{"id": "a", "output": "a.mp4"}',
        '{"id": "x", "output": "x.mp4", "error": "out of memory"}',
        '{"id": "gone", "output": "gone.mp4"}',
        '{"id": "cut", "output": "damaged.mp4"}',
    ]
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    found = report_of(folder)
    assert found.title == f"Batch {folder.name}"
    assert [one.source.name for one in found.seen] == ["a.mp4"]
    why = dict(found.missing)
    assert why["x"] == "out of memory" and "does not exist" in why["gone.mp4"]
    assert sorted(why) == ["damaged.mp4", "gone.mp4", "x"]


def test_one_video_is_not_compared(folder):
    with pytest.raises(ValueError, match="compare takes two videos or more, got 1"):
        open_all([folder / "a.mp4"])


def test_names_are_as_short_as_tells_them_apart():
    paths = [Path("x/a.mp4"), Path("y/a.mp4"), Path("y/b.mp4")]
    assert names_of(paths) == ["x/a.mp4", "y/a.mp4", "b.mp4"]


def test_the_table_fits_a_screen(folder):
    found = report(folder, "a.mp4", "b.mp4", "large.mp4")
    lines = table(found).splitlines()
    assert lines[0].split()[:5] == ["video", "frames", "size", "seed", "given"]
    assert lines[3].startswith("b.mp4") and lines[3].split()[1:4] == ["17", "32x32", "4"]
    assert lines[-1].startswith("settings that differ: ") and "seed" in lines[-1]
    long = dataclasses.replace(found.seen[0].source, name="n" * 99)
    many = dataclasses.replace(
        found, seen=(dataclasses.replace(found.seen[0], source=long),) * (ROWS + 5)
    )
    lines = table(many).splitlines()
    assert lines[ROWS + 2] == "... and 5 more on the page"
    assert max(map(len, lines)) <= 100 and lines[2].split()[0] == "n" * (NAME - 9) + "…" + "n" * 8


def test_of_many_videos_fewer_pictures_are_shown(folder, monkeypatch):
    monkeypatch.setattr(comparing, "FEW", 1)
    assert len(report(folder, "a.mp4", "b.mp4").moments) == comparing.COLUMNS_OF_MANY
