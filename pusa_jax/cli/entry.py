"""Where the process `pusa-jax` begins: Ctrl-C ends it in one line from its very first import.

The command itself handles signals once it runs (`signals`); reading its modules takes a while
before, so nothing of them is imported at the top.
"""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Runs the command line of the process and returns its exit code."""
    given = signal.getsignal(signal.SIGINT)
    if given is signal.default_int_handler:  # one that is ignored, as by nohup, stays so
        signal.signal(signal.SIGINT, _leave)
    from pusa_jax.cli.main import main

    signal.signal(signal.SIGINT, given)
    return main()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("pusa-jax: interrupted.\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
