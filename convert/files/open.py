"""Opens checkpoint files of any kind: safetensors, sharded safetensors and PyTorch's `.pth`.

Opening reads tables of contents only; tensors are mapped into memory when they are read.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from pusa_jax.convert.files.gguf_file import GGUFTensors, open_gguf
from pusa_jax.convert.files.mapped import FileTensor, FileTensors
from pusa_jax.convert.files.prefixes import networks_in, without_wrappers
from pusa_jax.convert.files.safetensors import open_safetensors
from pusa_jax.convert.files.scaled import ScaledTensors, multiplied_out
from pusa_jax.convert.files.torch_zip import open_torch_zip
from pusa_jax.listing import listed

SAFETENSORS, PICKLED = (".safetensors", ".sft"), (".pth", ".pt", ".ckpt", ".bin")
"""Endings of files of one kind, whatever programs call them."""

GGUF = ".gguf"

ENDINGS = (*SAFETENSORS, *PICKLED, GGUF)

LFS = b"version https://git-lfs.github.com/spec/"
"""Beginning of the note that Git leaves in the place of a large file."""

LFS_LIMIT = 1024
"""Bytes that such a note is shorter than, by its specification."""

Tensors = FileTensors | ScaledTensors | GGUFTensors
"""What a checkpoint may be; all tell shapes, metadata, sizes and files, and read tensors."""


def open_tensors(path: Path) -> Tensors:
    """Opens one checkpoint file: of `ENDINGS`, or `.index.json`, which names shards of them.

    Prefixes that every name carries (see `prefixes.WRAPPERS`) are removed, scales multiplied in.

    Raises:
      FileNotFoundError: the file, or a shard that an index names, is missing.
      ValueError: unknown ending, or the file is cut short or not of that format.
    """
    (found,) = open_networks(path, is_whole=True)
    return found


def open_networks(path: Path, *, is_whole: bool = False) -> list[Tensors]:
    """As `open_tensors`, but a file of several networks is opened as each of them.

    Args:
      path: the file.
      is_whole: it is taken as one checkpoint, whatever its names are.
    """
    if not path.is_file():
        what = "is a folder, a checkpoint file is expected" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"no checkpoint file {path}: it {what}.")
    if path.suffix.lower() == GGUF:
        found = open_gguf(path)
        shapes = without_wrappers(found.shapes)
        fields = without_wrappers(found.fields)
        return [dataclasses.replace(found, fields=fields, shapes=shapes)]
    found = _open_index(path) if path.name.endswith(".index.json") else _open_file(path)
    return _networks(path, found, is_whole=is_whole)


def open_blocks(files: Sequence[Path]) -> list[Tensors]:
    """Opens files of which each holds some layers of a network, without an index.

    Raises:
      ValueError: one of them is damaged, or two hold a tensor of one name.
    """
    entries: dict[str, FileTensor] = {}
    for file in files:
        found = _open_file(file).entries
        if twice := sorted(entries.keys() & found.keys()):
            raise ValueError(f"{file} holds {listed(twice, 3)}, which another block holds as well.")
        entries |= found
    return _networks(files[0], FileTensors(entries))


def _networks(path: Path, found: FileTensors, *, is_whole: bool = False) -> list[Tensors]:
    found = dataclasses.replace(found, entries=without_wrappers(found.entries))
    try:
        return [multiplied_out(one) for one in ([found] if is_whole else networks_in(found))]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _open_file(path: Path) -> FileTensors:
    """Opens a file by its ending, in small or capital letters."""
    kind = path.suffix.lower()
    if kind not in (*SAFETENSORS, *PICKLED):
        raise ValueError(
            f"{path} is no checkpoint: the name must end in {', '.join(ENDINGS)} or "
            ".safetensors.index.json."
        )
    try:
        return open_safetensors(path) if kind in SAFETENSORS else open_torch_zip(path)
    except ValueError:
        if path.stat().st_size < LFS_LIMIT and path.read_bytes().startswith(LFS):
            raise ValueError(
                f"{path} is a Git-LFS pointer, not the file itself: run git lfs pull in its "
                "folder, or fetch it with hf download."
            ) from None
        raise


def shards_of(path: Path) -> dict[str, str]:
    """Tensor -> name of its file, as an index says.

    Raises:
      ValueError: it is no index.
    """
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        if any(Path(shard).name != shard for shard in weight_map.values()):
            raise ValueError("a shard name is a path")
        return dict(weight_map)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no index of shards: {error!r:.200}.") from None


def _open_index(path: Path) -> FileTensors:
    """Opens every shard that an index names.

    A tensor that lies in a shard and is not named by the index is still listed, so that the engine
    reports it instead of losing it.
    """
    weight_map = shards_of(path)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path.name} names {len(shards)} shards, {len(missing)} of which are not in "
            f"{path.parent}: {listed(missing)}."
        )
    opened = {shard: _open_file(path.parent / shard) for shard in shards}
    found = {shard: one.entries for shard, one in opened.items()}
    astray = [name for name, shard in weight_map.items() if name not in found[shard]]
    if astray:
        raise ValueError(
            f"{path} names {len(astray)} tensors that their shards do not hold: "
            f"{listed([repr(name) for name in sorted(astray)], 3)}."
        )
    merged = {name: tensor for shard in shards for name, tensor in found[shard].items()}
    metadata = {key: text for one in opened.values() for key, text in one.metadata.items()}
    return FileTensors(
        merged | {name: found[shard][name] for name, shard in weight_map.items()}, metadata
    )
