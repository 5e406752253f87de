"""Names under which results are made, and how those that dead processes have left are removed.

A result is made beside its place as `.NAME.HOST-PID-RANDOM.tmp`, a file or a folder that its maker
holds locked. One that nobody holds is left from a process that was killed: the next that makes
NAME on the same machine removes it. What machines cannot tell of each other is decided by age.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pusa_jax.files import locks

STALE_SECONDS = 24 * 3600
"""Age, counted from the last change, at which anybody removes what nobody holds."""

TRIES, PAUSE = 40, 0.05
"""How often it is tried to remove a folder, and seconds between."""

_HELD: set[Path] = set()
"""What this process is making."""

_NAME = re.compile(r"\.(?P<of>.+)\.(?P<host>[A-Za-z0-9]+)-\d+-[0-9a-f]{8}\.tmp", re.DOTALL)


def name_for(path: Path) -> Path:
    """A new name beside a result."""
    return path.with_name(f".{path.name}.{locks.host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def claimed(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Makes an empty file or folder for a result, locked; removed at the end if it is still there.

    What others have left of the same result is removed first.

    Raises:
      OSError: it cannot be made.
    """
    remove_leftovers(path)
    while True:
        temporary = name_for(path)
        if is_folder:
            temporary.mkdir(parents=True)
            descriptor = os.open(temporary, os.O_RDONLY)
        else:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            locks.take(descriptor, wait=True)
            if not locks.is_at(descriptor, temporary):  # taken for a leftover before it was locked
                continue
            _HELD.add(temporary)
            try:
                with named(path):
                    yield temporary
                return
            finally:
                remove(temporary)
                _HELD.discard(temporary)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Says which result could not be made where the system does not, as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there; what cannot be removed stays.

    Where a signal has ended the work on a folder, threads may for a moment still write to it.
    """
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        for _ in range(TRIES):
            if not path.is_dir():
                break
            shutil.rmtree(path, ignore_errors=True)
            if path.is_dir():
                time.sleep(PAUSE)


def remove_all_of_this_process() -> None:
    """Removes what this process is making; to be called from any thread, just before its end."""
    for path in tuple(_HELD):
        remove(path)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes have left of a result, and what is stale beside it."""
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            is_near = match["of"] == path.name and match["host"] == locks.host()
            with contextlib.suppress(OSError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if is_near or age > STALE_SECONDS:
                    _remove_unless_held(Path(entry.path), is_stale=age > STALE_SECONDS)


def _remove_unless_held(path: Path, *, is_stale: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        is_free = locks.take(descriptor)
        if is_free or (is_free is None and is_stale):
            remove(path)
    finally:
        os.close(descriptor)
