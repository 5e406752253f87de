"""Folders that have their name only once they are complete; old ones stay until new ones are."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pusa_jax.files import locks, temporary
from pusa_jax.files.atomic import check_place

MARKER = "UNFINISHED"
"""File that says that a folder is not complete."""

_EXCHANGE = 2
"""The flag RENAME_EXCHANGE of Linux's renameat2."""

_HERE = -100
"""AT_FDCWD: names are meant from the working directory."""


@contextlib.contextmanager
def alone(dst: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process makes `dst`; of several started at once, one does the work.

    The lock is a file beside `dst` that says who is at work.

    Args:
      dst: what is to be made.
      on_wait: told who is at work, before waiting.

    Raises:
      OSError: nothing of this name can be made.
    """
    check_place(dst)
    with locks.queued(dst.with_name(f".{dst.name}.lock"), on_wait):
        _restore(dst)
        yield


@contextlib.contextmanager
def staged(dst: Path) -> Iterator[Path]:
    """Gives a working folder that becomes `dst` at the end; removed if an error occurs.

    What was at `dst` is replaced: the caller has made sure that it may be. Old or new is there at
    every moment: they change places in one step, then the old one is removed.

    Raises:
      OSError: a folder of this name cannot be made.
    """
    check_place(dst)
    _restore(dst)
    left = dst.with_name(dst.name + ".tmp")
    if (left / MARKER).is_file():  # as versions up to 0.2 have left it
        temporary.remove(left)
    with temporary.claimed(dst, is_folder=True) as work:
        (work / MARKER).touch()
        yield work
        (work / MARKER).unlink()
        _put_in_place(work, dst)


def _put_in_place(work: Path, dst: Path) -> None:
    """Gives a folder its name; what was there is removed behind it, under a temporary name."""
    if not dst.exists() or not exchanged(work, dst):
        aside = _aside(dst)
        if dst.exists():
            os.rename(dst, aside)
        os.rename(work, dst)
        temporary.remove(aside)


def exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _aside(dst: Path) -> Path:
    """Where the old folder waits where folders cannot change places in one step."""
    return dst.with_name(f".{dst.name}.replaced.tmp")


def _restore(dst: Path) -> None:
    """Brings back what a process killed between two renames has left, or removes what is over."""
    aside = _aside(dst)
    if not aside.exists():
        return
    if dst.exists():
        temporary.remove(aside)
    else:
        os.rename(aside, dst)
