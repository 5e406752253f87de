"""Seeking gives the frames that decoding from the beginning gives, in every container."""

from fractions import Fraction

import av
import numpy as np
import pytest

from pusa_jax.media import timing, video
from pusa_jax.media.colour import upright_rgb
from pusa_jax.media.opening import opened

COUNT, BITS = 360, 9
KINDS = {
    "closed.mp4": ("libx264", {"g": "48"}),
    "open.mp4": ("libx264", {"x264-params": "keyint=48:open-gop=1:bframes=3"}),
    "open.ts": ("libx264", {"x264-params": "keyint=48:open-gop=1:bframes=3"}),
    "refresh.mp4": ("libx264", {"g": "48", "x264-params": "intra-refresh=1"}),
    "open.mkv": ("libx265", {"x265-params": "keyint=48:open-gop=1:log-level=none"}),
    "cra.ts": ("libx265", {"x265-params": "keyint=48:open-gop=1:log-level=none"}),
    "a.webm": ("libvpx", {"g": "48", "deadline": "realtime"}),
    "a.mpg": ("mpeg2video", {"g": "15", "bf": "2", "b": "2M"}),
}
"""Name -> codec and options; open groups have frames that refer to what is before a key frame."""


def picture(number):
    """White bars where bits of the number are set."""
    frame = np.full((32, 96, 3), 16, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            frame[4:28, 4 + 10 * bit : 12 + 10 * bit] = 230
    return frame


def numbers(frames):
    return [sum((row[8 + 10 * b] > 128) << b for b in range(BITS)) for row in frames[:, 16, :, 1]]


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    codec, options = KINDS[request.param]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = tmp_path_factory.mktemp("seeking") / request.param
    kind = "mpeg" if path.suffix == ".mpg" else None
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 96, "yuv420p"
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """One entry per frame that was decoded."""
    count, original = [], timing.decoded

    def counted(*given, **named):
        for frame in original(*given, **named):
            count.append(1)
            yield frame

    monkeypatch.setattr(timing, "decoded", counted)
    return count


def assert_short(decoded, path, most):
    # Without key frames there is nothing to be sought, and the whole is decoded.
    assert len(decoded) < most or path.name == "refresh.mp4"


def test_the_end_is_that_of_the_whole(made, decoded):
    frames, _ = video.read_video(made, 13, -13)
    assert numbers(frames) == [*range(COUNT - 13, COUNT)]
    assert_short(decoded, made, COUNT / 2)


def test_the_end_at_another_rate_is_that_of_the_whole(made, decoded):
    frames, _ = video.read_video(made, 13, -13, fps=16)
    assert numbers(frames) == [int(COUNT - 1 - 1.5 * k + 1e-6) for k in range(12, -1, -1)]
    assert_short(decoded, made, COUNT)


def test_a_moment_far_in_is_that_of_the_whole(made, decoded):
    frames, _ = video.read_video(made, 13, 180, fps=16)
    assert numbers(frames) == [int(1.5 * k + 1e-6) for k in range(180, 193)]
    assert_short(decoded, made, COUNT / 2)


@pytest.mark.parametrize("seconds", [5.0, 11.3])
def test_nothing_that_refers_to_what_was_not_decoded_comes_behind_a_seek(made, seconds):
    with opened(made) as (container, stream):
        begin = float((stream.start_time or 0) * stream.time_base)
        sought = timing._from(container, stream, begin + seconds)
        told = [number for f in sought for number in numbers(upright_rgb(f)[None])]
    assert told == [*range(COUNT - len(told), COUNT)]


def test_a_moment_behind_the_end_says_how_long_the_clip_is(made):
    with pytest.raises(ValueError, match=r"has 240 frames, 313 are needed at 16 a second"):
        video.read_video(made, 13, 300, fps=16)
    with pytest.raises(ValueError, match=r"has 240 frames, 1013 are needed at 16 a second"):
        video.read_video(made, 13, 1000, fps=16)
