"""Squares cut from pictures and brought to size as FVDM and Latte do it for their sets.

Parity: bilinear between the four nearest pixels, also where a picture is made much smaller; a side
after scaling loses its fraction, and half a pixel beside a cut goes to the even side
(Latte, datasets/video_transforms.py). The original keeps fractions of a grey level, which are
rounded here.
"""

import numpy as np
from jaxtyping import Float32, UInt8

Frames = UInt8[np.ndarray, "T H W 3"]


def short_side_then_cut(frames: Frames, size: int) -> UInt8[np.ndarray, "T {size} {size} 3"]:
    """Brings the shorter side to a size, then cuts the square in the middle.

    Args:
      frames: of one clip.
      size: side of the result, in pixels.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    sides = height * size // short, width * size // short
    top, left = (_middle(side, size) for side in sides)
    scaled = _scaled(frames, sides, short / size)
    return scaled[:, top : top + size, left : left + size]


def cut_then_scale(frames: Frames, size: int) -> UInt8[np.ndarray, "T {size} {size} 3"]:
    """Cuts the largest square in the middle, then brings it to a size.

    Args:
      frames: of one clip.
      size: side of the result, in pixels.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    top, left = _middle(height, short), _middle(width, short)
    square = frames[:, top : top + short, left : left + short]
    return _scaled(square, (size, size), short / size)


def as_they_are(frames: Frames, size: int) -> UInt8[np.ndarray, "T {size} {size} 3"]:
    """Leaves frames alone, which must be squares of this size already.

    Raises:
      ValueError: they are not.
    """
    height, width = frames.shape[1:3]
    if (height, width) != (size, size):
        raise ValueError(
            f"its frames are {height}x{width}, this set is not cropped and needs {size}x{size}."
        )
    return frames


def _middle(side: int, size: int) -> int:
    return round((side - size) / 2)


def _scaled(frames: Frames, sides: tuple[int, int], ratio: float) -> UInt8[np.ndarray, "T h w 3"]:
    """Frames of other sides; `ratio` is old pixels per new one, along both."""
    scaled = np.empty((len(frames), *sides, 3), np.uint8)
    for number, frame in enumerate(frames):
        rows = _along(frame.astype(np.float32), 0, sides[0], ratio)
        scaled[number] = np.rint(_along(rows, 1, sides[1], ratio))
    return scaled


def _along(
    picture: Float32[np.ndarray, "H W 3"], axis: int, side: int, ratio: float
) -> Float32[np.ndarray, "h w 3"]:
    """Bilinear along one axis; pixels are known at their centres, the outermost go on beyond."""
    at = np.maximum((np.arange(side) + 0.5) * ratio - 0.5, 0)
    last = picture.shape[axis] - 1
    first = np.minimum(at.astype(int), last)
    second = np.minimum(first + 1, last)
    weight = (at - first).astype(np.float32)
    weight = weight[:, None, None] if axis == 0 else weight[None, :, None]
    return np.take(picture, first, axis) * (1 - weight) + np.take(picture, second, axis) * weight
