"""Frames by the clock: sources of any frame rate, also a varying one, seen at even moments.

A picture is on screen from its own timestamp until the next one's; a clip at another rate shows at
each of its moments what is on screen then. Moments before a last frame count from that frame.
"""

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


def length_of(container: InputContainer, stream: VideoStream) -> float:
    """Seconds that a stream plays; 0 where the file does not say."""
    begin, end = _span(container, stream)
    return end - begin


def timed(frames: Iterable[av.VideoFrame], rate: float) -> Iterator[Timed]:
    """Frames with their times; those without a timestamp, or out of order, follow at the rate.

    Args:
      frames: in the order they are shown.
      rate: average frames per second, for a last frame whose duration is not told.
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
        yield Timed(frame=before, start=start, end=start + (_told_duration(before) or step))


def _told_duration(frame: av.VideoFrame) -> float:
    """Seconds that a frame is on screen; 0 where the file does not say."""
    return float((frame.duration or 0) * (frame.time_base or 0))


def slice_at(
    frames: Iterable[Timed], fps: float, start: int, stop: int | None, zero: float | None = None
) -> tuple[int, list[av.VideoFrame]]:
    """What is on screen at moments start / fps, (start + 1) / fps, ... after the first frame.

    Args:
      frames: of a file from its first or from one that is shown before the first moment asked for;
        decoded as far as needed.
      fps: moments per second.
      start: first moment.
      stop: moment behind the last; None is the end of the file.
      zero: when the first frame of the file appears; None is when the first of `frames` does.

    Returns:
      how many moments up to `stop` the file has, and the frames of those from `start` on.
    """
    count, kept = 0, []
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

    The first is about as long as asked for, so that of a long file little is decoded.
    """
    begin, end = _span(container, stream)
    lead = _LEAD
    while (target := end - seconds - lead) > begin:
        yield _from(container, stream, target)
        lead *= 4
    if lead > _LEAD:
        _rewind(container, stream)
    yield decoded(container, stream)


def around(
    container: InputContainer, stream: VideoStream, rate: float, seconds: float
) -> tuple[float | None, Iterator[Timed]]:
    """Frames from a moment on, or from somewhat earlier; found by seeking where that is far in.

    Args:
      container: at its beginning.
      stream: of it.
      rate: average frames per second.
      seconds: the moment, counted from the first frame.

    Returns:
      when the first frame of the file appears, None where it was not looked up, and the frames.
    """
    if seconds > 2 * _LEAD:
        first = next(decoded(container, stream), None)
        zero = None if first is None else first.time
        if zero is not None:
            lead = _LEAD
            while lead < seconds:
                sought = _from(container, stream, zero + seconds - lead)
                nearest = next(sought, None)
                if nearest is not None and nearest.time is not None:
                    if nearest.time <= zero + seconds:
                        return zero, timed(itertools.chain([nearest], sought), rate)
                lead *= 4
        _rewind(container, stream)
    return None, timed(decoded(container, stream), rate)


def _span(container: InputContainer, stream: VideoStream) -> tuple[float, float]:
    """When a stream begins and ends, in seconds; the same twice where the file does not say."""
    base = stream.time_base or 0
    begin = float((stream.start_time or 0) * base)
    if stream.duration is not None:
        return begin, begin + float(stream.duration * base)
    return begin, begin + (container.duration or 0) / av.time_base


def _from(
    container: InputContainer, stream: VideoStream, seconds: float
) -> Iterator[av.VideoFrame]:
    assert stream.time_base is not None
    try:
        container.seek(int(seconds / stream.time_base), stream=stream)
    except av.FFmpegError:  # a file without an index
        return
    yield from decoded(container, stream, from_key=True)


def _rewind(container: InputContainer, stream: VideoStream) -> None:
    container.seek(min(stream.start_time or 0, 0), stream=stream)
