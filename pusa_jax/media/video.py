"""Clips in and out: H.264 in mp4 with the settings of a run inside.

Outside the networks a frame is uint8 RGB [H, W, 3] and a clip is [T, H, W, 3]; inside, pixels are
float32 in [-1, 1] (`pixels` brings one to the other). Whatever is wrong with a file is told in one
line that names it: FileNotFoundError where it is missing, ValueError where it is not what was asked
for, OSError where a result cannot be written. Results are written to a temporary name in the same
folder and then renamed: a name holds a whole file or none.
"""

import collections
import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import UInt8

from pusa_jax.files.atomic import replacing
from pusa_jax.media import timing
from pusa_jax.media.colour import Graphs, Matrix, check_colours, display_matrix, upright_rgb
from pusa_jax.media.frames import as_picture
from pusa_jax.media.opening import decoded, opened
from pusa_jax.media.pictures import fit as fit
from pusa_jax.media.pictures import frame_strip as frame_strip
from pusa_jax.media.pictures import line_of_text as line_of_text
from pusa_jax.media.pictures import read_image as read_image
from pusa_jax.media.pictures import write_png as write_png

_BT709 = 1
"""Code point of BT.709 in H.264's colour description (matrix, primaries and transfer alike)."""
_MIDWAY = "{} changes its picture size midway; re-encode it to one size."
_FASTEST = 1000
"""Frames per second that a clip can be brought to."""
_SETTINGS_KEY = "pusa_jax"
CRF = 18
"""Constant rate factor of H.264 that people do not see; less is more exact and larger."""
_RECIPE = {"x264-params": "mbtree=0"}
"""Without mbtree, whose fast code reads memory that nobody has written where pictures are narrow:
the same frames made another file from one run to the next."""
_MOVFLAGS = {"movflags": "+faststart+use_metadata_tags"}


def read_video(
    path: str | os.PathLike,
    num_frames: int | None = None,
    start: int = 0,
    fps: int | float | None = None,
) -> tuple[UInt8[np.ndarray, "T H W 3"], float]:
    """Reads frames in the order they are shown, upright and in the colours of BT.709.

    Non-square pixels stay as they are. Decoding stops with the last frame asked for, and begins
    near the first where seeking finds it: at the end of a file, and at a moment of a given rate.

    Args:
      path: video file in any container and codec of FFmpeg.
      num_frames: how many frames; `None` is all from `start` on.
      start: first frame; negative counts from the end, so that -13 begins 13 frames before it.
      fps: frames per second that the clip is brought to, by timestamps: each frame is the one on
        screen at that moment; `start` and `num_frames` then count these. `None` takes every stored
        frame once, also where frame durations vary.

    Returns:
      The frames, and their rate per second: `fps`, or the file's average.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, not a video, or has too few frames; or a number
        makes no sense.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
    if num_frames is not None and start < 0 and num_frames > -start:
        raise ValueError(
            f"{num_frames} frames do not fit after {start=}; start at {-num_frames} or earlier."
        )
    if fps is not None and not 0 < fps <= _FASTEST:
        raise ValueError(f"fps must be above 0 and at most {_FASTEST}, got {fps}.")
    fps = None if fps is None else float(fps)
    needed = -start if start < 0 else start + (num_frames or 1)
    with opened(path) as (container, stream):
        rate = timing.rate_of(stream)
        if not rate:
            raise ValueError(f"{path} states no frame rate; re-encode it with one.")
        kept: list[av.VideoFrame] = []
        if start < 0:
            for frames in timing.ending(container, stream, -start / (fps or rate)):
                if fps is None:
                    kept = list(collections.deque(frames, maxlen=-start))
                else:
                    kept = timing.last_at(timing.timed(frames, rate), fps, -start)
                if len(kept) == -start:
                    break
            count = len(kept)
        else:
            stop = None if num_frames is None else start + num_frames
            if fps is None:
                count, kept = _slice(decoded(container, stream), start, stop)
            else:
                zero, frames = timing.around(container, stream, rate, start / fps)
                count, kept = timing.slice_at(frames, fps, start, stop, zero)
        if count < needed:
            frames = "1 frame" if count == 1 else f"{count} frames"
            at = f" at {fps:g} a second (its own rate is {rate:.4g})" if fps else ""
            raise ValueError(f"{path} has {frames}, {needed} are needed{at}; give a longer clip.")
        check_colours(path, stream.codec_context.codec_tag, kept[0])
        graphs: Graphs = {}
        pictures = [upright_rgb(frame, graphs) for frame in kept[:num_frames]]
    if any(picture.shape != pictures[0].shape for picture in pictures):
        raise ValueError(_MIDWAY.format(path))
    return np.stack(pictures), rate if fps is None else fps


def _slice(
    frames: Iterable[av.VideoFrame], start: int, stop: int | None
) -> tuple[int, list[av.VideoFrame]]:
    count, kept = 0, []
    for frame in itertools.islice(frames, stop):
        count += 1
        if count > start:
            kept.append(frame)
    return count, kept


def frames_of(path: str | os.PathLike) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames one after another, as `read_video` gives them all; one is held at a time.

    All are turned as the first one says.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, not a video, or changes its picture size.
    """
    with opened(path) as (container, stream):
        graphs: Graphs = {}
        shape: tuple[int, ...] | None = None
        matrix: Matrix | None = None
        for frame in decoded(container, stream):
            if shape is None:
                check_colours(path, stream.codec_context.codec_tag, frame)
                matrix = display_matrix(frame)
            picture = upright_rgb(frame, graphs, matrix)
            if shape not in (None, picture.shape):
                raise ValueError(_MIDWAY.format(path))
            shape = picture.shape
            yield picture
        if shape is None:
            raise ValueError(f"{path} has no frame that can be shown.")


def video_length(path: str | os.PathLike) -> int:
    """Number of frames, counted by decoding them all.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, or not a video.
    """
    with opened(path) as (container, stream):
        return sum(1 for _ in decoded(container, stream))


def frame_rate(path: str | os.PathLike) -> float:
    """Average frames per second of a file; 0 where it does not say.

    Raises:
      FileNotFoundError, ValueError: see `video_length`.
    """
    with opened(path) as (_, stream):
        return timing.rate_of(stream)


def length_and_rate(path: str | os.PathLike) -> tuple[float, float]:
    """Seconds and average frames per second of a file by its table of contents; 0 if not told.

    Raises:
      FileNotFoundError, ValueError: see `video_length`.
    """
    with opened(path) as (container, stream):
        return timing.length_of(container, stream), timing.rate_of(stream)


def write_video(
    path: str | os.PathLike,
    frames: Iterable[Any],
    fps: int | float | Fraction,
    metadata: Mapping[str, Any] | None = None,
    *,
    only_new: bool = False,
    crf: int = CRF,
) -> None:
    """Writes an mp4 that plays everywhere: H.264, yuv420p, BT.709, index in front.

    Args:
      path: ends in .mp4; missing folders are made, an existing file is replaced.
      frames: [T, H, W, 3], or an iterator of pictures, which is consumed as it is encoded: uint8,
        floats in [0, 1], or images of Pillow.
      fps: frames per second.
      metadata: settings to embed as JSON (`read_metadata` returns them); `None` embeds nothing.
      only_new: whether a file that exists when all is written stays as it is.
      crf: constant rate factor of H.264, 0 to 51.

    Raises:
      ValueError: wrong file ending, odd size, no frame, a frame of another size, a frame rate that
        is not positive, or metadata that JSON cannot hold.
      OSError: the folder cannot be written.
      FileExistsError: there is such a file, with `only_new`.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"the output must end in .mp4, got {path.name!r}.")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}.")
    tags = {} if metadata is None else _as_tags(metadata)
    frames = map(_as_written, itertools.count(), frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {path}.")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs an even height and width, got {height}x{width}.")
    recipe = {"crf": str(crf), **_RECIPE}
    with replacing(path, only_new=only_new) as temporary:
        try:
            with av.open(
                os.fspath(temporary.absolute()), "w", format="mp4", options=_MOVFLAGS
            ) as container:
                container.metadata.update(tags)
                stream = container.add_stream(
                    "libx264", rate=Fraction(fps).limit_denominator(1001), options=recipe
                )
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                codec = stream.codec_context
                codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
                for index, frame in enumerate(itertools.chain([first], frames)):
                    container.mux(stream.encode(_to_yuv(frame, (height, width, 3), index)))
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise OSError(f"{path} could not be written: {error.strerror}.") from error


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The settings embedded by `write_video`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a video, or it carries no settings of ours.
    """
    with opened(path) as (container, _):
        tags = container.metadata
    # Re-muxing by other tools keeps the standard tag `comment` and drops the others.
    for key in (_SETTINGS_KEY, "comment"):
        with contextlib.suppress(json.JSONDecodeError):
            settings = json.loads(tags.get(key, ""))
            if isinstance(settings, dict):
                return settings
    raise ValueError(
        f"{path} carries no settings; it was not written by pusa_jax, or was re-encoded since."
    )


def _as_written(index: int, frame: Any) -> np.ndarray:
    try:
        return as_picture(frame)
    except ValueError as error:
        raise ValueError(f"frame {index} cannot be written: {error}") from None


def _to_yuv(frame: np.ndarray, shape: tuple[int, ...], index: int) -> av.VideoFrame:
    if frame.shape != shape:
        raise ValueError(
            f"every frame must be uint8 {shape} like the first; frame {index} is uint8 "
            f"{frame.shape}."
        )
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)


def _as_tags(metadata: Mapping[str, Any]) -> dict[str, str]:
    try:
        text = json.dumps(metadata, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"metadata must be plain JSON values: {error}.") from error
    return {_SETTINGS_KEY: text, "comment": text}
