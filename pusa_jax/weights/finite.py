"""Whether arrays hold NaN or infinite values, told by their bits: as fast as memory for any float.

A value is not finite where all bits of its exponent are set. Of float8_e4m3fn, whose exponent has
no such value to spare, it is the one pattern with all bits set, which is NaN.
"""

import ml_dtypes
import numpy as np

BLOCK = 2**18
"""Values looked at together, so that what is computed stays in the cache."""

_MASKS = {
    np.dtype(np.float64): 0x7FF0000000000000,
    np.dtype(np.float32): 0x7F800000,
    np.dtype(np.float16): 0x7C00,
    np.dtype(ml_dtypes.bfloat16): 0x7F80,
    np.dtype(ml_dtypes.float8_e5m2): 0x7C,
    np.dtype(ml_dtypes.float8_e4m3fn): 0x7F,
}
"""Type -> the bits that are all set in values that are not finite."""


def nonfinite(array: np.ndarray) -> int:
    """Number of values that are NaN or infinite; 0 for types that have none."""
    mask = _MASKS.get(array.dtype)
    if mask is None:
        return 0
    bits = np.dtype(f"u{array.dtype.itemsize}")
    mask = bits.type(mask)
    order = "F" if array.flags.f_contiguous else "C"
    flat = array.reshape(-1, order=order).view(bits)
    blocks = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
    return sum(int(np.count_nonzero((block & mask) == mask)) for block in blocks)
