"""From an image of Pillow, in any mode and with any tags, to upright RGB."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms

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


def upright_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """What an image shows: turned as its tags say, transparency on black, 16-bit grey in 8 bit.

    What says that it is in other colours than sRGB, as phones do of Display P3, is brought to sRGB.

    Raises:
      ValueError: its pixels are floats outside [0, 1], or whole numbers of an unknown range.
    """
    # Not `exif_transpose`: it writes all tags anew, and fails where one of them is odd.
    turn, profile = _TURNS.get(_orientation(image)), image.info.get("icc_profile")
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("its pixels are floats outside [0, 1]; save it with 8 or 16 bit")
        image = Image.fromarray(np.round(values * 255).astype(np.uint8))
    if image.mode == "I":
        if image.format == "PPM":  # Pillow brings those of more than 8 bit to 16
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        else:
            raise ValueError("its pixels have 32 bit (mode I); save it with 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.array(_in_srgb(image.convert("RGB"), profile))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB image of a colour profile in sRGB; as it is, where the profile is of no use."""
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        core: Any = found.profile
        if core.xcolor_space.strip() != "RGB" or "sRGB" in (core.profile_description or ""):
            return image
        return (
            ImageCms.profileToProfile(
                image, found, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
            )
            or image
        )
    except (OSError, ImageCms.PyCMSError):
        return image


def _orientation(image: Image.Image) -> int:
    image.load()  # PNG may hold its tags behind the picture
    value = image.getexif().get(_ORIENTATION, 1)
    try:
        return int(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return 1
