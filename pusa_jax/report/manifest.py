"""What a batch has left in its folder: the list of its results, as they landed."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.jsonl"
"""Of the list, in the folder of a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Landed:
    """A job of a batch that has ended.

    Attributes:
      id: of the job.
      output: its file; None where it failed.
      error: why it failed; empty where it did not.
    """

    id: str
    output: Path | None
    error: str = ""


def read_manifest(folder: Path, manifest: Path | None = None) -> list[Landed]:
    """The jobs of a batch in the order they first landed; of several tries the last counts.

    Args:
      folder: of the batch.
      manifest: its list, where that lies elsewhere.

    Raises:
      FileNotFoundError, NotADirectoryError: there is no such folder, or no list in it.
      ValueError: the list is none, or names files outside the folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; give the folder of a batch.")
    path = folder / NAME if manifest is None else manifest
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}; report takes the folder of a batch, and for other videos there "
            "is pusa-jax compare."
        )
    found: dict[str, Landed] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or not line.endswith("\n"):  # being written right now
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                raise ValueError(f"line {number} of {path} is no result of a batch.")
            found[entry["id"]] = _landed(entry, folder, f"line {number} of {path}")
    if not found:
        raise ValueError(f"{path} lists no result yet.")
    return list(found.values())


def _landed(entry: Mapping[str, Any], folder: Path, where: str) -> Landed:
    name, error = entry.get("output"), entry.get("error")
    if error:
        return Landed(id=entry["id"], output=None, error=str(error))
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} names no output.")
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where} names a file outside {folder}: {name!r:.80}.")
    return Landed(id=entry["id"], output=folder / name)
