"""The folder of a run: who is using it, what it was started with, and when to stop.

workdir/config.json        the run's settings
workdir/checkpoints/STEP/  see `checkpoints.RunCheckpoints`
workdir/metrics.jsonl      and tensorboard/: see `metrics`
workdir/samples/           pictures
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from pusa_jax.devices import processes

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a workdir."""


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it; the lock ends with the process.

    Raises:
      ValueError: another run uses the folder.
      OSError: it cannot be made or written.
    """
    if not processes.is_first():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{workdir} is in use by another run ({file.read().strip()}); choose another "
                "--workdir or stop that run."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


class StopRequest:
    """Notes a SIGTERM, as sent before a preemption, instead of dying of it.

    Of several processes any may be told; jax listens for them and finds a step that none is past.
    """

    def __init__(self):
        """Notes nothing yet: enter it."""
        self._is_set = False

    def __enter__(self) -> "StopRequest":
        """Takes over the signal."""
        self._before = signal.getsignal(signal.SIGTERM)
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        """Gives it back."""
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_) -> None:
        self._is_set = True

    def reached(self, step: int) -> bool:
        """Whether to stop behind this step; all processes get the same answer."""
        if jax.process_count() == 1:
            return self._is_set
        return multihost_utils.reached_preemption_sync_point(step)


def git_commit() -> str:
    """Commit of the code that runs, with "+" if it was changed since; empty if there is none."""

    def git(*arguments):
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    with contextlib.suppress(OSError):
        commit = git("rev-parse", "HEAD")
        return commit + "+" * bool(commit and git("status", "--porcelain", "--untracked-files=no"))
    return ""
