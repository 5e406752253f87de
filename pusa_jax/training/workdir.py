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
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from pusa_jax.devices import processes
from pusa_jax.files import locks

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a workdir."""

SAMPLES = "samples"
"""Folder of the pictures."""

SHOWN = ("t2v", "i2v")
"""Tasks of the pictures."""


def picture_path(folder: Path, task: str, step: int) -> Path:
    """The picture of a task at a step."""
    return folder / f"{task}-{step:06}.png"


def all_drawn(folder: Path, step: int) -> bool:
    """Whether all pictures of a step are there."""
    return all(picture_path(folder, task, step).is_file() for task in SHOWN)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it; the lock ends with the process.

    Raises:
      ValueError: another run uses the folder.
      OSError: it cannot be made or written, or is no longer where it was; says so then.
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
        try:
            yield
        except OSError as error:
            if locks.is_at(file.fileno(), workdir / ".lock"):
                raise
            for made in (workdir / CHECKPOINTS, workdir):  # by what was being saved, and is empty
                with contextlib.suppress(OSError):
                    made.rmdir()
            raise FileNotFoundError(
                f"{workdir} was moved or removed while this run was using it; move it back, or "
                "give its new place as --workdir: the same command goes on from the newest "
                "checkpoint."
            ) from error


class StopRequest:
    """Notes a signal that would end the run, as before a preemption, instead of dying of it.

    That is SIGTERM, SIGHUP or Ctrl-C; a second one ends the run as if this were not here. Of
    several processes any may be told; jax listens for SIGTERM, as which the others are passed on,
    and finds a step that none is past.

    Attributes:
      number: of the signal; 0 for none, and where another process was told.
    """

    NOTED = tuple(
        getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
    )

    def __init__(self, on_request: Callable[[int], None] = lambda number: None):
        """Notes nothing yet: enter it.

        Args:
          on_request: told the number of the first signal.
        """
        self.number, self._on_request = 0, on_request
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Takes over the signals, all but those that are ignored."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            is_alone = jax.process_count() == 1
            noted = [n for n in self.NOTED if is_alone or n != signal.SIGTERM]
            found = {number: signal.getsignal(number) for number in noted}
            self._before = {n: one for n, one in found.items() if one is not signal.SIG_IGN}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            self.__exit__()
            signal.raise_signal(number)
            return
        self.number = number
        self._on_request(number)
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Whether to stop behind this step; all processes get the same answer."""
        if jax.process_count() == 1:
            return bool(self.number)
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
