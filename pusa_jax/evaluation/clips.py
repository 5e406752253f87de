"""Which frames of which videos FVD looks at: one clip of each video, as StyleGAN-V takes them.

folder/a.mp4, folder/class/b.avi     every file of a video, however deep
folder/c/0000.png, 0001.png, ...     every folder of pictures, which are its frames in their order

Videos count in the order of their names. A clip is every `interval`-th frame from where it begins:
in a real video anywhere, in a generated one at its first frame. Videos with fewer than
frames x interval frames are left out.
"""

import concurrent.futures
import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from pusa_jax.data.lists import VIDEOS
from pusa_jax.media import video
from pusa_jax.media.pictures import PICTURES, fit, read_image

READERS = 8
"""Videos that are counted at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """A video to take a clip of.

    Attributes:
      name: path below the folder, with slashes.
      path: of the file, or of the folder of its frames.
      frames: names of the pictures in that folder, in order; none if it is a file.
    """

    name: str
    path: Path
    frames: tuple[str, ...] = ()

    def length(self) -> int:
        """Number of frames; those of a file are counted by decoding them.

        Raises:
          ValueError: the file is damaged or no video.
        """
        return len(self.frames) or video.video_length(self.path)

    def state(self) -> str:
        """What tells this video from another one that takes its place: sizes and times of files."""
        files = [self.path / name for name in self.frames] or [self.path]
        stats = [file.stat() for file in files]
        return f"{sum(s.st_size for s in stats)} {max(s.st_mtime_ns for s in stats)} {len(files)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """Frames of a video.

    Attributes:
      video: where they are from.
      begin: the first of them, from 0.
    """

    video: Video
    begin: int


def videos_in(folder: Path) -> list[Video]:
    """All videos below a folder, by name; what is hidden is left out.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise FileNotFoundError(f"no folder of videos {folder}: it {what}.")
    found = []
    for where, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        here = Path(where)
        shown = [name for name in files if not name.startswith(".")]
        clips = [name for name in shown if Path(name).suffix.lower() in VIDEOS]
        pictures = [name for name in shown if Path(name).suffix.lower() in PICTURES]
        found += [Video(name=_below(here / name, folder), path=here / name) for name in clips]
        if pictures and not clips:
            ordered = tuple(sorted(pictures, key=_natural))
            found.append(Video(name=_below(here, folder), path=here, frames=ordered))
    return sorted(found, key=lambda each: each.name)


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _natural(name: str) -> list[tuple[int, str]]:
    """Puts 2.png before 10.png."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", name)]


def indices(begin: int, frames: int, interval: int) -> Int64[np.ndarray, "{frames}"]:
    """Places of a clip's frames in its video."""
    return begin + interval * np.arange(frames)


def choose(
    folder: Path,
    count: int,
    *,
    frames: int,
    interval: int,
    seed: int | None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Clip]:
    """One clip each of the first `count` videos that are long enough.

    Args:
      folder: see above.
      count: of clips.
      frames: of a clip.
      interval: from one frame of a clip to the next, in frames of the video.
      seed: clips begin anywhere, drawn from it and the number of the video; None is at the first
        frame.
      on_progress: told how many were found.

    Raises:
      ValueError: fewer videos are long enough; or one is damaged.
    """
    videos, chosen, short = videos_in(folder), [], 0
    needed = frames * interval
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        try:
            lengths = pool.map(Video.length, videos)
            for number, (one, length) in enumerate(zip(videos, lengths, strict=True)):
                if length < needed:
                    short += 1
                    continue
                begin = 0
                if seed is not None:
                    # Parity: a window may begin where its last frame is the last of the video.
                    last = length - needed + interval - 1
                    begin = int(np.random.default_rng([seed, number]).integers(0, last + 1))
                chosen.append(Clip(video=one, begin=begin))
                on_progress(len(chosen))
                if len(chosen) == count:
                    return chosen
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    without = f" ({short} more are shorter)" if short else ""
    raise ValueError(
        f"{folder} has {len(chosen)} videos of at least {needed} frames{without}, {count} are "
        "needed; give more videos, or ask for fewer clips."
    )


def read(
    clip: Clip, frames: int, interval: int, size: int
) -> UInt8[np.ndarray, "{frames} {size} {size} 3"]:
    """The frames of a clip, scaled to cover a square and cut to it where they are of another size.

    Raises:
      ValueError: a file is damaged.
    """
    source, pictures = clip.video, []
    if source.frames:
        for place in indices(clip.begin, frames, interval):
            pictures.append(read_image(source.path / source.frames[place]))
    else:
        span = (frames - 1) * interval + 1
        pictures.extend(video.read_video(source.path, span, clip.begin)[0][::interval])
    return np.stack([_of_size(picture, size) for picture in pictures])


def _of_size(picture: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "h w 3"]:
    return picture if picture.shape == (size, size, 3) else fit(picture, size, size, "crop")
