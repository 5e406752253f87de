"""Saves and loads flat trees of leaves (`blocks/self_attn/q/kernel` -> array) with Orbax.

A tree is a folder of numbered parts, each an Orbax checkpoint of some leaves, beside `tree.json`,
which says what lies where. Parts make saving and loading a stream: large leaves are cut into pieces
(`pieces`), only those of one part are in memory at a time, and they are written from where they
are, without a copy. Pieces are stored in blocks (`blocks`), so that each process reads only what
its devices keep. All processes of a group save and load together.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from pusa_jax.devices import processes
from pusa_jax.weights.chunks import Blocks, blocks_along
from pusa_jax.weights.streaming import Assembly, row_ranges, with_rows_together

FORMAT = 3
"""Version of `tree.json`."""

PART_BYTES = 2**27
"""A part is closed once it has this many bytes."""


@runtime_checkable
class Leaf(Protocol):
    """A JAX or NumPy array, or what can make rows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Dtype of what indexing returns."""
        ...

    def __getitem__(self, rows: Any, /) -> jax.Array | np.ndarray:
        """The rows that a slice selects, or everything for `...`."""
        ...


def _checkpointer() -> ocp.Checkpointer:
    handlers = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    # Uncompressed: random weights shrink by a tenth and take ten times as long.
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(
            use_zarr3=True, use_compression=False, type_handler_registry=handlers
        )
    )


def save_tree(
    folder: Path,
    leaves: Iterable[tuple[str, Leaf]],
    info: Mapping[str, Any] | None = None,
    cut_axis: Callable[[str], int | None] = lambda path: None,
) -> None:
    """Writes a tree to `folder`.tmp and renames it once it is complete.

    Args:
      folder: must not exist yet.
      leaves: (path, array), taken one after the other; NumPy arrays must not change meanwhile. Of
        several processes, each gives the same, and arrays on devices lie on those of all.
      info: what else is to be kept, as plain values.
      cut_axis: path -> axis that meshes cut, along which a leaf is stored in blocks.

    Raises:
      FileExistsError: the folder is there already.
      ValueError: a path comes twice.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or choose another folder.")
    work = folder.with_name(folder.name + ".tmp")
    if processes.is_first():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    processes.wait_for_all(f"{folder} begins")
    described: dict[str, dict[str, Any]] = {}
    part: dict[str, jax.Array | np.ndarray] = {}
    in_blocks: set[str] = set()
    number = 0
    for path, leaf in leaves:
        if path in described:
            raise ValueError(f"leaf {path} comes twice.")
        places, ranges, axis = [], _row_ranges(leaf), cut_axis(path)
        by_rows = axis == 0 and len(ranges) > 1  # pieces of it are blocks already
        blocks = None if by_rows else blocks_along(axis, leaf.shape)
        if blocks:
            in_blocks.add(path)
        for start, stop in ranges:
            if path in part or sum(piece.nbytes for piece in part.values()) >= PART_BYTES:
                _save_part(work / str(number), part, in_blocks)
                number += 1
            part[path] = _piece(leaf, start, stop, blocks)
            places.append([number, stop - start])
        described[path] = {"shape": leaf.shape, "dtype": leaf.dtype.name, "parts": places}
        described[path]["blocks"] = blocks and dataclasses.astuple(blocks)
        del leaf  # or it would stay in memory while the next one is made
    if part:
        _save_part(work / str(number), part, in_blocks)
    if processes.is_first():
        text = {"format": FORMAT, "leaves": described, "files": _files(work)}
        text["info"] = dict(info or {})
        (work / "tree.json").write_text(json.dumps(text, indent=1), "utf-8")
        os.replace(work, folder)
    processes.wait_for_all(f"{folder} is complete")


def _row_ranges(leaf: Leaf) -> list[tuple[int, int]]:
    """Rows of each piece; what is cut over devices by rows is saved whole, as it lies."""
    if isinstance(leaf, jax.Array) and with_rows_together(leaf.sharding) != leaf.sharding:
        return [(0, leaf.shape[0])]
    return list(row_ranges(leaf.shape, np.dtype(leaf.dtype)))


def _piece(leaf: Leaf, start: int, stop: int, blocks: Blocks | None) -> jax.Array | np.ndarray:
    is_whole = leaf.shape == () or (start, stop) == (0, leaf.shape[0])
    piece = leaf[...] if is_whole else leaf[start:stop]
    return blocks.split(piece) if blocks else piece


def _save_part(
    folder: Path, part: dict[str, jax.Array | np.ndarray], in_blocks: Collection[str]
) -> None:
    """Writes the pieces of a part, each block as a chunk of its own, and lets go of them."""
    chunks = {path: ocp.SaveArgs(shard_axes=(0,) if path in in_blocks else ()) for path in part}
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(part, chunks))
    part.clear()


def _files(folder: Path) -> dict[str, int]:
    """Relative path -> size of every file, to notice later that one is missing or cut short."""
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "tree.json"
    }


def _describe(folder: Path) -> dict[str, Any]:
    try:
        text = json.loads((folder / "tree.json").read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no saved tree (no tree.json).") from None
    except ValueError as error:
        raise ValueError(f"{folder / 'tree.json'} is damaged ({error!r:.100}).") from None
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{folder} was written by another version of pusa_jax; convert it again.")
    return text


def tree_shapes(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape and dtype of the leaves saved in a folder.

    Raises:
      FileNotFoundError: nothing is saved there.
      ValueError: another version wrote it, or it is damaged.
    """
    leaves = _describe(folder)["leaves"].items()
    return {p: jax.ShapeDtypeStruct(tuple(d["shape"]), jnp.dtype(d["dtype"])) for p, d in leaves}


def tree_info(folder: Path) -> dict[str, Any]:
    """The plain values saved beside the leaves; raises as `tree_shapes`."""
    return _describe(folder)["info"]


def check_tree(folder: Path, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Makes sure that a saved tree is whole and has the leaves of a model, reading none of them.

    Args:
      folder: where `save_tree` put it.
      abstract: path -> shape of every leaf.

    Raises:
      FileNotFoundError: nothing is saved there.
      ValueError: files are missing or cut short, another version wrote them, or leaves are missing,
        extra or misshaped; the message has them all.
    """
    if lost := sorted(_describe(folder)["files"].items() - _files(folder).items()):
        raise ValueError(
            f"{folder} is damaged: {len(lost)} files are missing or have another size, first "
            f"{lost[0][0]}; convert it again."
        )
    stored = tree_shapes(folder)
    odd = sorted(
        p for p in abstract.keys() | stored.keys() if _shape(abstract, p) != _shape(stored, p)
    )
    if odd:
        raise ValueError(
            f"{folder}: {len(odd)} leaves do not fit the model: "
            + "; ".join(f"{p} is {_shape(stored, p)}, wanted {_shape(abstract, p)}" for p in odd)
            + "."
        )


def load_tree(
    folder: Path, abstract: Mapping[str, jax.ShapeDtypeStruct] | None = None
) -> dict[str, jax.Array]:
    """Reads a tree, part by part.

    Args:
      folder: where `save_tree` put it.
      abstract: path -> shape, dtype to convert to and, if set, sharding to place on; every leaf
        must be named. Default: as stored, on the default device.

    Raises:
      FileNotFoundError: nothing is saved there.
      ValueError: see `check_tree`.
    """
    text = _describe(folder)
    wanted = tree_shapes(folder) if abstract is None else abstract
    check_tree(folder, wanted)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    stored_as = {
        p: leaf["blocks"] and Blocks(*leaf["blocks"]) for p, leaf in text["leaves"].items()
    }
    parts: dict[int, dict[str, _Piece]] = {}
    for path, leaf in text["leaves"].items():
        sharding = wanted[path].sharding or here
        if len(leaf["parts"]) > 1:
            sharding = with_rows_together(sharding)
        for number, rows in leaf["parts"]:
            shape = (rows, *leaf["shape"][1:]) if leaf["shape"] else ()
            piece = _Piece(shape, wanted[path].dtype, sharding, stored_as[path])
            parts.setdefault(number, {})[path] = piece
    arrays = {p: Assembly(tuple(w.shape), w.sharding or here) for p, w in wanted.items()}
    with _checkpointer() as checkpointer:
        for number, pieces in parts.items():
            arguments = {path: piece.restore_args() for path, piece in pieces.items()}
            item = {
                path: jax.ShapeDtypeStruct(a.global_shape, a.dtype, sharding=a.sharding)
                for path, a in arguments.items()
            }
            read = checkpointer.restore(
                (folder / str(number)).absolute(),
                args=ocp.args.PyTreeRestore(item=item, restore_args=arguments),
            )
            for path, array in read.items():
                arrays[path].add(pieces[path].finished(array))
    return {path: array.finish() for path, array in arrays.items()}


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A piece of a leaf that is about to be read: what it is to become, and how it is stored."""

    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: jax.sharding.Sharding
    blocks: Blocks | None

    def restore_args(self) -> ocp.ArrayRestoreArgs:
        shape, sharding = self.shape, self.sharding
        if self.blocks:
            sharding = self.blocks.sharding(sharding, len(shape))
            shape = self.blocks.shape(shape)
        return ocp.ArrayRestoreArgs(dtype=self.dtype, sharding=sharding, global_shape=shape)

    def finished(self, stored: jax.Array) -> jax.Array:
        return self.blocks.join(stored, self.sharding) if self.blocks else stored


def read_pieces(folder: Path, path: str) -> Iterator[np.ndarray]:
    """Reads one leaf to the host in the pieces it was saved in: rows of it, in order.

    Raises:
      FileNotFoundError: nothing is saved there.
      ValueError: another version wrote it, it is damaged, or has no such leaf.
    """
    leaves = _describe(folder)["leaves"]
    if path not in leaves:
        raise ValueError(f"{folder} has no leaf {path}; it has {', '.join(leaves):.200}.")
    blocks = leaves[path]["blocks"] and Blocks(*leaves[path]["blocks"])
    with _checkpointer() as checkpointer:
        for number, _ in leaves[path]["parts"]:
            part = (folder / str(number)).absolute()
            args = ocp.args.PyTreeRestore(
                item={path: checkpointer.metadata(part).item_metadata[path]},
                restore_args={path: ocp.RestoreArgs(restore_type=np.ndarray)},
                partial_restore=True,
            )
            piece = np.asarray(checkpointer.restore(part, args=args)[path])
            yield blocks.join_on_host(piece) if blocks else piece


def _shape(leaves: Mapping[str, jax.ShapeDtypeStruct], path: str) -> tuple[int, ...] | str:
    return tuple(leaves[path].shape) if path in leaves else "missing"
