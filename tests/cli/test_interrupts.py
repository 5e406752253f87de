"""Ctrl-C ends every command with 130 at every stage, once or twice, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.long

CLIP = "--prompt a --height 16 --width 16 --num_frames 5 --num_inference_steps 2"

CHILD = """
import os, signal, sys
from pusa_jax import progress
from pusa_jax.cli.main import main

wanted, times = sys.argv.pop(1), int(sys.argv.pop(1))
real = progress.Console.__call__

def told(console, stage, done, total, *note):
    real(console, stage, done, total, *note)
    if stage == wanted and not done:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

progress.Console.__call__ = told
sys.exit(main())
"""
"""The command, which interrupts itself where a stage begins."""


@pytest.mark.parametrize(
    ("stage", "times", "line"),
    [
        ("load", 1, f"t2v {CLIP}"),
        ("compile", 2, f"t2v {CLIP}"),
        ("decode", 1, f"t2v {CLIP}"),
        ("t2v", 1, "demo"),
    ],
)
def test_an_interrupted_command_ends_with_130_and_one_line(tmp_path, stage, times, line):
    words = [*line.split(), *(["--no_compilation_cache"] if "t2v" in line else [])]
    words += ["--output", str(tmp_path / ("x.mp4" if "t2v" in line else "demo"))]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, stage, str(times), *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("pusa-jax: interrupted.\n") and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.mp4")) and not list(tmp_path.rglob("*.tmp"))


NATIVE = """
import ctypes, sys
from pathlib import Path
from pusa_jax.cli import signals
from pusa_jax.files.atomic import replacing

signals.GRACE = float(sys.argv[2])
with signals.ending_tidily(for_good=True), replacing(Path(sys.argv[1])) as part:
    part.touch()
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("ready", flush=True)
    lock(mutex)
"""
"""Waits in native code for ever, as a compiler does for minutes; no signal makes it return."""


@pytest.mark.parametrize(
    ("name", "times", "grace"), [("SIGINT", 2, 100), ("SIGTERM", 2, 100), ("SIGINT", 1, 0.1)]
)
def test_native_code_is_ended_and_leaves_nothing_half_written(tmp_path, name, times, grace):
    number = getattr(signal, name)
    child = subprocess.Popen(
        [sys.executable, "-c", NATIVE, tmp_path / "a", str(grace)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for _ in range(times):
        os.kill(child.pid, number)
        time.sleep(0.2)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 128 + number and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


IMPORTING = """
import importlib.abc, os, signal, sys

name = sys.argv.pop(1)

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == name:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:  # as native code that an exception must not pass through
                os.abort()

sys.meta_path.insert(0, Interrupting())
from pusa_jax.cli.entry import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["pusa_jax.cli.main", "pusa_jax.cli.job", "jax"])
def test_an_interrupt_amid_an_import_is_one_line(module):
    words = ["t2v", "--prompt", "a", "--dry_run"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, module, *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (130, ["pusa-jax: interrupted."])
    assert "Traceback" not in done.stderr


TRAIN = """
import os, signal, sys
from pusa_jax.cli import train as command
from pusa_jax.cli.main import main

number, real = getattr(signal, sys.argv.pop(1)), command.train

def train(run, clips, workdir, on_step, **rest):
    def told(step, steps, record):
        on_step(step, steps, record)
        if step == 3:
            os.kill(os.getpid(), number)
    return real(run, clips, workdir, told, **rest)

command.train = train
sys.exit(main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGHUP", 0)])
def test_training_saves_before_it_ends(tmp_path, name, code):
    line = f"train --config=debug --workdir={tmp_path / 'run'} --config.samples.every=0"
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, name, *line.split(), "--config.log.tensorboard=False"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    (step,) = (int(one.name) for one in (tmp_path / "run" / "checkpoints").iterdir())
    assert step in (4, 5)  # the host is a step behind the devices
    assert f"stopped and saved at step {step}; the same command goes on" in done.stderr


def test_a_command_without_a_terminal_prints_a_line_per_stage_and_nothing_else(tmp_path):
    words = [*f"t2v {CLIP}".split(), "--output", str(tmp_path / "x.mp4"), "--no_compilation_cache"]
    done = subprocess.run(
        [sys.executable, "-m", "pusa_jax", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("pusa-jax: ")]
    stages = [line.partition(" ... ")[0] for line in lines]
    assert stages == ["load", "text", "compile", "denoise", "decode"], done.stderr


def test_nothing_else_is_read_before_ctrl_c_is_handled():
    lines = "import os, signal, sys; old = set(sys.modules); import pusa_jax.cli.entry"
    words = [sys.executable, "-c", f"{lines}; print(*set(sys.modules) - old)"]
    out = subprocess.run(words, capture_output=True, text=True).stdout
    assert set(out.split()) == {"pusa_jax", "pusa_jax.cli", "pusa_jax.cli.entry"}
