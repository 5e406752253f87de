"""Folders that have their name only once they are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pusa_jax.outputs import check_place

MARKER = "UNFINISHED"
"""File that says that a working folder is ours and may be removed."""


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
