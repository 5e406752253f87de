"""`manifest.jsonl`: what became of every job, a line as it lands, written by all processes.

{"id": "cat", "output": "cat.mp4", "fingerprint": "9f...", "seconds": 41.2, "by": "host-17"}
{"id": "dog", "output": "dog.mp4", "fingerprint": "01...", "error": "dog.png is no picture."}
"""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pusa_jax.files import locks

NAME = "manifest.jsonl"

TORN = b'{"id": '
"""How every line begins, whole or not."""


class Manifest:
    """The list in a file.

    Attributes:
      entries: id -> its last entry.
    """

    def __init__(self, path: Path):
        """Reads what is there; raises as `refresh`."""
        self.path, self.entries = path, {}
        self._lock = threading.Lock()
        self._read = self._lines = 0
        self.refresh()

    def refresh(self) -> None:
        """Reads what has been added since, by whichever process; a torn line is left out.

        Raises:
          ValueError: a line is no entry.
        """
        if not self.path.exists():
            return
        with self._lock, self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                self.entries[entry["id"]] = {"fingerprint": "", "output": ""} | entry
            except (ValueError, KeyError, TypeError):
                if line.startswith(TORN) and not line.endswith(b"}"):  # by a kill, and gone on from
                    continue
                raise ValueError(
                    f"line {self._lines} of {self.path} is no result of a batch; remove the line "
                    "to go on."
                ) from None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds an entry; of several processes one writes at a time.

        Raises:
          OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(entry) + "\n").encode()
        with self._lock, self.path.open("a+b") as file:
            locks.take(file.fileno(), wait=True)
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line  # behind a torn one
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.entries[str(entry["id"])] = dict(entry)
