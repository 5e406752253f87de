"""Runs tests in processes that begin with the libraries loaded, else most of a short run."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from rooms import ROOT

LIBRARIES = """pytest xdist hypothesis.strategies beartype.door jaxtyping flax.nnx optax
orbax.checkpoint safetensors.numpy ml_collections torch"""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES.split())


def _is_of_the_checkout(path: Path) -> bool:
    """Whether the unbroken code may be found there; `make mutants` has its environment inside."""
    return path.is_relative_to(ROOT) and not path.is_relative_to(sys.prefix)


def _test(tree: Path, arguments: list[str]) -> None:
    """pytest in a copy of the tree, as a process of its own would start it there."""
    os.setsid()
    os.chdir(tree)
    sys.path[:] = [p for p in sys.path if not _is_of_the_checkout(Path(p or ".").resolve())]
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)

    import pytest

    os._exit(int(pytest.main(arguments)))


def tests_pass(tree: Path, arguments: list[str], limit: float | None) -> bool:
    """Whether pytest ends well in the tree within a limit of seconds; hanging is failing."""
    run = SERVER.Process(target=_test, args=(tree, arguments))
    run.start()
    run.join(limit)
    if run.exitcode is None:
        os.killpg(run.pid, signal.SIGKILL)  # children of a hung test end with it
        run.join()
    return run.exitcode == 0
