"""Writes files that `torch.load` reads, without PyTorch: see `torch_zip` for what is in them."""

import math
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pusa_jax.convert.files.mapped import bytes_of, contiguous
from pusa_jax.convert.files.torch_zip import STORAGES
from pusa_jax.convert.tables import TensorSource
from pusa_jax.files.atomic import replacing

ALIGNMENT = 64
"""Storages begin at multiples of this many bytes, as PyTorch writes them."""


def write_torch_zip(path: Path, source: TensorSource, entry: str = "") -> None:
    """Writes tensors as `torch.save` writes a state dict, one at a time, each with its own storage.

    Args:
      path: the file; has its name only once it is complete.
      source: where the tensors come from.
      entry: of a dict around the state dict, if there is to be one.
    """
    with (
        replacing(path) as part,
        part.open("wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr("archive/data.pkl", _pickled(source, entry))
        archive.writestr("archive/byteorder", "little")
        for key, name in enumerate(source.tensors):
            data = bytes_of(source.read(name))
            info = zipfile.ZipInfo(f"archive/data/{key}")
            info.file_size = len(data)
            large = len(data) >= zipfile.ZIP64_LIMIT // 2
            start = file.tell() + 30 + len(info.filename) + 4 + (20 if large else 0)
            padding = -start % ALIGNMENT
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            with archive.open(info, "w", force_zip64=large) as record:
                record.write(data)
        archive.writestr("archive/version", "3\n")


def _pickled(source: TensorSource, entry: str) -> bytes:
    """The pickle, written out by hand: an OrderedDict of calls of `_rebuild_tensor_v2`."""
    kinds = {np.dtype(dtype): kind for kind, dtype in STORAGES.items()}
    empty = b"ccollections\nOrderedDict\n)R"
    out = [b"\x80\x02", *([b"}", _text(entry)] if entry else []), empty, b"("]
    for key, (name, info) in enumerate(source.tensors.items()):
        size = math.prod(info.shape)
        storage = (
            _text("storage"),
            b"ctorch\n" + kinds[info.dtype].encode() + b"\n",
            _text(str(key)),
            _text("cpu"),
            _number(size),
        )
        arguments = (
            _sequence(storage) + b"Q",
            _number(0),
            _sequence(map(_number, info.shape)),
            _sequence(map(_number, contiguous(info.shape))),
            b"\x89",
            empty,
        )
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", _sequence(arguments), b"R"]
    return b"".join([*out, b"us." if entry else b"u."])


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def _sequence(items: Iterable[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"
