"""The safetensors format: a JSON table of names, types, shapes and offsets, then the bytes.

Read here rather than by the safetensors package, because that one neither maps single tensors nor
knows the 8-bit floats that repacked checkpoints use.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pusa_jax.convert.files.mapped import FileTensor, FileTensors, MappedFile, bytes_of, contiguous
from pusa_jax.convert.tables import TensorSource
from pusa_jax.files.atomic import replacing

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
"""Names of the safetensors format -> NumPy types."""

HEADER_LIMIT = 2**24
"""Largest header accepted, in bytes; that of the 14B model has 0.2 million."""


def open_safetensors(path: Path) -> FileTensors:
    """Reads the header of a safetensors file and checks that it describes exactly the bytes there.

    Raises:
      ValueError: the file is cut short, or its header is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, HEADER_LIMIT):
            raise ValueError(
                f"{path} is cut short or no safetensors file: its header should end at byte "
                f"{8 + length}, the file has {size}; fetch it again."
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header is not JSON ({error!r:.200}).") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header is not a table of tensors.")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict | None):
        raise ValueError(f"{path} is damaged: its metadata is not a table.")
    mapped = MappedFile(path)
    entries = {name: _entry(mapped, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, tensor in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].extent)):
        if tensor.offset != end:
            raise ValueError(f"{path} is damaged: tensor {name!r} does not follow the one before.")
        end += tensor.extent * tensor.dtype.itemsize
    if end != size:
        raise ValueError(
            f"{path} is {'cut short' if size < end else 'damaged'}: its tensors end at byte {end}, "
            f"the file has {size}; fetch it again."
        )
    return FileTensors(entries, {k: str(v) for k, v in (metadata or {}).items()})


def _entry(mapped: MappedFile, name: str, entry: object, base: int) -> FileTensor:
    """One line of a safetensors header, checked; `base` is where the tensors begin in the file."""
    path = mapped.path
    damaged = ValueError(f"{path} is damaged: its header describes {name!r} as {entry!r:.200}.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise damaged
    if len(shape) > 32 or math.prod(max(n, 1) for n in shape) >= 2**60:
        raise damaged
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{path}: tensor {name!r} has type {dtype!r:.50}, which is not supported.")
    kind = np.dtype(DTYPES[dtype])
    tensor = FileTensor(mapped, base + offsets[0], tuple(shape), contiguous(shape), kind)
    if tensor.extent * kind.itemsize != offsets[1] - offsets[0]:
        raise damaged
    return tensor


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON; of two entries of one name a reader takes the first, another the last."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("two entries have one name")
    return table


def _naturals(value: object) -> bool:
    """Whether value is a list of whole numbers that can be a shape or offsets."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def write_safetensors(
    path: Path,
    source: TensorSource,
    names: Iterable[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors to a file, one at a time; it has its name only once it is complete.

    Args:
      path: the file; replaced if it is there.
      source: where the tensors come from.
      names: those to write; default all.
      metadata: text entries; `format: pt`, which PyTorch readers ask for, is always there.
    """
    codes = {np.dtype(kind): code for code, kind in DTYPES.items()}
    infos = {name: source.tensors[name] for name in names or source.tensors}
    # Wide types first: then every tensor starts at a multiple of its item size.
    infos = dict(sorted(infos.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, info in infos.items():
        start, end = end, end + math.prod(info.shape) * info.dtype.itemsize
        header[name] = {
            "dtype": codes[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as part, part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in infos:
            file.write(bytes_of(source.read(name)))
