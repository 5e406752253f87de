"""Frames by the clock: sources of any frame rate, also a varying one, seen at even moments.

A picture is on screen from its own timestamp until the next one's; a clip at another rate shows at
each of its moments what is on screen then. Moments before a last frame count from that frame.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pusa_jax.media.opening import decoded

SLACK = 1e-3
"""Seconds by which a timestamp may be late and still count; containers round to a millisecond."""

_LEAD = 2.0
"""Seconds before the wanted moment that a seek aims at, at first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """A frame, and the seconds in which it appears and disappears."""

    frame: av.VideoFrame
    start: float
    end: float


def rate_of(stream: VideoStream) -> float:
    """Average frames per second; 0 where the file does not say."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def timed(frames: Iterable[av.VideoFrame], rate: float) -> Iterator[Timed]:
    """Frames with their times; those without a timestamp, or out of order, follow at the rate.

    Args:
      frames: in the order they are shown.
      rate: average frames per second, which the last frame's duration is taken from.
    """
    step, before, start = 1 / rate, None, 0.0
    for frame in frames:
        told = frame.time
        if before is not None:
            now = start + step if told is None or told <= start else told
            yield Timed(frame=before, start=start, end=now)
            start = now
        else:
            start = 0.0 if told is None else told
        before = frame
    if before is not None:
        yield Timed(frame=before, start=start, end=start + step)


def slice_at(
    frames: Iterable[Timed], fps: float, start: int, stop: int | None
) -> tuple[int, list[av.VideoFrame]]:
    """What is on screen at moments start / fps, (start + 1) / fps, ... after the first frame.

    Args:
      frames: all of a file, decoded as far as needed.
      fps: moments per second.
      start: first moment.
      stop: moment behind the last; None is the end of the file.

    Returns:
      how many moments up to `stop` the file has, and the frames of those from `start` on.
    """
    count, kept, zero = 0, [], None
    for shown in frames:
        zero = shown.start if zero is None else zero
        while zero + count / fps < shown.end - SLACK:
            count += 1
            if count > start:
                kept.append(shown.frame)
            if count == stop:
                return count, kept
    return count, kept


def last_at(frames: Iterable[Timed], fps: float, count: int) -> list[av.VideoFrame]:
    """What is on screen at `count` moments, of which the last is the last frame's; fewer if short.

    Args:
      frames: of at least the last `count` / fps seconds.
      fps: moments per second.
      count: moments.
    """
    window: list[Timed] = []
    for shown in frames:
        window.append(shown)
        oldest = shown.start - (count - 1) / fps
        while window[0].end <= oldest + SLACK:
            window.pop(0)
    taken: list[av.VideoFrame] = []
    for shown in reversed(window):
        while len(taken) < count and window[-1].start - len(taken) / fps >= shown.start - SLACK:
            taken.append(shown.frame)
    return taken[::-1]


def ending(
    container: InputContainer, stream: VideoStream, seconds: float
) -> Iterator[Iterator[av.VideoFrame]]:
    """Ends of a file, each longer than the one before, at last the whole; found by seeking.

    The first is about as long as asked for, so that of a long file little is decoded. Frames before
    a seek's key frame lack what they refer to and are left out.
    """
    base = stream.time_base
    if stream.duration is not None and base is not None:
        begin = float((stream.start_time or 0) * base)
        end, lead = begin + float(stream.duration * base), _LEAD
        while (target := end - seconds - lead) > begin:
            yield _from(container, stream, int(target / base))
            lead *= 4
        if lead > _LEAD:
            container.seek(min(stream.start_time or 0, 0), stream=stream)
    yield decoded(container, stream)


def _from(container: InputContainer, stream: VideoStream, offset: int) -> Iterator[av.VideoFrame]:
    with contextlib.suppress(av.FFmpegError):
        container.seek(offset, stream=stream)
        yield from itertools.dropwhile(lambda f: not f.key_frame, decoded(container, stream))
