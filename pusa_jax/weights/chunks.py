"""Leaves on disk in blocks, so that a host reads only what its devices keep.

Storage is read in whole chunks. A leaf is therefore stored with the axis that meshes cut split into
blocks and these in front, each a chunk of its own: a device that keeps a quarter of the axis reads
a quarter of the blocks.

    [layers, in, out], blocks along `in`  ->  [blocks, layers, in / blocks, out]
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from pusa_jax.devices.sharding import fit

MOST = 64
"""Blocks of an axis that this divides; a 14B kernel then has blocks of 1 to 3 MB in bfloat16."""

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How the pieces of one leaf are stored.

    Attributes:
      axis: of the leaf, the one that is split.
      count: how many blocks it is split into.
    """

    axis: int
    count: int

    def shape(self, shape: Shape) -> Shape:
        """Shape in which a piece of this shape is stored."""
        before, n, after = shape[: self.axis], shape[self.axis], shape[self.axis + 1 :]
        return (self.count, *before, n // self.count, *after)

    def sharding(self, sharding: Sharding, ndim: int) -> Sharding:
        """How a stored piece is cut whose `ndim` axes are to be cut so in the end.

        An axis that is cut into parts of broken blocks is read by fewer devices and cut later.
        """
        if not isinstance(sharding, NamedSharding):
            return sharding
        spec = [*sharding.spec, *[None] * (ndim - len(sharding.spec))]
        cut, spec[self.axis] = spec[self.axis], None
        first = fit((self.count,), (cut,), sharding.mesh.shape)
        return NamedSharding(sharding.mesh, PartitionSpec(*(first or (None,)), *spec))

    def split(self, piece: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        """A piece as it is stored; of a NumPy array a view."""
        if isinstance(piece, np.ndarray):
            return _split(piece, self, np)
        where = self.sharding(piece.sharding, piece.ndim)
        return jax.jit(_split, static_argnums=(1, 2), out_shardings=where)(piece, self, jnp)

    def join(self, stored: jax.Array, sharding: Sharding) -> jax.Array:
        """The inverse of `split`, cut as asked."""
        return jax.jit(_join, static_argnums=(1, 2), out_shardings=sharding)(stored, self, jnp)

    def join_on_host(self, stored: np.ndarray) -> np.ndarray:
        """The inverse of `split` for NumPy arrays."""
        return _join(stored, self, np)


def blocks_along(axis: int | None, shape: Shape) -> Blocks | None:
    """Blocks along an axis of a leaf; None where there is no axis to split."""
    count = 1 if axis is None else math.gcd(shape[axis], MOST)
    return None if axis is None or count == 1 else Blocks(axis, count)


def _split(piece, blocks: Blocks, xp):
    axis, count, shape = blocks.axis, blocks.count, piece.shape
    parts = piece.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    return xp.moveaxis(parts, axis, 0)


def _join(stored, blocks: Blocks, xp):
    parts, axis = xp.moveaxis(stored, 0, blocks.axis), blocks.axis
    return parts.reshape(*parts.shape[:axis], -1, *parts.shape[axis + 2 :])
