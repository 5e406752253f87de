"""Locks on files and folders, which the system lets go of when a process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
"""What file systems say that know no locks, or none of folders."""


def host() -> str:
    """Name of this machine, made of letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:16] or "host"


def whoami() -> str:
    """This process in words, as other processes are told who holds a lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def take(descriptor: int, *, wait: bool = False) -> bool | None:
    """Takes the lock of an open file or folder; it ends when the file is closed.

    Returns:
      whether it is ours now; None if the file system knows no such lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has a name, and was not removed or replaced meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def queued(lock: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process is in here with the same lock file.

    Args:
      lock: a file that exists meanwhile and says who holds the lock.
      on_wait: told who that is, before waiting for another process.

    Raises:
      OSError: the file cannot be made.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)  # anew, if the process waited for has ended
        with lock.open("a+", encoding="utf-8", errors="replace") as file:
            if take(file.fileno()) is False:
                file.seek(0)
                on_wait(file.read(200).strip() or "another process")
                take(file.fileno(), wait=True)
            if is_at(file.fileno(), lock):  # and not removed by the process waited for
                try:
                    file.truncate(0)
                    file.write(whoami() + "\n")
                    file.flush()
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return
