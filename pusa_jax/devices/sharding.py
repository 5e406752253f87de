"""One device mesh, rule tables that lay arrays out on it, and `constrain` for activations.

The mesh has three axes, each of size 1 unless asked for:

  data     samples: clips of a training batch, or the two passes of guidance
  context  the tokens of a frame; attention exchanges what it needs (models/attention.py)
  tensor   heads and feed-forward channels

Parameters are cut over `data` and `context` together (`FSDP`), whatever these axes do for
activations, and gathered layer by layer where they are used; an axis of their own would be `data`
under another name. A rule table is data: rows (regular expression on the leaf's path,
PartitionSpec), first match wins. The same table serves parameters, adapters, averages and optimizer
state, because their paths end with the parameter's path.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from pusa_jax.listing import listed

AXES = ("data", "context", "tensor")
FSDP = ("data", "context")
"""Axes that parameters are cut over."""

Rules = Sequence[tuple[str, PartitionSpec]]
"""Rows of (regular expression searched in a leaf's path, how the leaf is cut)."""

Entry = str | tuple[str, ...] | None
"""Mesh axes that one dimension is cut over."""

SMALL = 2**22
"""Elements up to which a leaf may stay whole on every device where its rule does not fit it."""


def parse_mesh(text: str) -> dict[str, int]:
    """Reads "data=2,context=4".

    Raises:
      ValueError: not of that form, or an axis is unknown or named twice.
    """
    shape: dict[str, int] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        axis, _, size = part.partition("=")
        if not size.isdecimal():
            raise ValueError(f"a mesh is written like data=2,context=4, got {text!r}.")
        if axis in shape:
            raise ValueError(f"mesh axis {axis!r} is given twice in {text!r}.")
        shape[axis] = int(size)
    check_axes(shape)
    return shape


def check_axes(shape: Mapping[str, int]) -> None:
    """Raises ValueError for an axis that is not in `AXES` or a size below 1."""
    for axis, size in shape.items():
        if axis not in AXES:
            raise ValueError(f"unknown mesh axis {axis!r}; the axes are {', '.join(AXES)}.")
        if size < 1:
            raise ValueError(f"mesh axis {axis} must be at least 1, got {size}.")


def make_mesh(
    shape: Mapping[str, int], devices: Sequence[jax.Device] | np.ndarray | None = None
) -> Mesh:
    """Lays devices out on the axes `AXES`; enter it with `jax.set_mesh`.

    Args:
      shape: axis -> size; axes left out have size 1.
      devices: all of those jax sees, if not given. May belong to a topology that is not there.

    Raises:
      ValueError: unknown axis, or sizes whose product is not the number of devices.
    """
    check_axes(shape)
    sizes = tuple(shape.get(axis, 1) for axis in AXES)
    devices = np.asarray(jax.devices() if devices is None else devices).flatten()
    if math.prod(sizes) != devices.size:
        raise ValueError(
            f"mesh {describe(sizes)} needs {math.prod(sizes)} devices, there are {devices.size}; "
            f"use {describe(_nearest(sizes, devices.size))}."
        )
    # An axis may take a part of a side of the chips' grid: 8 of a 4x4 is 4x2.
    laid = mesh_utils.create_device_mesh(sizes, devices.tolist(), allow_split_physical_axes=True)
    return Mesh(laid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def describe(sizes: Sequence[int]) -> str:
    """(2, 4, 1) -> "data=2,context=4"."""
    parts = [f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True) if size > 1]
    return ",".join(parts) or "data=1"


def _nearest(sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Sizes with the right product: one axis changed if that can be, else all of it context."""
    for place in (1, 0, 2):
        others = math.prod(sizes) // sizes[place]
        if count % others == 0:
            return (*sizes[:place], count // others, *sizes[place + 1 :])
    return (1, count, 1)


def shardings(tree: Any, rules: Rules, mesh: Mesh | AbstractMesh) -> Any:
    """Where each leaf of a tree lies.

    A rule names the axes each dimension is cut over. Where these do not divide a dimension, the
    largest part of them that does is used, and the rest goes to the next dimension that the rule
    cuts and the rest divides.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s in any containers: module, `nnx.State`, optimizer
        state, dictionary of leaves by path.
      rules: first match wins.
      mesh: from `make_mesh`; an abstract one serves to look at the layout.

    Returns:
      the same tree with a NamedSharding for every leaf.

    Raises:
      ValueError: leaves without a rule (which are listed), or a leaf of more than `SMALL`
        elements that no axis of its rule divides.
    """
    unmatched = [path for path, _ in leaf_paths(tree) if _row(path, rules) is None]
    if unmatched:
        raise ValueError(f"no sharding rule for {len(unmatched)} leaves: {listed(unmatched)}.")

    def place(key_path, leaf):
        path = _path(key_path)
        row = _row(path, rules)
        assert row is not None
        return NamedSharding(mesh, _fit_leaf(path, leaf.shape, rules[row][1], mesh.shape))

    return jax.tree.map_with_path(place, tree)


def without_fsdp(rules: Rules) -> Rules:
    """The rules without `FSDP`: arrays are whole on devices that differ in data or context only."""
    return [(row, PartitionSpec(*(e if e != FSDP else None for e in spec))) for row, spec in rules]


def unused_rules(tree: Any, rules: Rules) -> list[str]:
    """Patterns that match no leaf first: a table with any has a row that does nothing."""
    used = {_row(path, rules) for path, _ in leaf_paths(tree)}
    return [pattern for i, (pattern, _) in enumerate(rules) if i not in used]


def cut_axis(path: str, rules: Rules) -> int | None:
    """Which axis of a leaf its rule cuts over `FSDP`, on meshes where that axis divides."""
    row = _row(path, rules)
    spec = () if row is None else rules[row][1]
    return next((i for i, entry in enumerate(spec) if set(FSDP) <= set(_axes(entry))), None)


def leaf_paths(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, paths as the rules see them: `blocks/self_attn/q/kernel`."""
    return [(_path(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _path(key_path) -> str:
    """Slash path of a leaf; Flax ends the path of a variable's array with `value`."""
    path = jax.tree_util.keystr(key_path, simple=True, separator="/")
    return path.removesuffix("/value")


def _row(path: str, rules: Rules) -> int | None:
    return next((i for i, (row, _) in enumerate(rules) if re.search(row, path)), None)


def _fit_leaf(path, shape, spec, sizes) -> PartitionSpec:
    spec = [_axes(entry) for entry in spec]
    parts = [_largest_part(n, axes, sizes) for n, axes in zip(shape, spec, strict=False)]
    wanted = [axis for axes in spec for axis in axes if sizes[axis] > 1]
    for axis in wanted:
        if not any(axis in part for part in parts):
            for i, part in enumerate(parts):
                whole = math.prod(sizes[a] for a in part) * sizes[axis]
                if spec[i] and shape[i] % whole == 0:
                    parts[i] = (*part, axis)
                    break
    if math.prod(shape) > SMALL and wanted and not any(parts):
        lengths = " and ".join(str(n) for n, axes in zip(shape, spec, strict=False) if axes)
        raise ValueError(
            f"{path} {tuple(shape)} cannot be cut over "
            f"{', '.join(f'{axis}={sizes[axis]}' for axis in wanted)}: choose mesh sizes that "
            f"divide {lengths}."
        )
    return _spec(parts)


def fit(shape: Sequence[int], axes: Sequence[Entry], sizes: Mapping[str, int]) -> PartitionSpec:
    """PartitionSpec that gives each dimension the largest part of its axes that divides it."""
    return _spec([_largest_part(n, _axes(e), sizes) for n, e in zip(shape, axes, strict=False)])


def _axes(entry: Entry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _spec(parts: Sequence[tuple[str, ...]]) -> PartitionSpec:
    entries = [part if len(part) > 1 else part[0] if part else None for part in parts]
    while entries and entries[-1] is None:  # as jit writes them
        entries.pop()
    return PartitionSpec(*entries)


def _largest_part(n: int, axes: tuple[str, ...], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Those of the axes, in their order, that divide n together and have the largest product."""
    axes = tuple(axis for axis in axes if sizes.get(axis, 1) > 1)
    parts = (p for count in range(len(axes) + 1) for p in itertools.combinations(axes, count))
    product = {part: math.prod(sizes[axis] for axis in part) for part in parts}
    return max((p for p in product if n % product[p] == 0), key=product.__getitem__)


def constrain(x: Array, *axes: Entry) -> Array:
    """Cuts an activation over mesh axes, one entry per dimension; does nothing without a mesh.

    Axes that do not divide their dimension are left out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, fit(x.shape, axes, mesh.shape))


def constrain_leaves(tree: Any, rules: Rules) -> Any:
    """Cuts the leaves of a tree as `shardings` lays them out; does nothing without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings(tree, rules, mesh))
