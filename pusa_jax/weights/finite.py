"""Whether arrays hold NaN or infinite values, told by their bits: as fast as memory for any float.

A value is not finite where all bits of its exponent are set. Of float8_e4m3fn, whose exponent has
no such value to spare, it is the one pattern with all bits set, which is NaN.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
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


def odd_leaves(leaves: Mapping[str, jax.Array]) -> list[str]:
    """Paths of arrays of which this process holds values that are NaN or infinite, sorted.

    They are looked at where they lie: those of a CPU without a copy, others on their devices.
    """
    found = {
        path: [_holds_odd(shard.data) for shard in array.addressable_shards]
        for path, array in leaves.items()
        if jnp.issubdtype(array.dtype, jnp.floating)
    }
    return sorted(path for path, parts in jax.device_get(found).items() if any(parts))


def _holds_odd(shard: jax.Array) -> bool | jax.Array:
    if {device.platform for device in shard.devices()} == {"cpu"}:
        return nonfinite(np.asarray(shard)) > 0
    return holds_nonfinite(shard)


@jax.jit
def holds_nonfinite(array: jax.Array) -> jax.Array:
    """Whether an array on a device holds NaN or infinite values, as a value on that device."""
    return ~jnp.isfinite(array).all()
