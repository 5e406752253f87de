"""Frames as files hold them, 0 .. 255, and as networks see them, -1 .. 1."""

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8


def to_pixels(frames: UInt8[np.ndarray, "*axes"]) -> Float32[np.ndarray, "*axes"]:
    """Brings 0 .. 255 to [-1, 1], the range of the networks."""
    return frames.astype(np.float32) * (2 / 255) - 1


def to_uint8(
    pixels: Float[np.ndarray, "*axes"] | Float[jax.Array, "*axes"],
) -> UInt8[np.ndarray, "*axes"]:
    """Brings [-1, 1] to 0 .. 255; values outside are clipped.

    Parity: fractions are cut off, not rounded (pusa-v1.md §3.4 and the recorded uint8 frames).

    Raises:
      ValueError: a value is not finite.
    """
    pixels = np.asarray(pixels).astype(np.float32)
    if not np.isfinite(pixels).all():
        bad = np.count_nonzero(~np.isfinite(pixels))
        raise ValueError(f"{bad} of {pixels.size} pixel values are not finite; nothing to show.")
    return np.clip((pixels + 1) * 127.5, 0, 255).astype(np.uint8)
