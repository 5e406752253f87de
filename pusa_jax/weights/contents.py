"""The table of contents of a saved tree: `tree.json`, which says what lies where and how it sums.

format   version
leaves   path -> shape, dtype, parts [[number, rows], ...] and blocks
files    relative path -> size
sums     relative path -> checksum; missing in trees of versions up to 0.2
sum      of the table itself
"""

import concurrent.futures
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pusa_jax.devices import processes
from pusa_jax.files import sums

FORMAT = 3
"""Version of `tree.json`."""

DTYPES = {
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
}  # fmt: skip
"""Types that a leaf may have."""


def read_contents(folder: Path) -> dict[str, Any]:
    """The content of `tree.json`, checked.

    Raises:
      FileNotFoundError: nothing is saved there.
      ValueError: another version wrote it, or it is damaged.
    """
    path = folder / "tree.json"
    try:
        text = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder} holds no saved tree (no tree.json); convert it again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error!r:.100}); convert it again.") from None
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{folder} was written by another version of pusa_jax; convert it again.")
    if sums.is_damaged(text) or not _is_table(text):
        raise ValueError(f"{path} is damaged (it is not as it was written); convert it again.")
    return text


def _is_table(text: Mapping[str, Any]) -> bool:
    """Whether all entries of `tree.json` are of the types that are read from it."""
    tables = [text.get(name) for name in ("files", "leaves", "info")]
    if not all(isinstance(table, dict) for table in (*tables, text.get("sums", {}))):
        return False
    return all(type(size) is int for size in text["files"].values()) and all(
        isinstance(leaf, dict)
        and leaf.keys() >= {"shape", "dtype", "parts", "blocks"}
        and leaf["dtype"] in DTYPES
        and _are_sizes(leaf["shape"])
        and isinstance(leaf["parts"], list)
        and all(_are_sizes(part) and len(part) == 2 for part in leaf["parts"])
        and (leaf["blocks"] is None or (_are_sizes(leaf["blocks"]) and len(leaf["blocks"]) == 2))
        for leaf in text["leaves"].values()
    )


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**60 for n in value)


class Summing:
    """Adds up the files of parts, each while the next one is written; the first process does."""

    def __init__(self, folder: Path):
        """Takes the folder of all parts."""
        self._folder = folder
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._found: list[concurrent.futures.Future[dict[str, str]]] = []

    def add(self, part: str) -> None:
        """Begins with a part that is written; its files must not change any more."""
        if processes.is_first():
            self._found.append(self._pool.submit(self._of_part, part))

    def _of_part(self, part: str) -> dict[str, str]:
        found = sums.of_files(self._folder / part, files_in(self._folder / part))
        return {f"{part}/{name}": digest for name, digest in found.items()}

    def finished(self) -> dict[str, str]:
        """Relative path -> sum of every file."""
        self._pool.shutdown()
        return {name: value for part in self._found for name, value in part.result().items()}


def files_in(folder: Path) -> dict[str, int]:
    """Relative path -> size of every file, to notice later that one is missing or cut short."""
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "tree.json"
    }
