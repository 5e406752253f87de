"""Starts a program as two processes that join each other."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TRIES = 3
"""Another process may take the port between its choice and its use."""

PATIENCE = 900
"""Seconds; half a minute is usual on two quiet cores, far more where others compile as well."""


def run_two(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path | None = None
) -> None:
    """Runs Python with `command` twice, in `folder`, and waits until both have ended well."""
    for attempt in range(TRIES):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        group = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        children = [
            subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=os.environ | environment | group | {"JAX_PROCESS_ID": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(2)
        ]
        try:
            texts = [child.communicate(timeout=PATIENCE)[0] for child in children]
        finally:
            for child in children:
                child.kill()
        if not any(child.returncode for child in children):
            return
        if attempt + 1 == TRIES or not any("already in use" in text for text in texts):
            raise AssertionError("\n".join(text[-3000:] for text in texts))
