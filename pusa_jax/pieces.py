"""Large arrays in pieces, so that the host never holds more than a piece of what devices hold.

A piece is some rows: entries along the first axis, which for the weights of a stack of layers are
whole layers. Each piece is cut over the devices like the array, except that its rows stay together;
when all are there, every device joins its own parts.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

PIECE_BYTES = 2**27
"""Size of a piece, unless a single row is larger."""

Shape = tuple[int, ...]
Index = tuple[slice, ...]


def row_ranges(shape: Shape, dtype: np.dtype, piece_bytes: int) -> Iterator[tuple[int, int]]:
    """First row and end of each piece of an array; a scalar counts as one row."""
    rows = shape[0] if shape else 1
    step = max(1, piece_bytes // max(1, math.prod(shape[1:]) * dtype.itemsize))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def with_rows_together(sharding: Sharding) -> Sharding:
    """The sharding of a piece of an array."""
    if isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0] is not None:
        return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))
    return sharding


def join(pieces: Sequence[jax.Array], sharding: Sharding) -> jax.Array:
    """Puts pieces, in order and placed by `with_rows_together`, together to one array."""
    first, *more = pieces
    if more:
        of_each_device = zip(*(piece.addressable_shards for piece in pieces), strict=True)
        parts = [jnp.concatenate([shard.data for shard in shards]) for shards in of_each_device]
        shape = (sum(piece.shape[0] for piece in pieces), *first.shape[1:])
        first = jax.make_array_from_single_device_arrays(shape, first.sharding, parts)
    return first if first.sharding == sharding else jax.device_put(first, sharding)


def place(
    read: Callable[[Index], np.ndarray],
    shape: Shape,
    dtype: np.dtype,
    sharding: Sharding | None = None,
) -> jax.Array:
    """Brings an array to the devices piece by piece, each device reading its own part.

    Args:
      read: returns the part of the array that one slice per axis selects.
      shape: of the array.
      dtype: of what `read` returns.
      sharding: where the array is to lie; default: on this process's first device.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    together = with_rows_together(sharding)

    def piece(start: int, stop: int) -> jax.Array:
        def read_part(index: Index) -> np.ndarray:
            rows = [slice(start, stop)] if shape else []
            return read((*rows, *index[1:]))

        rows = (stop - start,) if shape else ()
        made = jax.make_array_from_callback((*rows, *shape[1:]), together, read_part)
        return made.block_until_ready()  # or pieces would queue up on the host

    return join([piece(*rows) for rows in row_ranges(shape, dtype, PIECE_BYTES)], sharding)
