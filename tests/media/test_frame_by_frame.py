"""Videos that are read one frame at a time."""

import gc

import av
import numpy as np
import pytest
from clips import clip, write

from pusa_jax.media import video


def test_frames_are_those_of_the_whole_clip(tmp_path):
    write(tmp_path / "a.mp4", clip(9))
    whole, _ = video.read_video(tmp_path / "a.mp4")
    np.testing.assert_array_equal(np.stack(list(video.frames_of(tmp_path / "a.mp4"))), whole)


def test_who_has_seen_enough_may_stop(tmp_path):
    write(tmp_path / "a.mp4", clip(9))
    frames = video.frames_of(tmp_path / "a.mp4")
    assert next(frames).shape == (48, 64, 3)
    frames.close()


def test_frames_are_not_kept_until_python_looks_for_cycles(tmp_path):
    write(tmp_path / "a.mp4", clip(30))
    gc.collect()
    gc.disable()
    try:
        assert len([frame.shape for frame in video.frames_of(tmp_path / "a.mp4")]) == 30
        left = [one for one in gc.get_objects() if type(one) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(left) <= 1


def test_what_is_no_video_is_told(tmp_path):
    (tmp_path / "a.mp4").write_text("nothing")
    with pytest.raises(ValueError, match="damaged or not a video"):
        next(video.frames_of(tmp_path / "a.mp4"))
    with pytest.raises(FileNotFoundError):
        next(video.frames_of(tmp_path / "b.mp4"))
