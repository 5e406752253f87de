"""Pictures and clips as people hold them: as uint8 RGB, or refused with what they are."""

import os
from typing import Any

import numpy as np
from jaxtyping import UInt8

_OVERSHOOT = 1e-4
"""By which floats leave [0, 1] from rounding and resampling alone."""


def as_frames(pictures: Any) -> UInt8[np.ndarray, "*T H W 3"]:
    """Pictures as uint8 RGB, from what people hold.

    Args:
      pictures: uint8 [H, W, 3] or [T, H, W, 3], floats in [0, 1] of such a shape, an image of
        Pillow in any mode (transparency on black), or a sequence of such pictures of one size.

    Raises:
      ValueError: anything else; says what it is.
    """
    if any(kind.__module__ == "PIL.Image" for kind in type(pictures).__mro__):
        from pusa_jax.media.pillow import upright_rgb  # who has no such image does without Pillow

        return upright_rgb(pictures)
    if isinstance(pictures, list | tuple):
        if not pictures:
            raise ValueError("there are no pictures: the sequence is empty.")
        each = [as_frames(picture) for picture in pictures]
        if any(one.ndim != 3 for one in each):
            raise ValueError("a sequence must hold pictures, got clips.")
        if any(one.shape != each[0].shape for one in each):
            sizes = sorted({str(list(one.shape)) for one in each})
            raise ValueError(f"the pictures differ in size: {', '.join(sizes[:40])}.")
        return np.stack(each)
    if isinstance(pictures, str | os.PathLike):
        raise ValueError(f"frames must be pictures, got the path {str(pictures)!r:.100}; read it.")
    try:
        array = np.asarray(pictures)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(pictures).__name__
        raise ValueError(f"frames must be an array, got {kind}: {one_line(error)}.") from error
    what = f"{type(pictures).__name__} {array.dtype} {list(array.shape)}"
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"frames must be RGB [H, W, 3] or [T, H, W, 3], got {what}.")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        values = array.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            raise ValueError(
                f"floats must lie in [0, 1], got {what} from {low:.4g} to {high:.4g}; give uint8 "
                "where black is 0 and white 255."
            )
        return np.round(values.clip(0, 1) * 255).astype(np.uint8)
    raise ValueError(f"frames must be uint8, or floats in [0, 1], got {what}.")


def as_picture(picture: Any) -> UInt8[np.ndarray, "H W 3"]:
    """One picture, of what `as_frames` takes.

    Raises:
      ValueError: it is no picture, or a clip.
    """
    array = as_frames(picture)
    if array.ndim != 3:
        raise ValueError(f"one picture [H, W, 3] is expected, got a clip {list(array.shape)}.")
    return array


def as_clip(frames: Any) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip, of what `as_frames` takes.

    Raises:
      ValueError: it is no clip, or a picture.
    """
    array = as_frames(frames)
    if array.ndim != 4:
        raise ValueError(
            f"a clip [T, H, W, 3] is expected, got a picture {list(array.shape)}; of one frame it "
            "is picture[None]."
        )
    return array


def one_line(error: BaseException) -> str:
    """What an error of others says, to be put into a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
