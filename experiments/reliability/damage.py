"""Ways to damage a file or a folder, our own files to be damaged, and commands that read them.

Every command on every file, damaged in every way, must end with one line, or with the result that
it had before. `hostile.py` tries hundreds, tests/reliability a few.
"""

import contextlib
import dataclasses
import io
import json
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pusa_jax.cli.main import main
from pusa_jax.cli.printing import LONGEST, escaped

STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x", "../../etc/passwd",
    "\x1b[2J\u202e", "a" * 10_000, [], [[]], [None], {}, {"a": {}}, [1] * 1000,
)  # fmt: skip
"""What an entry of a JSON file is replaced by."""


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is done to one of the files, places and choices as shares of what there is.

    Attributes:
      kind: key of `KINDS`.
      file: which of the files.
      place: where in it.
      choice: what is put there.
    """

    kind: str
    file: float
    place: float
    choice: float

    def apply(self, top: Path) -> str:
        """Does it; returns in words what was done."""
        files = sorted(path for path in top.rglob("*") if path.is_file()) if top.is_dir() else [top]
        if self.kind == "entry":
            files = [path for path in files if _is_json(path)] or files
        file = _of(files, self.file)
        KINDS[self.kind](file, self.place, self.choice)
        name = file.relative_to(top) if top.is_dir() else file.name
        return f"{self.kind} at {self.place:.3f} of {name}"


def drawn(rng: np.random.Generator, kinds: Sequence[str] = ()) -> Damage:
    """A damage by chance."""
    kind = str(rng.choice(list(kinds or KINDS)))
    return Damage(kind, *(float(x) for x in rng.random(3)))


def _of(things: Sequence[Any], share: float) -> Any:
    return things[min(int(share * len(things)), len(things) - 1)]


def _bit(file: Path, place: float, choice: float) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[min(int(place * len(data)), len(data) - 1)] ^= 1 << int(choice * 8) % 8
    file.write_bytes(data)


def _cut(file: Path, place: float, choice: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(place * len(data))])


def _zeros(file: Path, place: float, choice: float) -> None:
    data = bytearray(file.read_bytes())
    at, length = int(place * len(data)), min(int(choice * 4096) + 1, len(data))
    data[at : at + length] = bytes(len(data[at : at + length]))
    file.write_bytes(data)


def _longer(file: Path, place: float, choice: float) -> None:
    data = file.read_bytes()
    at = int(place * len(data))
    file.write_bytes(data[:at] + bytes([int(choice * 255)]) * 100 + data[at:])


def _moved(file: Path, place: float, choice: float) -> None:
    data = file.read_bytes()
    at = int(place * len(data))
    file.write_bytes(data[at:] + data[:at])


def _empty(file: Path, place: float, choice: float) -> None:
    file.write_bytes(b"")


def _gone(file: Path, place: float, choice: float) -> None:
    file.unlink()


def _folder(file: Path, place: float, choice: float) -> None:
    file.unlink()
    file.mkdir()


def _other(file: Path, place: float, choice: float) -> None:
    others = sorted(path for path in file.parent.iterdir() if path.is_file())
    shutil.copy(_of(others, choice), file.with_name("copy"))
    file.with_name("copy").replace(file)


def _entry(file: Path, place: float, choice: float) -> None:
    """One entry of a JSON file becomes something else, or goes; sums are left out of the file."""
    try:
        table = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        _bit(file, place, choice)
        return
    if isinstance(table, dict):
        for name in ("sum", "sums"):
            table.pop(name, None)
    places = list(_places(table))
    if places:
        where, name = _of(places, place)
        strange = _of((*STRANGE, "GONE"), choice)
        if strange == "GONE":
            del where[name]
        else:
            where[name] = strange
    file.write_text(json.dumps(table), "utf-8")


def _places(table: Any):
    entries = table.items() if isinstance(table, dict) else enumerate(table)
    for name, value in list(entries):
        yield table, name
        if isinstance(value, dict | list):
            yield from _places(value)


def _is_json(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text("utf-8")), dict | list)
    except (ValueError, OSError, RecursionError):
        return False


KINDS: Mapping[str, Callable[[Path, float, float], None]] = {
    "bit": _bit, "cut": _cut, "zeros": _zeros, "longer": _longer, "moved": _moved, "empty": _empty,
    "gone": _gone, "folder": _folder, "other": _other, "entry": _entry,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command line ended.

    Attributes:
      code: exit code.
      out: what it printed.
      err: what it said beside.
      seconds: of work that it took.
      grown: bytes by which the memory of the process grew.
      result: what it made; None where that cannot be compared.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    grown: int
    result: Any = None

    def faults(self, size: int, expected: "Outcome | None") -> list[str]:
        """What is wrong with it, in words.

        Args:
          size: bytes of the files.
          expected: the outcome without damage; its result must be this one's, if this one has one.
        """
        said = self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("pusa-jax")]
        found = {
            f"exit code {self.code}": self.code not in (0, 2),
            f"{len(lines)} lines: {self.err[:300]!r}": len(lines) != (self.code == 2),
            "a traceback": "Traceback" in said,
            f"no words of its own: {self.err[-300:]!r}": "shows where" in said,
            "control characters": said != escaped(said),
            "a long message": any(len(line) > LONGEST + 100 for line in lines),
            f"{self.seconds:.0f} seconds": self.seconds > 10,
            f"{self.grown >> 20} MB more": self.grown > 2 * size + 500 * 2**20,
            "another result, silently": self.code == 0
            and expected is not None
            and expected.result is not None
            and self.result != expected.result,
        }
        return [words for words, is_so in found.items() if is_so]


def called(argv: Sequence[object], result: Callable[[Outcome], Any] = lambda it: None) -> Outcome:
    """Runs a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if code > 128:  # a signal was meant for all of this
                raise
    seconds = time.process_time() - since
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    found = Outcome(code, out.getvalue(), err.getvalue(), seconds, grown)
    return dataclasses.replace(found, result=result(found)) if code == 0 else found
