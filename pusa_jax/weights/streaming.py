"""Large arrays in pieces, so that the host never holds more than a piece of what devices hold.

A piece is some rows: entries along the first axis, which for the weights of a stack of layers are
whole layers. Each piece is cut over the devices like the array, except that its rows stay together,
and is written into its place in the memory of the array.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

PIECE_BYTES = 2**27
"""Size of a piece, unless a single row is larger."""

WHOLE_BYTES = 2**30
"""Arrays up to this size are one piece."""

Shape = tuple[int, ...]
Index = tuple[slice, ...]


def row_ranges(shape: Shape, dtype: np.dtype) -> Iterator[tuple[int, int]]:
    """First row and end of each piece of an array; a scalar counts as one row."""
    rows, row_bytes = (shape[0] if shape else 1), math.prod(shape[1:]) * dtype.itemsize
    small = rows * row_bytes <= WHOLE_BYTES
    step = max(1, rows if small else PIECE_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def with_rows_together(sharding: Sharding) -> Sharding:
    """The sharding of a piece of an array of several pieces."""
    if isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0] is not None:
        return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))
    return sharding


class Assembly:
    """An array on its way to the devices, of which pieces arrive one after the other."""

    def __init__(self, shape: Shape, sharding: Sharding):
        """Takes shape and sharding of the finished array."""
        self._shape, self._sharding = shape, sharding
        self._rows, self._array = 0, None

    def add(self, piece: jax.Array) -> None:
        """Writes the next piece, placed by `with_rows_together` or the only one, into its place."""
        if piece.shape == self._shape:
            self._array = piece
            return
        if self._array is None:
            self._array = jnp.zeros(self._shape, piece.dtype, device=piece.sharding)
        self._array = _write(self._array, piece, self._rows)
        self._rows += piece.shape[0]

    def finish(self) -> jax.Array:
        """The array, when all pieces are there."""
        assert self._array is not None
        if self._array.sharding == self._sharding:
            return self._array
        return jax.device_put(self._array, self._sharding)


# Donation is what makes the array stay where it is; it only works inside jit.
@functools.partial(jax.jit, donate_argnums=0)
def _write(whole: jax.Array, piece: jax.Array, row: int | jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, piece, row, axis=0)


def read_to_devices(
    read: Callable[[Index | None], np.ndarray],
    shape: Shape,
    dtype: np.dtype,
    sharding: Sharding | None = None,
) -> jax.Array:
    """Brings an array to the devices piece by piece, each device reading its own part.

    Args:
      read: returns the part of the array that one slice per axis selects.
      shape: of the array.
      dtype: of what `read` returns.
      sharding: where the array is to lie; default: on this process's first device. What is cut by
        rows is brought in one piece.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    ranges = list(row_ranges(shape, dtype))
    if len(ranges) == 1 or with_rows_together(sharding) != sharding:
        return jax.make_array_from_callback(shape, sharding, read)
    array = Assembly(shape, sharding)
    for start, stop in ranges:
        piece = jax.make_array_from_callback(
            (stop - start, *shape[1:]),
            sharding,
            lambda index, rows=slice(start, stop): read((rows, *(index or ())[1:])),
        )
        array.add(piece.block_until_ready())  # or pieces would queue up on the host
    return array.finish()
