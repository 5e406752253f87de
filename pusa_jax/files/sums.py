"""Checksums of files, by which a changed byte is noticed when they are read again.

A sum is eight hexadecimal digits: the CRC-32 of 64-bit sums over blocks of the file, and its size.
Adding up is ten times as fast as a CRC of every byte. A change within one word changes the sum of
its block in any case; blocks that change places change the CRC.
"""

import concurrent.futures
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_READ = 2**20
"""Bytes read at once."""

_WORDS = 2**10
"""64-bit words whose sum is one number."""

THREADS = 4
"""Files that are read at the same time."""

SELF = "sum"
"""Entry of a table that holds the sum of the others."""


def of_file(path: Path) -> str:
    """The sum of a file.

    Raises:
      OSError: it cannot be read.
    """
    buffer, crc, size = np.zeros(_READ // 8, np.uint64), 0, 0
    view = buffer.view(np.uint8).data
    with path.open("rb", buffering=0) as file:
        while count := _fill(file, view):
            if count < _READ:
                view[count:] = bytes(_READ - count)
            rows = -(-count // (8 * _WORDS))
            blocks = buffer.reshape(-1, _WORDS)[:rows]
            crc = zlib.crc32(np.add.reduce(blocks, axis=1).tobytes(), crc)
            size += count
    return f"{zlib.crc32(str(size).encode(), crc):08x}"


def _fill(file: Any, view: memoryview) -> int:
    """Reads until a buffer is full or the file ends."""
    filled = 0
    while filled < len(view) and (count := file.readinto(view[filled:])):
        filled += count
    return filled


def of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Relative path -> sum of files in a folder, several at a time; raises as `of_file`."""
    names = sorted(names)
    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        found = pool.map(of_file, (folder / name for name in names))
        return dict(zip(names, found, strict=True))


def damaged(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """Files of a folder that are missing or do not have their sums."""

    def is_whole(name: str) -> bool:
        try:
            return of_file(folder / name) == sums[name]
        except OSError:
            return False

    names = sorted(sums)
    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return [
            name for name, whole in zip(names, pool.map(is_whole, names), strict=True) if not whole
        ]


def signed(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of plain values with its own sum in it."""
    return {**table, SELF: _of_table(table)}


def is_damaged(table: Mapping[str, Any]) -> bool:
    """Whether a table has a sum, as `signed` makes it, that is not its own."""
    return SELF in table and table[SELF] != _of_table(table)


def _of_table(table: Mapping[str, Any]) -> str:
    others = {name: value for name, value in table.items() if name != SELF}
    return f"{zlib.crc32(json.dumps(others, sort_keys=True).encode()):08x}"
