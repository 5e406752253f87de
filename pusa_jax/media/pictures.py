"""Pictures in and out, and brought to size.

Nothing is rescaled except by `fit`. What people have besides uint8 arrays, Pillow's images and
floats in [0, 1], becomes uint8 in `as_frames`, or is refused with what it is.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from pusa_jax.files.atomic import replacing
from pusa_jax.media.opening import existing_file, is_heif

_LANCZOS = Image.Resampling.LANCZOS
PICTURES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"
)  # fmt: skip
"""Endings of pictures."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the picture upright."""


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture upright (EXIF orientation applied), transparency on black.

    Of an animation it reads the first picture. 16-bit grey is brought to 8 bit; colour profiles are
    ignored, as in the original. HEIC is read where `pillow-heif` is installed.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, empty, damaged, or not a picture.
    """
    path = existing_file(path, "picture")
    if is_heif(path):
        _learn_heif(path)
    try:
        # Pillow warns of odd tags in pictures it reads well.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return _upright_rgb(image)
    # Pillow's decoders and tag readers raise whatever a damaged file leads them to.
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a picture: {_one_line(error)}.") from error


def _learn_heif(path: Path) -> None:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{path} is a HEIC picture; pip install pillow-heif, or convert it to JPEG or PNG."
        ) from None
    pillow_heif.register_heif_opener()


def _upright_rgb(image: Image.Image) -> np.ndarray:
    # Not `exif_transpose`: it writes all tags anew, and fails where one of them is odd.
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    image.load()  # PNG may hold its tags behind the picture
    value = image.getexif().get(_ORIENTATION, 1)
    try:
        return int(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError):
        return 1


def as_frames(pictures: Any) -> UInt8[np.ndarray, "*T H W 3"]:
    """Pictures as uint8 RGB, from what people hold.

    Args:
      pictures: uint8 [H, W, 3] or [T, H, W, 3], floats in [0, 1] of such a shape, an image of
        Pillow in any mode (transparency on black), or a sequence of such pictures of one size.

    Raises:
      ValueError: anything else; says what it is.
    """
    if isinstance(pictures, Image.Image):
        return _upright_rgb(pictures)
    if isinstance(pictures, list | tuple):
        if not pictures:
            raise ValueError("there are no pictures: the sequence is empty.")
        each = [as_frames(picture) for picture in pictures]
        if any(one.shape != each[0].shape for one in each):
            sizes = sorted({str(list(one.shape)) for one in each})
            raise ValueError(f"the pictures differ in size: {', '.join(sizes[:40])}.")
        return np.stack(each)
    array = np.asarray(pictures)
    what = f"{type(pictures).__name__} {array.dtype} {list(array.shape)}"
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"frames must be RGB [H, W, 3] or [T, H, W, 3], got {what}.")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        values = array.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"floats must lie in [0, 1], got {what} from {low:.4g} to {high:.4g}; give uint8 "
                "where black is 0 and white 255."
            )
        return np.round(values * 255).astype(np.uint8)
    raise ValueError(f"frames must be uint8, or floats in [0, 1], got {what}.")


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
