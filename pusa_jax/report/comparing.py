"""Several videos measured side by side: those of a command line, or all of a batch."""

import concurrent.futures
import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.progress import Progress, no_progress
from pusa_jax.report import quality, seams
from pusa_jax.report.fields import differing, settings_of
from pusa_jax.report.measuring import Asked, Series, measure
from pusa_jax.report.sources import Source, given_frames, open_source

FEW, COLUMNS, COLUMNS_OF_MANY = 40, 9, 5
"""Up to so many videos have so many pictures each; of more there are fewer."""

PICTURE = 240
"""Pixels of a picture's width."""

WORKERS = 4
"""Videos that are read at once, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A video and what was measured of it.

    Attributes:
      source: the video.
      series: per frame.
      against: name of the video that it was held against; empty if there is none.
      shown: of each moment of the report the frame, None behind the end.
      remarks: what was not measured and why.
    """

    source: Source
    series: Series
    against: str
    shown: tuple[int | None, ...]
    remarks: tuple[str, ...]

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.series.colours)

    @property
    def multipliers(self) -> Mapping[int, float]:
        """Given frames that were judged, and the noise multiplier of each."""
        layout = self.source.layout
        places = {} if layout is None else dict(zip(layout.at, layout.multipliers, strict=True))
        stride = 1 if layout is None else layout.stride
        return {frame: places.get(-(-frame // stride), 1.0) for frame in self.series.given}

    def summary(self) -> dict[str, float | None]:
        """The numbers of a video, None where there is none: `given psnr`, `given ssim`, ..."""
        series, job = self.series, self.source.job
        given = list(series.given.values())
        biggest = seams.greatest(series.changes)
        borders = self.seams()
        return {
            "given psnr": quality.psnr(_mean(e for e, _ in given)) if given else None,
            "given ssim": _mean(s for _, s in given) if given else None,
            "psnr": quality.psnr(float(series.errors.mean())) if len(series.errors) else None,
            "ssim": float(series.similar.mean()) if len(series.similar) else None,
            "drift": float(quality.drift(series.colours).max()),
            "motion": float(series.changes.mean()) if len(series.changes) else None,
            "jump": biggest[0] if biggest else None,
            "jump at": biggest[1] if biggest else None,
            "seam": max(jump for _, jump in borders.values()) if borders else None,
            "closing": seams.closing_jump(series.changes, series.closing)
            if job.get("task") == "loop" and len(series.changes)
            else None,
        }

    def seams(self) -> dict[int, tuple[str, float]]:
        """Frames behind a border, what meets there, and how much of a jump it is."""
        return {
            frame: (what, seams.jump(self.series.changes, frame - 1))
            for frame, what in self.source.borders(self.frames).items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Videos side by side.

    Attributes:
      title: of the page.
      moments: seconds of which pictures are shown.
      seen: the videos.
      missing: name of what could not be looked at, and why.
    """

    title: str
    moments: tuple[float, ...]
    seen: tuple[Seen, ...]
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def differing(self) -> dict[str, list[str]]:
        """Settings that are not the same in all videos."""
        return differing([settings_of(one.source.record) for one in self.seen])


def open_all(paths: Sequence[Path]) -> list[Source]:
    """Looks at videos without decoding them.

    Raises:
      ValueError: fewer than two, or see `open_source`.
    """
    if len(paths) < 2:
        raise ValueError(f"compare takes two videos or more, got {len(paths)}.")
    return [open_source(path, name) for path, name in zip(paths, names_of(paths), strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """File names where they tell the paths apart; else the paths."""
    counts = Counter(path.name for path in paths)
    return [path.name if counts[path.name] == 1 else str(path) for path in paths]


def beside_first(sources: Sequence[Source]) -> list[Source | None]:
    """What each video is held against: the first one."""
    return [None, *[sources[0]] * (len(sources) - 1)]


def beside_alike(sources: Sequence[Source]) -> list[Source | None]:
    """What each video is held against: the first one of the same task, prompt and inputs."""
    firsts: dict[str, Source] = {}
    found: list[Source | None] = []
    for source in sources:
        key = repr([source.job.get(name) for name in ("task", "prompt", "inputs")])
        found.append(firsts.get(key) if source.job else None)
        firsts.setdefault(key, source)
    return found


def measured(
    title: str,
    sources: Sequence[Source],
    against: Sequence[Source | None],
    on_progress: Progress = no_progress,
    missing: Sequence[tuple[str, str]] = (),
    *,
    goes_on: bool = False,
) -> Report:
    """Reads the videos, several at once.

    Args:
      title: of the report.
      sources: the videos.
      against: what each is held against.
      on_progress: told about the stage "frames".
      missing: what could not be opened, and why.
      goes_on: whether a video that turns out to be damaged is listed instead of raised.

    Raises:
      ValueError, OSError: a video is damaged midway.
    """
    columns = COLUMNS if len(sources) <= FEW else COLUMNS_OF_MANY
    longest = max((s.frames - 1) / s.fps for s in sources)
    moments = tuple(longest * i / (columns - 1) for i in range(columns)) if longest else (0.0,)
    total, done, lock = sum(source.frames for source in sources), 0, threading.Lock()
    is_over = threading.Event()

    def on_frame() -> None:
        nonlocal done
        if is_over.is_set():
            raise ValueError("ended early.")
        with lock:
            done += 1
            on_progress("frames", min(done, total - 1), total)

    def one(source: Source, other: Source | None) -> Seen | str:
        try:
            return _seen(source, other, moments, on_frame)
        except (ValueError, OSError) as error:
            if not goes_on:
                raise
            return str(error)

    workers = min(WORKERS, os.cpu_count() or 1, len(sources))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            found = list(pool.map(one, sources, against))
        except BaseException:
            is_over.set()
            pool.shutdown(cancel_futures=True)
            raise
    on_progress("frames", total, total)
    pairs = list(zip(sources, found, strict=True))
    lost = [(source.name, why) for source, why in pairs if isinstance(why, str)]
    seen = tuple(one for one in found if isinstance(one, Seen))
    if not seen:
        raise ValueError(f"none of the videos can be read; the first: {lost[0][1]}")
    return Report(title=title, moments=moments, seen=seen, missing=(*missing, *lost))


def _seen(
    source: Source,
    other: Source | None,
    moments: Sequence[float],
    on_frame: Callable[[], None],
) -> Seen:
    given, remarks = given_frames(source)
    last = source.frames - 1
    frames = [round(moment * source.fps) for moment in moments]
    shown = [frame if frame <= last else None for frame in frames]
    wanted = {frame for frame in shown if frame is not None}
    asked = Asked(
        shown=tuple(sorted(wanted)),
        width=PICTURE,
        given=given,
        against=None if other is None else other.path,
    )
    series = measure(source.path, asked, on_frame)
    end = len(series.colours) - 1
    shown = [None if frame is None else min(frame, end) for frame in shown]
    notes = [*source.remarks, *remarks]
    if given and not series.given:
        size = "x".join(map(str, next(iter(given.values())).shape[:2]))
        ours = "x".join(map(str, series.size))
        notes.append(f"given frames are not judged: they are {size}, the video is {ours}")
    if other is not None and not len(series.errors):
        notes.append(f"it is of another size than {other.name} and not held against it")
    elif other is not None and len(series.colours) != other.frames:
        notes.append(
            f"{other.name} has {other.frames} frames, it has {len(series.colours)}: the first "
            f"{len(series.errors)} are held against each other"
        )
    return Seen(
        source=source,
        series=series,
        against="" if other is None or not len(series.errors) else other.name,
        shown=tuple(shown),
        remarks=tuple(notes),
    )


def _mean(values: Iterable[Any]) -> float:
    each = list(values)
    return float(sum(each) / len(each))
