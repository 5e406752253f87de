"""Folders that have their name only once they are complete."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pusa_jax.files.atomic import check_place

MARKER = "UNFINISHED"
"""File that says that a working folder is ours and may be removed."""


@contextlib.contextmanager
def alone(dst: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Waits until no other process makes `dst`; of several started at once, one does the work.

    The lock is a file beside `dst`, which the system lets go of when its process ends, however it
    ends.

    Args:
      dst: what is to be made.
      on_wait: called before waiting for another process.

    Raises:
      OSError: nothing of this name can be made.
    """
    check_place(dst)
    lock = dst.with_name(f".{dst.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file.fileno(), lock):  # and not removed by the process waited for
                try:
                    yield
                finally:
                    lock.unlink()
                return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def staged(dst: Path) -> Iterator[Path]:
    """Gives a working folder `dst`.tmp that becomes `dst` at the end; removed if an error occurs.

    What was at `dst` is replaced: the caller has made sure that it may be.

    Raises:
      FileExistsError: `dst`.tmp is there and is not left from an interrupted run of this function.
      OSError: a folder of this name cannot be made.
    """
    check_place(dst)
    work = dst.with_name(dst.name + ".tmp")
    if work.exists() and not (work / MARKER).is_file():
        raise FileExistsError(f"{work} is in the way and not ours; remove it.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        (work / MARKER).touch()
        yield work
        (work / MARKER).unlink()
        if dst.exists():
            shutil.rmtree(dst)
        os.replace(work, dst)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
