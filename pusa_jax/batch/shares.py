"""Who makes which job: each process begins with its own share and goes on with what is left.

A job at work is locked by a file that the system lets go of when its process ends, however it ends:
what a dead process has left is free at once on one machine, and on a network file system as soon
as that has noticed.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pusa_jax.files import locks

T = TypeVar("T")

LOCKS = ".jobs"
"""Folder of the lock files, in that of the batch."""


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of a share written as i/n, i from 1.

    Raises:
      ValueError: it is not written so.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= i <= n:
        raise ValueError(f"a share is written as 1/4, the first of four; got {text!r:.40}.")
    return i, n


def share_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """(i, n) of this process among those started together, as the environment tells."""
    pairs = [
        ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ]
    for index, count in pairs:
        i, n = environment.get(index, ""), environment.get(count, "")
        if i.isdecimal() and n.isdecimal() and int(i) < int(n) and int(n) > 1:
            return int(i) + 1, int(n)
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    worker = environment.get("TPU_WORKER_ID", "")
    if "," in hosts and worker.isdecimal():
        return int(worker) + 1, len(hosts.split(","))
    return 1, 1


def in_turn(jobs: Sequence[T], share: tuple[int, int]) -> tuple[list[T], list[T]]:
    """The jobs that a process begins with, and those that it makes if nobody else does."""
    i, n = share
    own = [job for k, job in enumerate(jobs) if k % n == i - 1]
    # From the end: of two processes that have nothing left, one meets the other late.
    return own, [job for k, job in reversed([*enumerate(jobs)]) if k % n != i - 1]


@contextlib.contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether a job is ours meanwhile, and no other process is at it."""
    path = folder / LOCKS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        is_ours = locks.take(file.fileno()) is not False and locks.is_at(file.fileno(), path)
        try:
            yield is_ours
        finally:
            if is_ours:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # others are at work
                    os.rmdir(path.parent)


def tidy(folder: Path) -> None:
    """Removes the lock files that killed processes have left."""
    for path in [*(folder / LOCKS).glob("*")]:
        with claimed(folder, path.name):
            pass


@contextlib.contextmanager
def claimed_all(folder: Path, names: Sequence[str]) -> Iterator[set[str]]:
    """Those of several jobs that are ours meanwhile."""
    with contextlib.ExitStack() as stack:
        yield {name for name in names if stack.enter_context(claimed(folder, name))}
