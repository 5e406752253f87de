"""Opens checkpoint files of any kind: safetensors, sharded safetensors and PyTorch's `.pth`.

Opening reads tables of contents only; tensors are mapped into memory when they are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pusa_jax.convert.files.mapped import FileTensor, FileTensors
from pusa_jax.convert.files.safetensors import open_safetensors
from pusa_jax.convert.files.torch_zip import open_torch_zip
from pusa_jax.listing import listed

SAFETENSORS, PICKLED = (".safetensors", ".sft"), (".pth", ".pt", ".ckpt", ".bin")
"""Endings of files of one kind, whatever programs call them."""

WRAPPERS = ("model.", "diffusion_model.")
"""Prefixes that repacked single-file checkpoints put before every name."""


def open_tensors(path: Path) -> FileTensors:
    """Opens one checkpoint file: `.safetensors`, an index of such shards, or `.pth` and its like.

    Prefixes that every name carries (`model.`, `diffusion_model.`) are removed.

    Raises:
      FileNotFoundError: the file, or a shard that an index names, is missing.
      ValueError: unknown ending, or the file is cut short or not of that format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}.")
    if path.name.endswith(".index.json"):
        found = _open_index(path)
    elif path.suffix in SAFETENSORS:
        found = open_safetensors(path)
    elif path.suffix in PICKLED:
        found = open_torch_zip(path)
    else:
        raise ValueError(
            f"{path} is no checkpoint: the name must end in {', '.join(SAFETENSORS)}, "
            f".safetensors.index.json, {', '.join(PICKLED)}."
        )
    return FileTensors(_without_wrappers(found.entries), found.metadata)


def _without_wrappers(entries: Mapping[str, FileTensor]) -> Mapping[str, FileTensor]:
    for prefix in WRAPPERS:
        if entries and all(name.startswith(prefix) for name in entries):
            short = {name.removeprefix(prefix): tensor for name, tensor in entries.items()}
            return _without_wrappers(short)
    return entries


def _open_index(path: Path) -> FileTensors:
    """Opens every shard that an index names.

    A tensor that lies in a shard and is not named by the index is still listed, so that the engine
    reports it instead of losing it.
    """
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        if any(Path(shard).name != shard for shard in shards):
            raise ValueError("a shard name is a path")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no index of shards: {error!r}.") from None
    missing = [shard for shard in shards if not (path.parent / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path.name} names {len(shards)} shards, {len(missing)} of which are not in "
            f"{path.parent}: {listed(missing)}."
        )
    found = {shard: open_safetensors(path.parent / shard).entries for shard in shards}
    astray = [name for name, shard in weight_map.items() if name not in found[shard]]
    if astray:
        raise ValueError(
            f"{path} names {len(astray)} tensors that their shards do not hold: "
            f"{listed([repr(name) for name in sorted(astray)], 3)}."
        )
    merged = {name: tensor for shard in shards for name, tensor in found[shard].items()}
    return FileTensors(merged | {name: found[shard][name] for name, shard in weight_map.items()})
