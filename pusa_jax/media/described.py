"""What a picture or a clip is, in words; nothing of it is decoded."""

from pathlib import Path

from PIL import Image

from pusa_jax.media import timing
from pusa_jax.media.opening import opened
from pusa_jax.media.pictures import open_image

_TRANSFERS = {16: "PQ (HDR10)", 18: "HLG"}
"""Code points of ISO 23091-2 that are no standard range."""


def picture_in_words(path: Path) -> str:
    """Kind, size and number of pictures of a picture file.

    Raises:
      FileNotFoundError, ValueError: see `read_image`.
    """
    with open_image(path) as image:
        width, height = image.size
        words = f"picture ({image.format}), {width}x{height}, {_mode(image)}"
        count = getattr(image, "n_frames", 1)
        if count == 1:
            return words
        moving = "an animation" if getattr(image, "is_animated", False) else "a file"
        return (
            f"{words}; {moving} of {count} pictures, of which the first is read; convert it to mp4 "
            "to take it as a clip"
        )


def _mode(image: Image.Image) -> str:
    return f"mode {image.mode}{', with a colour profile' if image.info.get('icc_profile') else ''}"


def clip_in_words(path: Path) -> str:
    """Container, codec, size, rate and length of a clip, by its table of contents.

    Raises:
      FileNotFoundError, ValueError: see `opening.opened`.
    """
    with opened(path) as (container, stream):
        codec, rate = stream.codec_context, timing.rate_of(stream)
        seconds = timing.length_of(container, stream)
        told = [
            f"clip ({container.format.name}, {codec.name})",
            f"{codec.width}x{codec.height}",
            f"{rate:.4g} frames a second" if rate else "no frame rate",
            f"{seconds:.1f} s" if seconds else "length not told",
        ]
        if codec.color_trc in _TRANSFERS:
            told.append(_TRANSFERS[codec.color_trc])
        return ", ".join(told)
