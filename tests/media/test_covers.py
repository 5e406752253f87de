"""The stream that plays: covers, thumbnails and audio files are no clips."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from clips import clip

from pusa_jax.media import video

WHITE = np.full((48, 64, 3), 255, np.uint8)


def tagged(path, *, frames, is_marked=True, cover_first=True, has_sound=False):
    """A file with a white cover, and a clip, sound or neither."""
    with av.open(str(path), "w") as container:

        def add(kind):
            stream = container.add_stream(
                *{"cover": ("mjpeg", 1), "clip": ("libx264", 16), "sound": ("aac", 8000)}[kind]
            )
            if kind == "sound":
                stream.layout = "mono"
                return stream
            stream.height, stream.width = 48, 64
            stream.pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
            if kind == "cover" and is_marked:
                stream.disposition = Disposition.attached_pic
            return stream

        kinds = ["cover", *(["clip"] if frames else []), *(["sound"] if has_sound else [])]
        made = {kind: add(kind) for kind in (kinds if cover_first else kinds[::-1])}
        pictures = {"cover": [WHITE], "clip": clip(frames)}
        for kind, stream in made.items():
            if kind == "sound":
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), "f4"), "fltp", "mono")
                frame.sample_rate = 8000
                container.mux([*stream.encode(frame), *stream.encode(None)])
                continue
            for number, picture in enumerate(pictures[kind]):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 16 if kind == "clip" else 1)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("frames", [1, 13])
@pytest.mark.parametrize("cover_first", [True, False])
@pytest.mark.parametrize(("ending", "is_marked"), [("mp4", True), ("mp4", False), ("mkv", False)])
def test_the_clip_is_read_and_not_its_cover(tmp_path, frames, cover_first, ending, is_marked):
    path = tagged(
        tmp_path / f"a.{ending}", frames=frames, is_marked=is_marked, cover_first=cover_first
    )
    read, rate = video.read_video(path)
    assert len(read) == frames and rate == 16
    assert np.abs(read[0].astype(int) - clip(1)[0]).mean() < 8
    assert video.frame_rate(path) == 16 and video.video_length(path) == frames


@pytest.mark.parametrize(
    ("ending", "is_marked", "has_sound"),
    [
        *(("mp4", True, True), ("mov", True, False)),
        *((ending, False, True) for ending in ("mp4", "mkv", "avi")),
    ],
)
def test_a_file_of_sound_with_a_cover_holds_no_video(tmp_path, ending, is_marked, has_sound):
    path = tagged(tmp_path / f"a.{ending}", frames=0, is_marked=is_marked, has_sound=has_sound)
    with pytest.raises(ValueError, match=f"a.{ending} holds no video; a video file is expected"):
        video.read_video(path)
