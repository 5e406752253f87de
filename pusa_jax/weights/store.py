"""Saves and loads flat trees of leaves (`blocks/self_attn/q/kernel` -> array) with Orbax.

A tree is a folder of numbered parts, each an Orbax checkpoint of some leaves, beside `tree.json`,
which says what lies where (`contents`). Parts make saving and loading a stream: large leaves are
cut into pieces (`streaming`), only those of one part are in memory at a time, and they are written
from where they are, without a copy. Pieces are stored in blocks (`chunks`), so that each process
reads only what its devices keep. All processes of a group save and load together.
"""

import dataclasses
import functools
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
from pusa_jax.files import sums
from pusa_jax.listing import listed
from pusa_jax.weights.chunks import Blocks, blocks_along
from pusa_jax.weights.contents import FORMAT, Summing, files_in, read_contents
from pusa_jax.weights.finite import nonfinite, odd_leaves
from pusa_jax.weights.streaming import Assembly, row_ranges, with_rows_together

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
    summing = Summing(work)
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
                summing.add(str(number))
                number += 1
            part[path] = _piece(leaf, start, stop, blocks)
            places.append([number, stop - start])
        described[path] = {"shape": leaf.shape, "dtype": leaf.dtype.name, "parts": places}
        described[path]["blocks"] = blocks and dataclasses.astuple(blocks)
        del leaf  # or it would stay in memory while the next one is made
    if part:
        _save_part(work / str(number), part, in_blocks)
        summing.add(str(number))
    if processes.is_first():
        text = {"format": FORMAT, "leaves": described, "files": files_in(work)}
        text |= {"info": dict(info or {}), "sums": summing.finished()}
        (work / "tree.json").write_text(json.dumps(sums.signed(text), indent=1), "utf-8")
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


class SavedTree:
    """A tree in a folder, whose table of contents is read once, when it is opened."""

    def __init__(self, folder: Path):
        """Reads `tree.json`.

        Raises:
          FileNotFoundError: nothing is saved there.
          ValueError: another version wrote it, or it is damaged.
        """
        self.folder = folder
        text = read_contents(folder)
        self._files: Mapping[str, int] = text["files"]
        self._sums: Mapping[str, str] = text.get("sums", {})
        self._leaves: Mapping[str, Any] = text["leaves"]
        self.info: Mapping[str, Any] = text["info"]

    @functools.cached_property
    def shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Path -> shape and dtype of the leaves."""
        return {
            path: jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
            for path, leaf in self._leaves.items()
        }

    @functools.cached_property
    def _lost(self) -> list[tuple[str, int]]:
        """Files that are missing or have another size."""
        return sorted(self._files.items() - files_in(self.folder).items())

    @functools.cached_property
    def damage(self) -> str:
        """What is wrong with the files, every byte of which is read; empty if they are whole."""
        return self._damage(sorted(self._sums))

    def _damage(self, names: list[str]) -> str:
        if self._lost:
            return (
                f"{len(self._lost)} files are missing or have another size, first "
                f"{self._lost[0][0]}"
            )
        changed = sums.damaged(self.folder, {name: self._sums[name] for name in names})
        return f"{len(changed)} files have changed, first {changed[0]}" if changed else ""

    def check_sums(self, number: int) -> None:
        """Makes sure that no byte of a part has changed; of several processes, each reads a share.

        Raises:
          ValueError: files are damaged; the message says which.
        """
        names = sorted(name for name in self._sums if name.startswith(f"{number}/"))
        damage = self._damage(names[jax.process_index() :: jax.process_count()])
        if processes.largest(bool(damage)):
            damage = damage or "another process has found changed files"
            raise ValueError(f"{self.folder} is damaged: {damage}; convert it again.")

    def check(self, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        """Makes sure that the tree is whole and has the leaves of a model, reading none of them.

        Args:
          abstract: path -> shape of every leaf.

        Raises:
          ValueError: files are missing or cut short, or leaves are missing, extra or misshaped; the
            message has them all.
        """
        if self._lost:
            raise ValueError(
                f"{self.folder} is damaged: {len(self._lost)} files are missing or have another "
                f"size, first {self._lost[0][0]}; convert it again."
            )
        odd = sorted(
            path
            for path in abstract.keys() | self.shapes.keys()
            if _shape(abstract, path) != _shape(self.shapes, path)
        )
        if odd:
            raise ValueError(
                f"{self.folder}: {len(odd)} leaves do not fit the model: "
                + listed(
                    [f"{p} is {_shape(self.shapes, p)}, wanted {_shape(abstract, p)}" for p in odd],
                    between="; ",
                )
                + "."
            )

    def load(
        self, abstract: Mapping[str, jax.ShapeDtypeStruct] | None = None
    ) -> dict[str, jax.Array]:
        """Reads the tree, part by part.

        Args:
          abstract: path -> shape, dtype to convert to and, if set, sharding to place on; every leaf
            must be named. Default: as stored, on the default device.

        Raises:
          ValueError: see `check`; or bytes have changed since the tree was saved, or values are NaN
            or infinite.
        """
        wanted = self.shapes if abstract is None else abstract
        self.check(wanted)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        parts: dict[int, dict[str, _Piece]] = {}
        for path, leaf in self._leaves.items():
            sharding = wanted[path].sharding or here
            if len(leaf["parts"]) > 1:
                sharding = with_rows_together(sharding)
            for number, rows in leaf["parts"]:
                shape = (rows, *leaf["shape"][1:]) if leaf["shape"] else ()
                piece = _Piece(shape, wanted[path].dtype, sharding, self._blocks(path))
                parts.setdefault(number, {})[path] = piece
        arrays = {p: Assembly(tuple(w.shape), w.sharding or here) for p, w in wanted.items()}
        with _checkpointer() as checkpointer:
            for number, pieces in parts.items():
                self.check_sums(number)  # what it reads need not be fetched again for the next line
                arguments = {path: piece.restore_args() for path, piece in pieces.items()}
                item = {
                    path: jax.ShapeDtypeStruct(a.global_shape, a.dtype, sharding=a.sharding)
                    for path, a in arguments.items()
                }
                read = checkpointer.restore(
                    self._part(number),
                    args=ocp.args.PyTreeRestore(item=item, restore_args=arguments),
                )
                if processes.largest(bool(odd := odd_leaves(read))):
                    raise self._odd(odd)
                for path, array in read.items():
                    arrays[path].add(pieces[path].finished(array))
        return {path: array.finish() for path, array in arrays.items()}

    def _odd(self, paths: list[str]) -> ValueError:
        return ValueError(
            f"{self.folder}: values of {listed(paths or ['a leaf'], 3)} are NaN or infinite; fetch "
            "the published files again and convert them again."
        )

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        """Reads one leaf to the host in the pieces it was saved in: rows of it, in order.

        Raises:
          ValueError: there is no such leaf, or the tree is damaged or not finite.
        """
        if path not in self._leaves:
            names = ", ".join(self._leaves)
            raise ValueError(f"{self.folder} has no leaf {path}; it has {names:.200}.")
        if self.damage:
            raise ValueError(f"{self.folder} is damaged: {self.damage}; convert it again.")
        blocks = self._blocks(path)
        with _checkpointer() as checkpointer:
            for number, _ in self._leaves[path]["parts"]:
                part = self._part(number)
                args = ocp.args.PyTreeRestore(
                    item={path: checkpointer.metadata(part).item_metadata[path]},
                    restore_args={path: ocp.RestoreArgs(restore_type=np.ndarray)},
                    partial_restore=True,
                )
                piece = np.asarray(checkpointer.restore(part, args=args)[path])
                if nonfinite(piece):
                    raise self._odd([path])
                yield blocks.join_on_host(piece) if blocks else piece

    def _part(self, number: int) -> Path:
        return (self.folder / str(number)).absolute()

    def _blocks(self, path: str) -> Blocks | None:
        stored = self._leaves[path]["blocks"]
        return stored and Blocks(*stored)


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


def _shape(leaves: Mapping[str, jax.ShapeDtypeStruct], path: str) -> tuple[int, ...] | str:
    return tuple(leaves[path].shape) if path in leaves else "missing"
