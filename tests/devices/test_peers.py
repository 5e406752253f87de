"""Processes of a group end together: with what one tells, or with the name of one that died."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pusa_jax.devices import peers

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, signal, sys, time
import jax
from pusa_jax.devices import peers

def end(line):
    print(line, flush=True)
    os._exit(2)

peers.HEARTBEAT, peers.LATENCY, peers.GRACE = 4, 0.5, 6.0
index, event = int(os.environ["JAX_PROCESS_ID"]), sys.argv[1]
try:
    peers.join(end)
    if event != "differ":  # before anybody can die
        peers.advise(lambda: " Go on.")
    peers.agree({"seed": 7, "size": index if event == "differ" and index else 0})
    if event == f"die{index}":
        os.kill(os.getpid(), signal.SIGKILL)
    if event == f"fail{index}":
        raise ValueError("no such file")
    if event == "end":
        print(peers.from_first(lambda: f"made by {index}"), flush=True)
    if event.startswith("end"):
        peers.part()
        print("done", flush=True)
        sys.exit(0)
    time.sleep(60)
except (ValueError, jax.errors.JaxRuntimeError) as error:  # as commands do, of the runtime too
    peers.tell(str(error), error)
    end(error)
"""


def group(event, counts=(3, 3, 3)):
    """Exit codes and last lines of processes that were each told of so many."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    own = {"JAX_COORDINATOR_ADDRESS": address, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, event],
            env=os.environ | own | {"JAX_NUM_PROCESSES": str(n), "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, n in enumerate(counts)
    ]
    try:
        texts = [child.communicate(timeout=120)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], [text.strip() for text in texts]


def test_all_end_with_the_difference_and_its_process():
    codes, texts = group("differ")
    assert codes == [2, 2, 2]
    assert len(set(texts)) == 1
    assert "process 1 of 3 on" in texts[0] and "differs from process 0 in size (1; proc" in texts[0]
    assert "so do 1 others" in texts[0]


def test_all_end_with_the_error_of_one():
    codes, texts = group("fail1")
    assert codes == [2, 2, 2] and texts[1] == "no such file"
    for index in (0, 2):
        assert texts[index].startswith("process 1 of 3 on")
        assert texts[index].endswith(": no such file Go on.")


@pytest.mark.parametrize("dead", [0, 2])
def test_one_that_died_is_named(dead):
    codes, texts = group(f"die{dead}")
    assert codes.pop(dead) == -9
    assert codes == [2, 2]
    del texts[dead]
    for text in texts:
        assert text.startswith(f"process {dead} of 3 on")
        assert text.endswith("has died or cannot be reached. Go on.")


def test_other_numbers_of_processes_are_told():
    codes, texts = group("any", (2, 3))
    assert codes == [2, 2]
    assert all("was told of 3 processes, process 0 of 2" in text for text in texts)


def test_they_part_when_all_have_come_to_the_end():
    assert group("end", (2, 2)) == ([0, 0], ["made by 0\ndone"] * 2)


def test_alone_there_is_nobody_to_agree_with():
    peers.agree({"seed": 1})
    peers.tell("an error")
    peers.part()
    assert peers.is_first()
