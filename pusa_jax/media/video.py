"""Pictures and videos, in and out: the only module that knows image and video codecs.

Outside the networks a frame is uint8 RGB [H, W, 3] and a clip is [T, H, W, 3]; inside, pixels are
float32 in [-1, 1] (`pixels` brings one to the other). Nothing is rescaled except by `fit`. Whatever
is wrong with a file is told in one line that names it: FileNotFoundError where it is missing,
ValueError where it is not what was asked for, OSError where a result cannot be written. Results are
written to a temporary name in the same folder and then renamed: a name holds a whole file or none.
"""

import collections
import contextlib
import itertools
import json
import math
import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from pusa_jax.files.atomic import replacing

_LANCZOS = Image.Resampling.LANCZOS
_BT709 = 1
"""Code point of BT.709 in H.264's colour description (matrix, primaries and transfer alike)."""
_SETTINGS_KEY = "pusa_jax"
_PICTURE_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""All the ways in which Pillow's decoders report a file they cannot read."""
# Foreign tags need not be UTF-8; from 19 on PyAV takes them without being told.
_READING: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
)
_RECIPE = {"crf": "18"}
_MOVFLAGS = {"movflags": "+faststart+use_metadata_tags"}


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture upright (EXIF orientation applied), transparency on black.

    Of an animation it reads the first picture. 16-bit grey is brought to 8 bit; colour profiles are
    ignored, as in the original.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, or not a picture.
    """
    path = _existing_file(path, "picture")
    try:
        # Pillow warns of odd tags in pictures it reads well.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                image = Image.alpha_composite(black, image)
            return np.array(image.convert("RGB"))
    except _PICTURE_DAMAGE as error:
        raise ValueError(f"{path} is damaged or not a picture: {_one_line(error)}.") from error


def read_video(
    path: str | os.PathLike, num_frames: int | None = None, start: int = 0
) -> tuple[UInt8[np.ndarray, "T H W 3"], float]:
    """Reads frames in the order they are shown, turned upright as the file's rotation says.

    Every stored frame counts once, also where frame durations vary; non-square pixels stay as they
    are. Decoding stops with the last frame asked for.

    Args:
      path: video file in any container and codec of FFmpeg.
      num_frames: how many frames; `None` is all from `start` on.
      start: first frame; negative counts from the end, so that -13 begins 13 frames before it.

    Returns:
      The frames, and the file's average frame rate per second.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, not a video, or has too few frames.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
    if num_frames is not None and start < 0 and num_frames > -start:
        raise ValueError(
            f"{num_frames} frames do not fit after {start=}; start at {-num_frames} or earlier."
        )
    skipped = max(start, 0)
    stop = None if num_frames is None or start < 0 else skipped + num_frames
    needed = stop or max(-start, skipped + 1)
    kept = collections.deque(maxlen=-start if start < 0 else None)
    count = 0
    with _opened(path) as (container, stream):
        for frame in _decoded(container, stream):
            count += 1
            if count > skipped:
                kept.append(frame)
            if count == stop:
                break
        rate = stream.average_rate or stream.guessed_rate
        if count < needed:
            frames = "1 frame" if count == 1 else f"{count} frames"
            raise ValueError(f"{path} has {frames}, {needed} are needed; give a longer clip.")
        pictures = [_upright_rgb(frame) for frame in list(kept)[:num_frames]]
    if any(picture.shape != pictures[0].shape for picture in pictures):
        raise ValueError(f"{path} changes its picture size midway; re-encode it to one size.")
    if not rate:
        raise ValueError(f"{path} states no frame rate; re-encode it with one.")
    return np.stack(pictures), float(rate)


def video_length(path: str | os.PathLike) -> int:
    """Number of frames, counted by decoding them all.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, or not a video.
    """
    with _opened(path) as (container, stream):
        return sum(1 for _ in _decoded(container, stream))


def fit(
    frames: UInt8[np.ndarray, "*T H W 3"], height: int, width: int, mode: str
) -> UInt8[np.ndarray, "*T {height} {width} 3"]:
    """Brings a picture or the frames of a clip to a size, by Lanczos resampling.

    Args:
      frames: [H, W, 3] or [T, H, W, 3].
      height: of the result, in pixels.
      width: of the result, in pixels.
      mode: "crop" fills the size and cuts what sticks out, evenly on both sides; "letterbox" shows
        all of the picture, centred on black; "stretch" ignores the aspect ratio.

    Raises:
      ValueError: the mode is unknown.
    """
    if mode not in _FITS:
        raise ValueError(f"unknown {mode=}; choose one of {', '.join(_FITS)}.")
    pictures = frames.reshape(-1, *frames.shape[-3:])
    fitted = [np.asarray(_FITS[mode](Image.fromarray(p), (width, height))) for p in pictures]
    return np.stack(fitted).reshape(*frames.shape[:-3], height, width, 3)


_FITS = {
    "crop": lambda image, size: ImageOps.fit(image, size, _LANCZOS),
    "letterbox": lambda image, size: ImageOps.pad(image, size, _LANCZOS, color=(0, 0, 0)),
    "stretch": lambda image, size: image.resize(size, _LANCZOS),
}


def write_video(
    path: str | os.PathLike,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    fps: int | float | Fraction,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes an mp4 that plays everywhere: H.264, yuv420p, BT.709, crf 18, index in front.

    Args:
      path: ends in .mp4; missing folders are made, an existing file is replaced.
      frames: [T, H, W, 3], or an iterator of frames, which is consumed as it is encoded.
      fps: frames per second.
      metadata: settings to embed as JSON (`read_metadata` returns them); `None` embeds nothing.

    Raises:
      ValueError: wrong file ending, odd size, no frame, a frame of another size, a frame rate that
        is not positive, or metadata that JSON cannot hold.
      OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"the output must end in .mp4, got {path.name!r}.")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a positive number, got {fps}.")
    tags = {} if metadata is None else _as_tags(metadata)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {path}.")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs an even height and width, got {height}x{width}.")
    with replacing(path) as temporary:
        try:
            with av.open(
                os.fspath(temporary.absolute()), "w", format="mp4", options=_MOVFLAGS
            ) as container:
                container.metadata.update(tags)
                stream = container.add_stream(
                    "libx264", rate=Fraction(fps).limit_denominator(1001), options=_RECIPE
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
    with _opened(path) as (container, _):
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


def write_png(path: str | os.PathLike, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a picture as PNG; missing folders are made, an existing file is replaced.

    Raises:
      OSError: the folder cannot be written.
    """
    with replacing(Path(path)) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def frame_strip(
    frames: UInt8[np.ndarray, "T H W 3"], count: int
) -> UInt8[np.ndarray, "H strip_width 3"]:
    """A clip at a glance: `count` frames side by side, evenly spread from the first to the last.

    A clip of fewer frames is shown whole.
    """
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return np.concatenate(list(frames[chosen]), axis=1)


def line_of_text(text: str, width: int) -> UInt8[np.ndarray, "16 width 3"]:
    """A line of small white letters on black; what does not fit is cut off."""
    image = Image.new("RGB", (width, 16))
    ImageDraw.Draw(image).text((4, 2), text, fill="white")
    return np.asarray(image)


def _existing_file(path: str | os.PathLike, what: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; a {what} file is expected.")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"{path} is {kind}; a {what} file is expected.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); a {what} file is expected.")
    return path


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    path = _existing_file(path, "video")
    try:
        # An absolute path, since FFmpeg takes "word:" at the front of a name for a protocol.
        with av.open(os.fspath(path.absolute()), "r", **_READING) as container:
            name = container.format.name
            if name == "image2" or name.endswith("_pipe"):
                raise ValueError(f"{path} is a picture; a video file is expected.")
            if name == "tty" or not container.streams.video:
                raise ValueError(f"{path} holds no pictures; a video file is expected.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise ValueError(f"{path} is damaged or not a video: {error.strerror}.") from error


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    for packet in container.demux(stream):
        # FFmpeg marks the half frame at the end of a cut file, and goes on as if all were well.
        if packet.is_corrupt:
            raise ValueError(f"{container.name} is cut off or damaged midway; re-encode it.")
        yield from packet.decode()


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    # PyAV up to 16 heeds the colour matrix of a frame only when told another; rgb24 has none.
    rgb = frame.to_ndarray(format="rgb24", dst_colorspace=Colorspace.ITU601)
    return np.rot90(rgb, round(frame.rotation / 90))


def _to_yuv(frame: np.ndarray, shape: tuple[int, ...], index: int) -> av.VideoFrame:
    frame = np.asarray(frame)
    if frame.shape != shape or frame.dtype != np.uint8:
        raise ValueError(
            f"every frame must be uint8 {shape} like the first; frame {index} is "
            f"{frame.dtype} {frame.shape}."
        )
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)


def _as_tags(metadata: Mapping[str, Any]) -> dict[str, str]:
    try:
        text = json.dumps(metadata, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"metadata must be plain JSON values: {error}.") from error
    return {_SETTINGS_KEY: text, "comment": text}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
