"""Checksums of arrays wherever they lie, by which a restored state is known to be the saved one.

The bits of an array are numbers below 2**32. Those of each entry of its first axis are added up; of
these rows the sum and the sum weighted by 1, 3, 5, ... are kept, all modulo 2**32. So an array
sums the same on every mesh, adding is one pass over it where it lies, and a change of one number
changes both sums in any case.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
"""Bytes of a value -> numbers that its bits are read as."""


def of_tree(tree: Any) -> dict[str, str]:
    """Path -> type, shape and sums of every array of a tree, as in "float32[2,3] 0123456789abcdef".

    Of several processes, all call this together.
    """
    leaves = {path: _plain(leaf) for path, leaf in by_path(tree).items()}
    far: dict[str, Any] = {p: leaf for p, leaf in leaves.items() if not _is_on_host(leaf)}
    found = {path: _on_host(np.asarray(x)) for path, x in leaves.items() if path not in far}
    if far:
        where = next(iter(far.values())).sharding
        mesh = where.mesh if isinstance(where, NamedSharding) else None
        found |= jax.tree.map(np.asarray, _program(mesh)(far))
    described = descriptions(tree)
    return {path: f"{described[path]} {_text(found[path])}" for path in leaves}


def of_array(array: np.ndarray) -> str:
    """As `of_tree`, of one array on the host."""
    return f"{_description(array)} {_text(_on_host(array))}"


def descriptions(tree: Any) -> dict[str, str]:
    """Path -> type and shape of the arrays, or the shapes, in a tree."""
    return {path: _description(leaf) for path, leaf in by_path(tree).items()}


def by_path(tree: Any) -> dict[str, Any]:
    """Path -> array, or shape of one, of a tree, with `/` between names."""
    return {
        jax.tree_util.keystr(at, simple=True, separator="/"): (
            leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else np.asarray(leaf)
        )
        for at, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def differing(saved: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Paths whose entries are not the same, or that only one of both has."""
    return sorted(
        path for path in saved.keys() | found.keys() if saved.get(path) != found.get(path)
    )


def _description(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _plain(leaf: Any) -> jax.Array | np.ndarray:
    """An array of numbers: of random keys, their bits."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _is_on_host(leaf: jax.Array | np.ndarray) -> bool:
    if isinstance(leaf, np.ndarray):
        return True
    return leaf.is_fully_addressable and all(d.platform == "cpu" for d in leaf.devices())


def _text(sums: np.ndarray) -> str:
    return "".join(f"{int(number):08x}" for number in sums)


def _on_host(array: np.ndarray) -> np.ndarray:
    """The two sums, uint32 [2]."""
    bits = np.ascontiguousarray(array).reshape(-1).view(_BITS[array.dtype.itemsize])
    rows = array.shape[0] if array.ndim else 1
    sums = np.add.reduce(bits.reshape(rows, -1 if bits.size else 0), axis=1, dtype=np.uint32)
    weights = np.arange(1, 2 * rows, 2, dtype=np.uint32)
    return np.array([sums.sum(dtype=np.uint32), (sums * weights).sum(dtype=np.uint32)])


def _on_devices(array: jax.Array) -> jax.Array:
    """As `_on_host`; to be compiled."""
    rows = array.shape[0] if array.ndim else 1
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, _BITS[array.dtype.itemsize]).astype(jnp.uint32)
    bits = bits.reshape(1) if bits.ndim == 0 else bits
    axes = tuple(range(1 if array.ndim else 0, bits.ndim))
    sums = bits.sum(axes, dtype=jnp.uint32).reshape(rows)
    weights = jnp.arange(1, 2 * rows, 2, dtype=jnp.uint32)
    return jnp.stack([sums.sum(dtype=jnp.uint32), (sums * weights).sum(dtype=jnp.uint32)])


@functools.cache
def _program(mesh: jax.sharding.Mesh | None) -> Any:
    """The compiled `_on_devices` of all arrays at once, whose results every process gets."""

    def sums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {path: _on_devices(array) for path, array in arrays.items()}

    if mesh is None:
        return jax.jit(sums)
    return jax.jit(sums, out_shardings=NamedSharding(mesh, PartitionSpec()))
