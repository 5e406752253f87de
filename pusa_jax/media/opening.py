"""Opening a video file: the stream that plays, or one line about what the file is instead."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
"""Streams that are no clip: covers, thumbnails, photographs in a container of videos."""
_OF_PICTURES = ("mjpeg", "png", "bmp", "gif", "tiff", "webp")
"""Codecs of covers."""
# Foreign tags need not be UTF-8; from 19 on PyAV takes them without being told.
_READING: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "surrogateescape"}
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def existing_file(path: str | os.PathLike, what: str) -> Path:
    """The path, if there is a file with something in it.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is a folder or empty.
    """
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
def opened(path: str | os.PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its stream that plays; whatever FFmpeg raises inside becomes one line.

    Raises:
      FileNotFoundError, ValueError: see `existing_file`, or it is damaged or holds no video.
    """
    path = existing_file(path, "video")
    if is_heif(path):
        raise ValueError(f"{path} is a HEIC picture; a video file is expected.")
    if is_animated_webp(path):
        raise ValueError(
            f"{path} is an animated WebP, which FFmpeg does not read; convert it to mp4."
        )
    try:
        # An absolute path, since FFmpeg takes "word:" at the front of a name for a protocol.
        with av.open(os.fspath(path.absolute()), "r", **_READING) as container:
            name = container.format.name
            if name == "image2" or name.endswith("_pipe"):
                raise ValueError(f"{path} is a picture; a video file is expected.")
            playing = [s for s in container.streams.video if not s.disposition & _STILL]
            stream = max(playing, key=_likelihood, default=None)
            if name == "tty" or stream is None or _is_unmarked_cover(path, container, stream):
                raise ValueError(f"{path} holds no video; a video file is expected.")
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise ValueError(f"{path} is damaged or not a video: {error.strerror}.") from error


def _likelihood(stream: VideoStream) -> tuple[bool, bool, bool]:
    """Orders streams; a cover that nobody marked has one frame, or a codec of pictures."""
    is_moving = stream.codec_context.name not in _OF_PICTURES
    return stream.frames != 1, is_moving, bool(stream.disposition & Disposition.default)


def _is_unmarked_cover(path: Path, container: InputContainer, stream: VideoStream) -> bool:
    """Whether a stream beside sound is a single picture that nobody marked as the cover."""
    if not container.streams.audio or stream.codec_context.name not in _OF_PICTURES:
        return False
    # Opened anew, for not every container can be rewound; packets are looked at, not decoded.
    with av.open(os.fspath(path.absolute()), "r", **_READING) as again:
        packets = (p for p in again.demux(again.streams[stream.index]) if p.size)
        return len(list(itertools.islice(packets, 2))) < 2


def decoded(
    container: InputContainer, stream: VideoStream, *, from_key: bool = False
) -> Iterator[av.VideoFrame]:
    """Frames in the order they are shown, from where the container stands.

    Args:
      container: opened.
      stream: of it.
      from_key: whether it stands anywhere, so that what comes before the next key frame, and what
        is shown before that but refers to frames still earlier, is left out.

    Raises:
      ValueError: the file is cut off.
    """
    packets = container.demux(stream)
    if from_key:
        packets = itertools.dropwhile(lambda packet: not packet.is_keyframe, packets)
    frames = _frames(container, packets)
    yield from itertools.dropwhile(lambda f: from_key and not f.key_frame, frames)


def _frames(container: InputContainer, packets: Iterable[Any]) -> Iterator[av.VideoFrame]:
    for packet in packets:
        # FFmpeg marks the half frame at the end of a cut file, and goes on as if all were well.
        if packet.is_corrupt:
            raise ValueError(f"{container.name} is cut off or damaged midway; re-encode it.")
        yield from packet.decode()


def is_heif(path: Path) -> bool:
    """Whether a file is a photograph in HEIF, as phones write them (HEIC)."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def is_animated_webp(path: Path) -> bool:
    """Whether a file is a WebP with several pictures."""
    with path.open("rb") as file:
        head = file.read(21)
    is_extended = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    return is_extended and len(head) == 21 and bool(head[20] & 2)
