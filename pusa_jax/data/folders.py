"""Folders of videos without captions, as the sets of FVDM and Latte lie on a disk.

    faceforensics   video files, anywhere below the folder
    ucf101          video files in one folder per class; its place among the sorted is its number
    skytimelapse    a folder of numbered pictures per video, anywhere below
    taichi          the same

Of every video some windows are drawn (`windows`), each of which is a clip. The caption of a clip is
the number of its class, or empty.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, UInt8

from pusa_jax.data import windows
from pusa_jax.data.lists import VIDEOS, Clip, writable
from pusa_jax.media import crops, video
from pusa_jax.media.pictures import PICTURES, open_image

LayoutName = Literal["faceforensics", "ucf101", "skytimelapse", "taichi"]

PUBLISHED = {"height": 256, "width": 256, "num_frames": 16}
"""Size of the clips of all four sets in FVDM and Latte."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a set lies on a disk and becomes clips.

    Attributes:
      holds: video files, or a folder of pictures per video.
      has_classes: whether the folders below are classes.
      indices: frames of a window: begin, total, frames of the clip, interval -> numbers.
      least: frames of the clip, interval -> frames that a video needs.
      crop: frames, side -> squares of this side.
      is_flipped: whether half of the clips are mirrored.
    """

    holds: Literal["videos", "frames"]
    has_classes: bool = False
    indices: Callable[[int, int, int, int], Int[np.ndarray, " n"]]
    least: Callable[[int, int], int]
    crop: Callable[[UInt8[np.ndarray, "T H W 3"], int], UInt8[np.ndarray, "T h w 3"]]
    is_flipped: bool


FACEFORENSICS = Layout(
    holds="videos",
    indices=windows.spread,
    least=lambda num_frames, interval: num_frames,
    crop=crops.short_side_then_cut,
    is_flipped=True,
)

LAYOUTS: dict[LayoutName, Layout] = {
    "faceforensics": FACEFORENSICS,
    "ucf101": dataclasses.replace(FACEFORENSICS, has_classes=True),
    "skytimelapse": Layout(
        holds="frames",
        indices=windows.strided,
        least=lambda num_frames, interval: num_frames * interval + 1,
        crop=crops.cut_then_scale,
        is_flipped=False,
    ),
    "taichi": Layout(
        holds="frames",
        indices=windows.strided,
        least=lambda num_frames, interval: (num_frames - 1) * interval + 1,
        crop=crops.as_they_are,
        is_flipped=True,
    ),
}
"""fvdm.md §3; Latte's datasets/*_datasets.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """How videos in folders become clips.

    Attributes:
      layout: name of the set whose layout it is.
      windows: clips drawn of every video.
      interval: frames of a video for each of the clip, at least; a window is so many times longer.
    """

    layout: LayoutName
    windows: int = 1
    interval: int = 3

    def __post_init__(self):
        if self.windows < 1 or self.interval < 1:
            raise ValueError(
                f"windows and interval must be at least 1, got {self.windows} and {self.interval}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos:
    """Videos of a folder, cut into clips.

    Attributes:
      config: how.
      names: of the videos, seen from the folder, sorted.
      clips: `config.windows` of each video, one after the other.
      classes: names of the classes by their numbers; none without classes.
    """

    config: FolderConfig
    names: Sequence[str]
    clips: Sequence[Clip]
    classes: tuple[str, ...]

    @property
    def layout(self) -> Layout:
        """Of the set."""
        return LAYOUTS[self.config.layout]

    def of(self, clip: Clip) -> tuple[str, int]:
        """Name of the video that a clip is of, and number of its window.

        Raises:
          ValueError: the name cannot be written down.
        """
        if clip.fault:
            raise ValueError(clip.fault)
        place, number = divmod(clip.number, self.config.windows)
        return self.names[place], number

    def says(self) -> dict[str, Any]:
        """What the card of a dataset says of it."""
        interval = self.config.interval
        rate = "as in the sources" if interval == 1 else f"one of {interval} frames of the sources"
        layout = dataclasses.asdict(self.config)
        return {"frame_rate": rate, "layout": layout, "classes": self.classes}


def found(src: Path, config: FolderConfig) -> Videos:
    """Looks through a folder for the videos of a layout; opens none of them.

    Args:
      src: folder of the set.
      config: layout, and how many clips each video gives.

    Raises:
      FileNotFoundError: there is no such folder, or nothing of this kind in it.
      ValueError: it is a file, or a video lies in no class.
    """
    if not src.exists():
        raise FileNotFoundError(f"{src} does not exist; a folder of videos is expected.")
    if not src.is_dir():
        raise ValueError(f"{src} is a file; the folder of a set is expected.")
    layout = LAYOUTS[config.layout]
    names = _names(src, layout.holds)
    if not names:
        raise FileNotFoundError(_wants(src, config.layout))
    classes: tuple[str, ...] = ()
    if layout.has_classes:
        classes = tuple(sorted(p.name for p in src.iterdir() if p.is_dir() and _is_seen(p.name)))
        if loose := [name for name in names if name.count("/") != 1]:
            raise ValueError(
                f"{src}: {loose[0]!r:.80} lies in no folder of a class; {config.layout} has "
                "CLASS/VIDEO."
            )
    number_of = {name: str(number) for number, name in enumerate(classes)}
    clips = [
        writable(
            Clip(
                number=place * config.windows + window,
                name=f"{name}#{window}",
                caption=number_of[name.partition("/")[0]] if classes else "",
                folder=src,
            )
        )
        for place, name in enumerate(names)
        for window in range(config.windows)
    ]
    return Videos(config=config, names=names, clips=clips, classes=classes)


def _names(src: Path, holds: str) -> list[str]:
    """Video files, or folders in which pictures lie, seen from a folder."""
    names = []
    for root, folders, files in os.walk(src):
        folders[:] = [name for name in folders if _is_seen(name)]
        below = Path(root).relative_to(src)
        if holds == "videos":
            names += [(below / name).as_posix() for name in files if _ends(name, VIDEOS)]
        elif any(_ends(name, PICTURES) for name in files):
            names.append(below.as_posix())
    return sorted(names)


def _is_seen(name: str) -> bool:
    return not name.startswith(".")


def _ends(name: str, endings: Sequence[str]) -> bool:
    return _is_seen(name) and os.path.splitext(name)[1].lower() in endings


def _wants(src: Path, name: LayoutName) -> str:
    """Why a folder is not of a layout, and of which it may be."""
    holds = LAYOUTS[name].holds
    other = "frames" if holds == "videos" else "videos"
    what = {"videos": "video files", "frames": "folders of pictures"}
    fitting = ", ".join(key for key, layout in LAYOUTS.items() if layout.holds == other)
    if _names(src, other):
        return f"{src} has {what[other]} and no {what[holds]}, which {name} reads; try {fitting}."
    return f"{src} has no {what[holds]}, which {name} reads."


def numbered(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers at the ends of their names.

    Raises:
      ValueError: a name has no number, or two have the same.
    """
    by_number: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if not _ends(path.name, PICTURES):
            continue
        # As the original does: a name ends with its first dot.
        digits = re.search(r"[0-9]+$", path.name.split(".")[0])
        if digits is None:
            raise ValueError(f"{path.name!r:.80} has no number at its end to be sorted by.")
        other = by_number.setdefault(int(digits[0]), path)
        if other is not path:
            raise ValueError(f"{other.name!r:.80} and {path.name!r:.80} are of the same number.")
    return [by_number[number] for number in sorted(by_number)]


Load = Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n H W 3"]]


def reader(
    videos: Videos, num_frames: int, size: int
) -> Callable[[Clip], UInt8[np.ndarray, "T H W 3"]]:
    """What reads the frames of a clip, cropped and, by chance, mirrored.

    Args:
      videos: which clips there are.
      num_frames: frames of a clip.
      size: its height and width, in pixels.

    Returns:
      a function of the clip that raises FileNotFoundError or ValueError where a file is missing,
      broken, too short or of another size.
    """
    layout, interval = videos.layout, videos.config.interval
    # A video is counted by decoding all of it: once, and not for each of its windows.
    counted = functools.cache(video.video_length)

    def read(clip: Clip) -> UInt8[np.ndarray, "T H W 3"]:
        name, number = videos.of(clip)
        path = clip.folder / name
        total, load = _video(path, counted) if layout.holds == "videos" else _frames(path)
        _check_length(path, total, videos, num_frames)
        chance = windows.draw(name, number, total, num_frames * interval)
        frames = load(layout.indices(chance.begin, total, num_frames, interval))
        if layout.is_flipped and chance.is_flipped:  # before the crop, as in the original
            frames = frames[:, :, ::-1]
        return np.ascontiguousarray(layout.crop(frames, size))

    return read


def _video(path: Path, counted: Callable[[Path], int]) -> tuple[int, Load]:
    def load(indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
        first = int(indices[0])
        return video.read_video(path, int(indices[-1]) - first + 1, first)[0][indices - first]

    return counted(path), load


def _frames(folder: Path) -> tuple[int, Load]:
    paths = numbered(folder)

    def load(indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W 3"]:
        frames = [video.read_image(paths[i]) for i in indices]
        if other := [f.shape for f in frames if f.shape != frames[0].shape]:
            sizes = " and ".join("{}x{}".format(*s[:2]) for s in (frames[0].shape, other[0]))
            raise ValueError(f"its pictures are of two sizes, {sizes}.")
        return np.stack(frames)

    return len(paths), load


def _check_length(path: Path, total: int, videos: Videos, num_frames: int) -> None:
    least = videos.layout.least(num_frames, videos.config.interval)
    if total < least:
        raise ValueError(
            f"{path} has {total} frames; clips of {num_frames} at an interval of "
            f"{videos.config.interval} need {least} ({videos.config.layout})."
        )


def look(videos: Videos, num_frames: int) -> Iterator[tuple[Clip, float | Exception]]:
    """Opens every video as far as to tell whether its clips can be encoded.

    Args:
      videos: which there are.
      num_frames: frames of a clip.

    Yields:
      each clip with its frames per second as stored, 0 of pictures, or why it cannot be used.
    """
    rate_of = functools.cache(functools.partial(_rate, videos, num_frames))
    for clip in videos.clips:
        try:
            yield clip, rate_of(clip.folder / videos.of(clip)[0])
        except (OSError, ValueError) as error:
            yield clip, error


def _rate(videos: Videos, num_frames: int, path: Path) -> float:
    if videos.layout.holds == "frames":
        paths = numbered(path)
        _check_length(path, len(paths), videos, num_frames)
        with open_image(paths[0]):
            return 0.0
    seconds, rate = video.length_and_rate(path)
    if not rate:
        raise ValueError(f"{path} states no frame rate; re-encode it with one.")
    # The head of a file may be wrong; what is short is soon read.
    if seconds * rate < videos.layout.least(num_frames, videos.config.interval):
        _check_length(path, video.video_length(path), videos, num_frames)
    return round(rate, 2)
