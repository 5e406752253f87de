"""Saves and loads flat trees of leaves (`blocks/self_attn/q/kernel` -> array) with Orbax.

A tree is a folder of numbered parts, each an Orbax checkpoint of some leaves, beside `tree.json`,
which says what lies where. Parts make saving a stream: only the leaves of one part are in memory at
a time, and they are written from where they are, without a copy.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

FORMAT = 1
"""Version of `tree.json`."""

PART_BYTES = 2**27
"""A part is closed once it has this many bytes."""

Leaf = jax.Array | np.ndarray


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
    folder: Path, leaves: Iterable[tuple[str, Leaf]], info: Mapping[str, Any] | None = None
) -> None:
    """Writes a tree to `folder`.tmp and renames it once it is complete.

    Args:
      folder: must not exist yet.
      leaves: (path, array), taken one after the other; NumPy arrays must not change meanwhile.
      info: what else is to be kept, as plain values.

    Raises:
      FileExistsError: the folder is there already.
      ValueError: a path comes twice.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or choose another folder.")
    work = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    described: dict[str, dict[str, Any]] = {}
    part: dict[str, Leaf] = {}
    number = 0
    for path, leaf in leaves:
        if path in described:
            raise ValueError(f"leaf {path} comes twice.")
        described[path] = {"shape": leaf.shape, "dtype": leaf.dtype.name, "part": number}
        part[path] = leaf
        del leaf  # or it would stay in memory while the next one is made
        if sum(leaf.nbytes for leaf in part.values()) >= PART_BYTES:
            _save_part(work / str(number), part)
            number += 1
    if part:
        _save_part(work / str(number), part)
    text = {"format": FORMAT, "leaves": described, "files": _files(work), "info": dict(info or {})}
    (work / "tree.json").write_text(json.dumps(text, indent=1), "utf-8")
    os.replace(work, folder)


def _save_part(folder: Path, part: dict[str, Leaf]) -> None:
    """Writes the leaves of a part and lets go of them."""
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(part))
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
      ValueError: files are missing or cut short, another version wrote them, or leaves and
        `abstract` differ.
    """
    text = _describe(folder)
    if lost := sorted(text["files"].items() - _files(folder).items()):
        raise ValueError(
            f"{folder} is damaged: {len(lost)} files are missing or have another size, first "
            f"{lost[0][0]}; convert it again."
        )
    stored = tree_shapes(folder)
    wanted = stored if abstract is None else abstract
    odd = [p for p in wanted.keys() | stored.keys() if _shape(wanted, p) != _shape(stored, p)]
    if odd:
        raise ValueError(
            f"{folder}: {len(odd)} leaves do not fit the model; first: {min(odd)} is "
            f"{_shape(stored, min(odd))}, wanted {_shape(wanted, min(odd))}."
        )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    parts: dict[int, dict[str, jax.ShapeDtypeStruct]] = {}
    for path, leaf in text["leaves"].items():
        parts.setdefault(leaf["part"], {})[path] = wanted[path]
    leaves: dict[str, jax.Array] = {}
    with _checkpointer() as checkpointer:
        for number, part in parts.items():
            arguments = {
                path: ocp.ArrayRestoreArgs(
                    dtype=leaf.dtype, sharding=leaf.sharding or here, global_shape=leaf.shape
                )
                for path, leaf in part.items()
            }
            leaves |= checkpointer.restore(
                (folder / str(number)).absolute(),
                args=ocp.args.PyTreeRestore(item=part, restore_args=arguments),
            )
    return leaves


def _shape(leaves: Mapping[str, jax.ShapeDtypeStruct], path: str) -> tuple[int, ...] | str:
    return tuple(leaves[path].shape) if path in leaves else "missing"
