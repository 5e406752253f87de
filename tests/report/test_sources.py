"""What a video says of itself, and the pictures that it was made from."""

import json

import numpy as np
import pytest
from small_videos import SIZE, job_record, moving, written

from pusa_jax.media import video
from pusa_jax.report.sources import OLDER, given_frames, open_source

CLIP = moving(17)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    video.write_png(folder / "first.png", CLIP[0])
    video.write_png(folder / "last.png", CLIP[16])
    written(folder / "in.mp4", CLIP)
    return folder


def source(files, *record, **changes):
    path = written(files / "out.mp4", CLIP, job_record(*record, **changes) if record else None)
    return open_source(path, "out")


def test_a_video_is_known_by_its_table_of_contents(files):
    found = source(files, "t2v")
    assert (found.frames, found.fps, found.remarks) == (17, 16.0, ())
    assert found.job["prompt"] == "p" and found.marked(17) == frozenset()
    assert given_frames(found) == ({}, ())


def test_pictures_stand_where_they_were_given(files):
    first, last = files / "first.png", files / "last.png"
    found = source(files, "start-end", first, last, at=(0, 4))
    given, remarks = given_frames(found)
    assert sorted(given) == [0, 16] and remarks == ()
    np.testing.assert_array_equal(given[0], CLIP[0])
    np.testing.assert_array_equal(given[16], CLIP[16])
    assert found.marked(17) == {0, 13, 14, 15, 16}
    assert found.marked(15) == {0, 13, 14}
    assert found.borders(17) == {1: "a given frame ends", 13: "a given frame begins"}


def test_pictures_follow_the_order_in_which_they_were_given(files):
    swapped = job_record("start-end", files / "last.png", files / "first.png", at=(0, 4))
    swapped["job"]["at"], swapped["job"]["multipliers"] = (4, 0), (0.0, 0.0)
    found = open_source(written(files / "swapped.mp4", CLIP, swapped), "swapped")
    given, _ = given_frames(found)
    np.testing.assert_array_equal(given[0], CLIP[0])


def test_frames_of_a_clip_stand_one_for_one(files):
    read, _ = video.read_video(files / "in.mp4")
    given, _ = given_frames(source(files, "extend", files / "in.mp4", at=(0, 1, 2, 3)))
    assert sorted(given) == list(range(13))
    for place, frame in given.items():  # an extension begins with the end of its clip
        np.testing.assert_array_equal(frame, read[4 + place])
    given, _ = given_frames(source(files, "complete", files / "in.mp4", at=(0, 4)))
    assert sorted(given) == [0, 13, 14, 15, 16]
    np.testing.assert_array_equal(given[14], read[14])


def test_pieces_make_borders(files):
    cut = {"stride": 1, "piece": 8}
    found = source(files, "t2v", overlap=4, layout=cut)
    assert found.borders(17) == dict.fromkeys([8, 12, 16], "a piece begins")


def test_inputs_that_are_gone_or_changed_are_told(files, tmp_path):
    video.write_png(tmp_path / "a.png", CLIP[7])  # nothing like it lies beside the video
    found = source(files, "i2v", tmp_path / "a.png", at=(0,))
    video.write_png(tmp_path / "a.png", CLIP[3])
    given, (remark,) = given_frames(found)
    assert given == {} and "a.png has changed" in remark
    (tmp_path / "a.png").unlink()
    given, (remark,) = given_frames(found)
    assert given == {} and "a.png is not there any more" in remark and "\n" not in remark


def test_weights_that_are_gone_do_not_matter(files, tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(b"x")
    lora = ((str(tmp_path / "lora.safetensors"), 1.0),)
    found = source(files, "i2v", files / "first.png", at=(0,), lora=lora)
    (tmp_path / "lora.safetensors").unlink()
    assert sorted(given_frames(found)[0]) == [0]


def test_what_a_video_does_not_say_is_remarked(files):
    assert source(files).remarks == ("it carries no settings",)
    older = job_record("t2v")
    del older["layout"]
    found = open_source(written(files / "older.mp4", CLIP, older), "older")
    assert found.remarks == (OLDER,) and found.borders(17) == {}


@pytest.mark.parametrize(
    "layout", [{"stride": 0}, {"stride": "x"}, {"at": [1, 2]}, {"other": 1}, {"fps": -1}]
)
def test_a_layout_of_nonsense_is_remarked(files, layout):
    found = source(files, "t2v", layout=layout)
    assert found.layout is None and "its layout cannot be read" in found.remarks[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"at": [10**9]}, {"inputs": 3}, {"inputs": [3]}, {"sha256": 1}, {"task": "other"},
        {"settings": {"num_frames": 10**9, "height": SIZE, "width": SIZE}}, {"folder": 7},
    ],
)  # fmt: skip
def test_a_job_of_nonsense_is_remarked(files, changes):
    record = job_record("i2v", files / "first.png", at=(0,))
    record["job"] = json.loads(json.dumps(record["job"])) | changes
    found = open_source(written(files / "odd.mp4", CLIP, record), "odd")
    given, remarks = given_frames(found)
    assert bool(given) != bool(remarks)
