"""Reading recorded outputs of the reference code, whatever folder they lie in.

A golden file is a safetensors file whose header says what it holds (`kind`), from which weights it
came (`weights_file`), which cases it has (`cases` or `rows`) and how exact it is.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import safe_open


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One number to hold against a limit: a relative error unless `unit` says otherwise."""

    name: str
    error: float
    limit: float
    unit: str = "rel"


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file."""

    path: Path

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        with safe_open(self.path, "np") as f:
            raw = f.metadata() or {}
        return {key: _parse(value) for key, value in raw.items()}

    @property
    def kind(self) -> str:
        return self.meta.get("kind", "")

    @property
    def config(self) -> dict[str, Any]:
        return self.meta["config"]

    def cases(self) -> list[dict[str, Any]]:
        """The records of `cases` or `rows`; one nameless case where the file has neither."""
        rows = self.meta.get("cases", self.meta.get("rows"))
        if rows is None or not all(isinstance(row, dict) for row in rows):
            return [{"name": "all"}]
        return rows

    def has(self, name: str) -> bool:
        with safe_open(self.path, "np") as f:
            return name in f.keys()

    def tensor(self, name: str) -> np.ndarray:
        with safe_open(self.path, "np") as f:
            return f.get_tensor(name)

    def weights(self, role: str | None = None) -> Path:
        """Path of the weights file this one was made from; `role` where there are several."""
        entry = self.meta["weights_file"]
        return self.path.parent / (entry if role is None else entry[role])


NETWORKS: dict[str, Any] = {}
"""The last networks that were read, by the text of what they were read from."""


def remembered(read: Callable) -> Callable:
    """Keeps what a function reads in `NETWORKS`: cases of one file share it.

    The key is the text of the arguments, as recorded configurations have no hash.
    """

    @functools.wraps(read)
    def wrapper(*args):
        key = f"{read.__module__} {args!r}"
        if key not in NETWORKS:
            if len(NETWORKS) == 4:
                del NETWORKS[next(iter(NETWORKS))]
            NETWORKS[key] = read(*args)
        return NETWORKS[key]

    return wrapper


Check = Callable[[Golden, dict[str, Any]], Iterable[Comparison]]


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def discover(folder: Path) -> Iterator[Golden]:
    """Every golden file of a folder, found by its header and never by its name."""
    for path in sorted(folder.glob("*.safetensors")):
        golden = Golden(path)
        if golden.kind and golden.kind not in ("weights", "lora"):
            yield golden


HERE = Path(__file__).resolve()
BUNDLED = HERE.parents[1] / "golden"
SHARED = HERE.parents[3] / "shared" / "golden"


def golden_dirs(given: list[str] | None) -> list[Path]:
    """The folders to check: those given, else the shared one, of which the bundled is a part."""
    if given:
        return [Path(p) for p in given]
    return [SHARED if SHARED.is_dir() else BUNDLED]
