"""A video before its frames are read: how long it is, and what it says of itself."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

from pusa_jax.files.records import FieldError, rebuild
from pusa_jax.inference.jobs import Job, read_conditions
from pusa_jax.inference.layout import Layout, joints, pixels_of
from pusa_jax.media import video
from pusa_jax.media.outputs import read_record

OLDER = "where frames were given is not known: an older version made it"
"""Of videos whose record has no layout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A video file.

    Attributes:
      path: of the file.
      name: what it is called in a report.
      fps: frames per second.
      frames: how many it should have by its table of contents.
      record: what it says of itself; empty of a foreign one.
      layout: where frames were given; None where it does not say.
      remarks: what is not known of it and why, a line each.
    """

    path: Path
    name: str
    fps: float
    frames: int
    record: Mapping[str, Any]
    layout: Layout | None = None
    remarks: tuple[str, ...] = ()

    @property
    def job(self) -> Mapping[str, Any]:
        """Plain values of the job that made it, if it says so."""
        job = self.record.get("job")
        return job if isinstance(job, dict) else {}

    def marked(self, num_frames: int) -> frozenset[int]:
        """Pixel frames that were given, of a video of so many."""
        if self.layout is None:
            return frozenset()
        spans = (pixels_of(place, self.layout.stride) for place in self.layout.at)
        return frozenset(frame for span in spans for frame in span if frame < num_frames)

    def borders(self, num_frames: int) -> dict[int, str]:
        """Frames that follow a border, and what meets there: given and made frames, or pieces."""
        if self.layout is None:
            return {}
        given, overlap = self.marked(num_frames), self.job.get("overlap")
        found = {
            frame: "a given frame begins" if frame in given else "a given frame ends"
            for frame in range(1, num_frames)
            if (frame in given) != (frame - 1 in given)
        }
        parts = joints(self.layout, overlap if isinstance(overlap, int) else None, num_frames)
        return found | dict.fromkeys(parts, "a piece begins")


def open_source(path: Path, name: str) -> Source:
    """Looks at a video without decoding it.

    Raises:
      FileNotFoundError, ValueError: it is not there, no video, or says no frame rate.
    """
    seconds, fps = video.length_and_rate(path)
    if not fps:
        raise ValueError(f"{path} states no frame rate; re-encode it with one.")
    frames = round(seconds * fps) or video.video_length(path)
    plain = {"path": path, "name": name, "fps": fps, "frames": max(frames, 1)}
    try:
        record = read_record(path)
    except ValueError:
        return Source(**plain, record={}, remarks=("it carries no settings",))
    if not isinstance(record.get("layout"), dict):
        return Source(**plain, record=record, remarks=(OLDER,))
    try:
        return Source(**plain, record=record, layout=rebuild(Layout, record["layout"]))
    except (FieldError, ValueError) as error:
        return Source(**plain, record=record, remarks=(f"its layout cannot be read: {error}",))


def given_frames(source: Source) -> tuple[dict[int, UInt8[ndarray, "H W 3"]], tuple[str, ...]]:
    """The pictures that a video was made from, by the pixel frame where each should be seen.

    A single picture stands for the last of the frames that its latent frame becomes.

    Returns:
      the pictures, and a remark where they cannot be had: a file is gone, or is another by now.
    """
    layout = source.layout
    if layout is None or not layout.at:
        return {}, ()
    job = source.job
    prints, inputs = job.get("sha256"), job.get("inputs")
    if not (isinstance(prints, dict) and isinstance(inputs, list)):
        return {}, ("given frames are not judged: its files are not named",)
    kept = {path: digest for path, digest in prints.items() if path in inputs}  # no weights
    folder = source.path.absolute().parent
    try:
        own = Job.from_record({**job, "sha256": kept}, folder)
        conditions = read_conditions(own, layout.stride, {}, layout.fps)
    except (ValueError, OSError) as error:
        return {}, (f"given frames are not judged: {error}",)
    found = {}
    for each in conditions:
        for take, place in zip(each.take, each.at, strict=True):
            pictures = each.frames[list(pixels_of(take, layout.stride))]
            places = pixels_of(place, layout.stride)[-len(pictures) :]
            found |= dict(zip(places, pictures, strict=True))
    return found, ()
