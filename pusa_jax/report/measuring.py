"""One pass over a video, frame by frame: what is kept of it is numbers and small pictures.

At a time it holds a frame, the brightness of the one before and of the first, a frame of the
video it is held against, and the given pictures.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, UInt8

from pusa_jax.media import video
from pusa_jax.media.pictures import as_jpeg
from pusa_jax.report import quality


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of a video.

    Attributes:
      shown: frames of which a picture is kept.
      width: of the pictures, in pixels, at most.
      given: pictures that frames are held against.
      against: video that all frames are held against, one by one.
    """

    shown: tuple[int, ...]
    width: int
    given: Mapping[int, UInt8[np.ndarray, "h w 3"]]
    against: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """What was measured.

    Attributes:
      size: height and width in pixels.
      colours: mean red, green and blue of each frame, 0 .. 255.
      changes: mean change of brightness from each frame to the next, 0 .. 255.
      closing: the same from the last frame to the first.
      pictures: frame -> JPEG.
      given: frame -> mean squared error and SSIM against what was given there.
      errors, similar: the same per frame against the other video, as far as both go; empty where
        there is none, or one of another size.
    """

    size: tuple[int, int]
    colours: Float64[np.ndarray, "T 3"]
    changes: Float64[np.ndarray, " N"]
    closing: float
    pictures: Mapping[int, bytes]
    given: Mapping[int, tuple[float, float]]
    errors: Float64[np.ndarray, " M"]
    similar: Float64[np.ndarray, " M"]


def measure(path: Path, asked: Asked, on_frame: Callable[[], None]) -> Series:
    """Reads a video once.

    Args:
      path: of the video.
      asked: what is wanted.
      on_frame: called behind every frame.

    Raises:
      FileNotFoundError, ValueError: see `video.frames_of`.
    """
    colours, changes, errors, similar = [], [], [], []
    pictures: dict[int, bytes] = {}
    given: dict[int, tuple[float, float]] = {}
    others = iter(()) if asked.against is None else video.frames_of(asked.against)
    frame = first = before = np.zeros((0, 0))
    for number, frame in enumerate(video.frames_of(path)):
        bright = quality.luma(frame)
        if not number:
            first = bright
        else:
            changes.append(np.abs(bright - before).mean())
        before = bright
        colours.append(frame.mean((0, 1)))
        if number in asked.shown:
            pictures[number] = as_jpeg(frame, asked.width)
        if number in asked.given:
            wanted = asked.given[number]
            if (small := reduced(frame, wanted.shape[:2])) is not None:
                alike = quality.ssim(quality.luma(small), quality.luma(wanted))
                given[number] = quality.squared_error(small, wanted), alike
        other = next(others, None)
        if other is not None and other.shape == frame.shape:
            errors.append(quality.squared_error(frame, other))
            similar.append(quality.ssim(bright, quality.luma(other)))
        on_frame()
    if asked.shown and max(asked.shown) >= len(colours):  # the table of contents said more
        pictures.setdefault(len(colours) - 1, as_jpeg(frame, asked.width))
    return Series(
        size=(frame.shape[0], frame.shape[1]),
        colours=np.array(colours, float),
        changes=np.array(changes, float),
        closing=float(np.abs(before - first).mean()),
        pictures=pictures,
        given=given,
        errors=np.array(errors, float),
        similar=np.array(similar, float),
    )


def reduced(
    frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, ...]
) -> Float[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w 3"] | None:
    """A frame of which every pixel was repeated, as clips of the tiny model are, at its own size.

    Returns:
      means over the repeated pixels; None where the size is no whole part of the frame's.
    """
    times = frame.shape[0] // size[0]
    if not times or frame.shape[:2] != (times * size[0], times * size[1]):
        return None
    if times == 1:
        return frame
    return frame.reshape(size[0], times, size[1], times, 3).mean((1, 3))
