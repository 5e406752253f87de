"""A clip written in the form that the ending of its path asks for.

a.mp4    H.264, carries its settings         a.gif    for pages and chats
a.webm   VP9, for browsers                   a.png    its frames side by side, nine at most
a.npz    latents and settings                a/       every frame as a picture, settings.json
"""

import json
import os
import zipfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from pusa_jax.files.atomic import replacing
from pusa_jax.files.staging import staged
from pusa_jax.media import video

ENDINGS = (".mp4", ".gif", ".webm", ".png", ".npz")

CARRY_NONE = (".gif", ".webm", ".png")
"""Of them those that hold a clip and nothing about it."""

SETTINGS = "settings.json"
"""File in a folder of pictures."""

STRIP = 9
"""Frames of a clip in one picture."""


def check_ending(output: str) -> None:
    """Raises ValueError unless the ending says a form; a folder ends in a slash."""
    if not output.endswith("/") and Path(output).suffix.lower() not in ENDINGS:
        raise ValueError(
            f"the output must end in {', '.join(ENDINGS)} or / (a folder of pictures), got "
            f"{output!r}."
        )


def write_clip(
    path: Path,
    frames: UInt8[np.ndarray, "T H W 3"],
    latents: Float[np.ndarray, "1 F h w C"],
    fps: int | float,
    record: Mapping[str, Any],
    *,
    only_new: bool = False,
    crf: int = video.CRF,
) -> None:
    """Writes a clip; a path without an ending is a folder.

    Args:
      path: see `check_ending`; what is there is replaced, a folder is not.
      frames: RGB.
      latents: what they were decoded from.
      fps: frames per second.
      record: settings; files of the forms .mp4 and .npz and folders hold them.
      only_new: whether an mp4 that exists when all is written stays as it is.
      crf: of an mp4, see `video.write_video`.

    Raises:
      OSError: it cannot be written, or the folder is there.
      FileExistsError: there is such an mp4, with `only_new`.
    """
    match path.suffix.lower():
        case ".mp4":
            video.write_video(path, frames, fps, record, only_new=only_new, crf=crf)
        case ".gif":
            pictures = [Image.fromarray(frame) for frame in frames]
            with replacing(path) as part:
                pictures[0].save(
                    part, "GIF", save_all=True, append_images=pictures[1:], loop=0,
                    duration=round(1000 / fps),
                )  # fmt: skip
        case ".webm":
            _write_webm(path, frames, fps)
        case ".png":
            video.write_png(path, video.frame_strip(frames, min(STRIP, len(frames))))
        case ".npz":
            with replacing(path) as part, part.open("wb") as file:
                np.savez(file, latents=latents, record=np.asarray(json.dumps(record)))
        case _:
            with staged(path) as folder:
                for i, frame in enumerate(frames):
                    video.write_png(folder / f"{i:05}.png", frame)
                text = json.dumps(record, indent=1) + "\n"
                (folder / SETTINGS).write_text(text, "utf-8")


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """The settings that a clip of the form .mp4, .npz or a folder of pictures carries.

    Raises:
      FileNotFoundError: there is nothing of this name.
      ValueError: it carries none.
    """
    path = Path(path)
    if path.is_dir():
        text = (path / SETTINGS).read_text("utf-8") if (path / SETTINGS).is_file() else ""
    elif path.suffix.lower() == ".npz" and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as found:
                text = str(found["record"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError):
            text = ""
    else:
        if path.suffix.lower() in CARRY_NONE and path.is_file():
            raise ValueError(f"{path} carries no settings; .mp4, .npz and folders of pictures do.")
        return video.read_metadata(path)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(f"{path} carries no settings; it was not written by pusa_jax.")
    return record


def _write_webm(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: int | float) -> None:
    with replacing(path) as part:
        try:
            with av.open(str(part.absolute()), "w", format="webm") as container:
                stream = container.add_stream(
                    "libvpx-vp9",
                    rate=Fraction(fps).limit_denominator(1001),
                    options={"crf": "24", "b:v": "0"},
                )
                stream.height, stream.width = frames.shape[1:3]
                stream.pix_fmt = "yuv420p"
                for frame in frames:
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
                    container.mux(stream.encode(picture))
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise OSError(f"{path} could not be written: {error.strerror}.") from error
