"""Pictures in and out, and brought to size. Nothing is rescaled except by `fit`."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from pusa_jax.files.atomic import replacing
from pusa_jax.media.frames import as_frames, as_picture, one_line
from pusa_jax.media.opening import existing_file, is_heif
from pusa_jax.media.pillow import upright_rgb

_LANCZOS = Image.Resampling.LANCZOS
PICTURES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"
)  # fmt: skip
"""Endings of pictures."""


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture upright (EXIF orientation applied), transparency on black.

    Of an animation it reads the first picture. 16-bit grey is brought to 8 bit, and what a colour
    profile says is in Display P3 or the like to sRGB, which the original does not. HEIC is read
    where `pillow-heif` is installed.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, or not a picture.
    """
    with open_image(path) as image:
        return upright_rgb(image)


@contextlib.contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """A picture file, of which the head alone is read; whatever is raised inside is one line.

    Raises:
      FileNotFoundError, ValueError: see `read_image`.
    """
    path = existing_file(path, "picture")
    if is_heif(path):
        _learn_heif(path)
    try:
        # Pillow warns of odd tags in pictures it reads well.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            yield image
    # Pillow's decoders and tag readers raise whatever a damaged file leads them to.
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a picture: {one_line(error)}.") from error


def _learn_heif(path: Path) -> None:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{path} is a HEIC picture; pip install pillow-heif, or convert it to JPEG or PNG."
        ) from None
    pillow_heif.register_heif_opener()


def fit(
    frames: Any, height: int, width: int, mode: str
) -> UInt8[np.ndarray, "*T {height} {width} 3"]:
    """Brings a picture or the frames of a clip to a size, by Lanczos resampling.

    Args:
      frames: [H, W, 3] or [T, H, W, 3], or what else `as_frames` takes.
      height: of the result, in pixels.
      width: of the result, in pixels.
      mode: "crop" fills the size and cuts what sticks out, evenly on both sides; "letterbox" shows
        all of the picture, centred on black; "stretch" ignores the aspect ratio.

    Raises:
      ValueError: the mode is unknown, or the frames are no pictures.
    """
    if mode not in _FITS:
        raise ValueError(f"unknown {mode=}; choose one of {', '.join(_FITS)}.")
    frames = as_frames(frames)
    pictures = frames.reshape(-1, *frames.shape[-3:])
    fitted = [np.asarray(_FITS[mode](Image.fromarray(p), (width, height))) for p in pictures]
    return np.stack(fitted).reshape(*frames.shape[:-3], height, width, 3)


_FITS = {
    "crop": lambda image, size: ImageOps.fit(image, size, _LANCZOS),
    "letterbox": lambda image, size: ImageOps.pad(image, size, _LANCZOS, color=(0, 0, 0)),
    "stretch": lambda image, size: image.resize(size, _LANCZOS),
}


def write_png(path: str | os.PathLike, image: Any) -> None:
    """Writes a picture as PNG; missing folders are made, an existing file is replaced.

    Args:
      path: of the file.
      image: [H, W, 3], or what else `as_frames` takes for a picture.

    Raises:
      ValueError: it is no picture.
      OSError: the folder cannot be written.
    """
    picture = as_picture(image)
    with replacing(Path(path)) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def as_jpeg(image: UInt8[np.ndarray, "H W 3"], width: int) -> bytes:
    """A picture as a JPEG file, for pages; made smaller where it is wider than `width` pixels."""
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    if width < image.shape[1]:
        image = fit(image, height, width, "stretch")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return file.getvalue()


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
