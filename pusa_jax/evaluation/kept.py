"""Features on disk: a file that grows by a record per clip, so that a killed run goes on from it.

one line of JSON     what the features are of
number, D floats, checksum     per clip, in any order; what is cut off or damaged at the end goes
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32

from pusa_jax.files import locks
from pusa_jax.files.atomic import check_writable

ENDING = ".features"


class Kept:
    """Features of clips by number, in memory and in an open file.

    Attributes:
      features: number -> float32 [D].
    """

    def __init__(self, file: BinaryIO, head: bytes, width: int):
        """Reads what the file holds behind `head`, and cuts off what is no whole record."""
        self._file = file
        self._kind = _record_of(width)
        file.seek(0)
        content = file.read()
        self.features: dict[int, np.ndarray] = {}
        if not content.startswith(head):
            file.truncate(0)
            file.write(head)
            file.flush()
            return
        body, size = content[len(head) :], self._kind.itemsize
        whole = 0
        for record in np.frombuffer(body[: len(body) // size * size], self._kind):
            if record["sum"] != _sum_of(record):
                break
            self.features[int(record["number"])] = record["values"].copy()
            whole += 1
        file.truncate(len(head) + whole * size)

    def append(self, number: int, values: Float32[np.ndarray, "D"]) -> None:
        """Adds the features of a clip to the file."""
        record = np.zeros((), self._kind)
        record["number"], record["values"] = number, values
        record["sum"] = _sum_of(record)
        self._file.write(record.tobytes())
        self._file.flush()
        self.features[number] = values


def _record_of(width: int) -> np.dtype:
    return np.dtype([("number", "<u4"), ("values", "<f4", (width,)), ("sum", "<u4")])


def _sum_of(record: Any) -> int:
    return zlib.crc32(record.tobytes()[:-4])  # all but the checksum itself


@contextlib.contextmanager
def opened(path: Path, settings: Mapping[str, Any], width: int) -> Iterator[Kept]:
    """Opens the file of some clips' features, or makes it; no other process writes to it meanwhile.

    Args:
      path: of the file.
      settings: what the features are of; those of a file with others are dropped.
      width: of the features.

    Raises:
      ValueError: another process is writing to it.
      OSError: it cannot be written.
    """
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), "r+b") as file:
        if locks.take(file.fileno()) is False:
            raise ValueError(
                f"{path} is being written by another process; wait for it, or keep the features "
                "in another folder."
            )
        yield Kept(file, json.dumps(settings).encode() + b"\n", width)
