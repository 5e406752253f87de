"""Which frames of a video make a clip: a random window of it, thinned out (FVDM, Latte).

    video     0 . . . . . . . . . . . . . . . . . total - 1
    window          begin . . . . . . end                    n * k frames, fewer of a short video
    spread          * . . * . . * . . . * . *                n places from its first to its last
    strided         * . . * . . * . . * . .                  every k-th: begin, begin + k, ...

n is the number of frames of the clip, k the interval, 16 and 3 as published. What is drawn depends
on the name of the video and the number of the window alone, so that every process, and a run that
goes on, draws the same.
"""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """What chance says of one window.

    Attributes:
      begin: its first frame.
      is_flipped: whether the clip is mirrored, if its set is.
    """

    begin: int
    is_flipped: bool


def draw(video: str, number: int, total: int, length: int) -> Draw:
    """Draws where a window begins, and whether it is mirrored; either half of the time.

    Parity: begin is uniform on 0 .. max(0, total - length - 1), so that a window never ends with
    the last frame of a longer video (fvdm.md, Evaluation: Frame indices).

    Args:
      video: name that tells it from all others of its set.
      number: of the window, from 0.
      total: frames of the video.
      length: frames of a window.
    """
    chance = hashlib.sha256(f"{number} {video}".encode()).digest()
    places = max(0, total - length - 1) + 1
    return Draw(begin=int.from_bytes(chance[:8], "big") % places, is_flipped=chance[8] % 2 == 1)


def spread(begin: int, total: int, num_frames: int, interval: int) -> Int[np.ndarray, " n"]:
    """Frames spread evenly from the first to the last of a window, fractions cut off.

    Args:
      begin: first frame of the window.
      total: frames of the video, at least begin + num_frames; the window ends with them.
      num_frames: frames of the clip, n.
      interval: frames of the window for each of the clip, k.
    """
    end = min(begin + num_frames * interval, total)
    return np.linspace(begin, end - 1, num_frames, dtype=int)


def strided(begin: int, total: int, num_frames: int, interval: int) -> Int[np.ndarray, " n"]:
    """Every k-th frame of a window.

    Args:
      begin: first frame of the window.
      total: frames of the video, more than begin + (num_frames - 1) * interval.
      num_frames: frames of the clip, n.
      interval: k.
    """
    return np.arange(begin, total, interval)[:num_frames]
