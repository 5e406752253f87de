"""Groups of processes that disagree, fail or die: `python -m experiments.reliability.groups`.

Every process must end by itself within 30 seconds of what happens, with exit code 2 and one line
that names the difference, the error or the dead process; processes that differ must not begin to
work. Exit code 1 if that is not so.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.reliability.kills import hear_signals
from pusa_jax.demo import shipped
from pusa_jax.media.pictures import write_png

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30.0
"""Seconds in which all must be told."""

T2V = (
    "t2v", "--prompt", "a red circle moves right on black", "--num_inference_steps", "2",
    "--num_frames", "5", "--mesh", "data=2", "--output", "a.mp4",
)  # fmt: skip
I2V = ("i2v", "--image_paths", "a.png", *T2V[1:])
TRAIN = (
    "train", "--config=c.py", "--workdir=../run", "--config.steps=400", "--config.log.every=1",
    "--config.samples.every=0", "--config.checkpoint.every=2",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way in which a group comes to its end.

    Attributes:
      name: in words.
      line: command line of all.
      other: what the last process has instead; words are put behind `line` if they are flags.
      prepare: done to the folder of the last process.
      environment: variables of the last process.
      until: word on the terminal of the first at which the signal is sent; empty for none.
      number: of the signal.
      to: process that gets it.
      said: words that every line must have.
      codes: exit codes of those that live.
      count: of processes.
    """

    name: str
    said: Sequence[str]
    line: Sequence[str] = T2V
    other: Sequence[str] = ()
    prepare: Callable[[Path], object] = lambda folder: None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    until: str = ""
    number: int = signal.SIGKILL
    to: int = 1
    codes: Sequence[int] = (2,)
    count: int = 2


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)


def _other_code(folder: Path) -> None:
    shutil.copytree(ROOT / "pusa_jax", folder / "code" / "pusa_jax")
    (folder / "code" / "pusa_jax" / "typing.py").open("a").write("\n# other\n")


DEADLY = (signal.SIGKILL, signal.SIGSTOP)
DIED = ("has died or cannot be reached",)
WAYS = (
    Way(name="another prompt", other=("--prompt", "a blue square"), said=["--prompt"]),
    Way(name="another seed", other=("--seed", "3"), said=["--seed", "process 1 of 2"]),
    Way(name="another guidance", other=("--cfg_scale", "1.5"), said=["--cfg_scale"]),
    Way(name="other steps", other=("--num_inference_steps", "3"), said=["--num_inference_steps"]),
    Way(name="an unknown flag", other=("--sead", "3"), said=["--sead"]),
    Way(name="a flag of a wrong kind", line=(*T2V, "--seed", "x"), said=["--seed"]),
    Way(name="another task", other=("loop", *I2V[1:]), said=["command (loop; process 0: t2v)"]),
    Way(name="another command", other=TRAIN, said=["command (train; process 0: t2v)"]),
    Way(
        name="an output that one cannot write", line=(*T2V, "--output", "out/a.mp4"),
        prepare=lambda folder: (folder / "out").write_text(""), said=["out", "not a folder"],
    ),
    Way(
        name="an input that one lacks", line=I2V,
        prepare=lambda folder: (folder / "a.png").unlink(), said=["a.png"],
    ),
    Way(
        name="another input", line=I2V, said=["sha256.a.png"],
        prepare=lambda folder: write_png(folder / "a.png", np.zeros((48, 48, 3), np.uint8)),
    ),
    Way(
        name="another LoRA", line=(*T2V, "--lora_path", "lora.safetensors"),
        prepare=lambda folder: _flip(folder / "lora.safetensors"), said=["lora.safetensors"],
    ),
    Way(
        name="a model that one lacks", line=(*T2V, "--model", "model"),
        prepare=lambda folder: shutil.rmtree(folder / "model"), said=["model"],
    ),
    Way(
        name="another model", line=(*T2V, "--model", "model"),
        prepare=lambda folder: _flip(folder / "model" / "diffusion_pytorch_model.safetensors"),
        said=["files of the model"],
    ),
    Way(name="other code", prepare=_other_code, environment={"PYTHONPATH": "code"},
        said=["version of pusa_jax"]),
    Way(name="another platform", environment={"JAX_PLATFORMS": "cpu,"}, said=["JAX_PLATFORMS"]),
    Way(name="another number of processes", environment={"JAX_NUM_PROCESSES": "3"},
        said=["was told of 3 processes"]),
    Way(name="kill -9 while loading", until="load", said=["process 1 of 2", *DIED]),
    Way(name="kill -9 of the first", until="load", to=0, said=["process 0 of 2", *DIED]),
    Way(name="kill -9 while compiling", until="Gloo", said=["process 1 of 2", *DIED]),
    Way(name="kill -9 of one of three", until="load", count=3, to=1,
        line=(*T2V, "--mesh", "context=3"), said=["process 1 of 3", *DIED]),
    Way(name="stopped for ever", until="load", number=signal.SIGSTOP,
        said=["process 1 of 2", *DIED]),
    Way(name="SIGTERM to one", until="load", number=signal.SIGTERM, said=["ended by SIGTERM"],
        codes=(2, 143)),
    Way(name="Ctrl-C to one", until="load", number=signal.SIGINT, said=["interrupted"],
        codes=(2, 130)),
    Way(name="training: another learning rate", line=TRAIN,
        other=("--config.optimizer.learning_rate=0.1",), said=["--config.optimizer.learning_rate"]),
    Way(
        name="training: another config file", line=TRAIN, said=["seed"],
        prepare=lambda folder: (folder / "c.py").open("a").write(
            "\nold = get_config\n\n\ndef get_config():\n    config = old()\n    config.seed = 8\n"
            "    return config\n"
        ),
    ),
    Way(
        name="training: a workdir that is not shared", line=(*TRAIN, "--workdir=run"),
        prepare=lambda folder: (folder / "run" / "checkpoints" / "4").mkdir(parents=True),
        said=["checkpoints in the workdir"],
    ),
    Way(name="training: kill -9", line=TRAIN, until="step 4 is saved",
        said=["process 1 of 2", *DIED, "is of step", "the same command goes on"]),
    Way(name="training: kill -9 of the first", line=TRAIN, until="step 4 is saved", to=0,
        said=["process 0 of 2", *DIED, "is of step", "the same command goes on"]),
    Way(name="training: Ctrl-C to one", line=TRAIN, until="step 4 is saved", number=signal.SIGINT,
        said=["stopped and saved"], codes=(0, 130)),
    Way(name="training: SIGTERM to one", line=TRAIN, until="step 4 is saved",
        number=signal.SIGTERM, said=["stopped and saved"], codes=(0,)),
)  # fmt: skip


def prepare_folder(folder: Path) -> None:
    """What a process of a group finds where it runs."""
    folder.mkdir()
    write_png(folder / "a.png", np.full((48, 48, 3), 90, np.uint8))
    shutil.copytree(shipped.FOLDER, folder / "model")
    shutil.copy(shipped.LORA[0], folder / "lora.safetensors")
    shutil.copy(ROOT / "configs" / "debug.py", folder / "c.py")


@dataclasses.dataclass
class Ended:
    """How a process ended: its exit code, what it said, and how long after what happened."""

    code: int
    text: str
    seconds: float


def run(way: Way, top: Path) -> list[Ended]:
    """Runs a group to its end; what lives on beyond the limit is killed, with code -9."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    children, files = [], []
    for index in range(way.count):
        folder, is_last = top / str(index), index == way.count - 1
        prepare_folder(folder)
        line = list(way.line)
        if is_last and way.other:
            line = [*(line if way.other[0].startswith("-") else ()), *way.other]
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(way.count),
            "JAX_PROCESS_ID": str(index), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        if is_last:
            way.prepare(folder)
            environment |= way.environment
        files.append(folder / "said")
        children.append(
            subprocess.Popen(
                [sys.executable, "-m", "pusa_jax", *line], cwd=folder, env=environment,
                stdout=files[-1].open("w"), stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    if way.until:
        while way.until not in files[0].read_text() and children[0].poll() is None:
            time.sleep(0.05)
        children[way.to].send_signal(way.number)
    since, found = time.monotonic(), dict[int, float]()
    lives = [i for i in range(way.count) if way.number != signal.SIGSTOP or i != way.to]
    while len(found) < len(lives) and time.monotonic() - since < 2 * LIMIT:
        for i in lives:
            if i not in found and children[i].poll() is not None:
                found[i] = time.monotonic() - since
        time.sleep(0.02)
    for child in children:
        child.kill()
        child.wait()
    return [
        Ended(child.returncode, file.read_text(), found.get(i, 2 * LIMIT))
        for i, (child, file) in enumerate(zip(children, files, strict=True))
    ]


def faults(way: Way, ended: Sequence[Ended]) -> list[str]:
    """What was wrong with the end of a group, in words."""
    found = []
    died = way.until and way.number in DEADLY
    for index, one in enumerate(ended):
        if died and index == way.to:
            continue
        lines = [line for line in one.text.splitlines() if line.startswith("pusa-jax")]
        said = [line for line in lines if "error" in line or "interrupted" in line
                or "ended by" in line]  # fmt: skip
        if one.code not in way.codes:
            found.append(f"process {index}: exit code {one.code}")
        if one.seconds > LIMIT:
            found.append(f"process {index}: {one.seconds:.0f} s")
        if "Traceback" in one.text or "@ 0x" in one.text or "0x7" in one.text:
            found.append(f"process {index}: {one.text[-500:]!r}")
        if 0 not in way.codes and len(said) != 1:
            found.append(f"process {index} says {len(said)} lines: {one.text[-500:]!r}")
    everything = " ".join(one.text for one in ended)
    found += [f"nobody says {word!r}" for word in way.said if word not in everything]
    return found


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="part of a name")
    args = parser.parse_args()
    hear_signals()
    all_faults, slowest = 0, 0.0
    print("| way | told within | faults |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as programs:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
        for way in WAYS:
            if args.only and not any(part in way.name for part in args.only):
                continue
            with tempfile.TemporaryDirectory() as folder:
                ended = run(way, Path(folder))
            wrong = faults(way, ended)
            all_faults += bool(wrong)
            died = {way.to} if way.until and way.number in DEADLY else set()
            seconds = max(one.seconds for i, one in enumerate(ended) if i not in died)
            slowest = max(slowest, seconds)
            print(f"| {way.name} | {seconds:.1f} s | {len(wrong)} |", flush=True)
            for fault in wrong:
                print(f"  {way.name}: {fault}", flush=True)
            if os.environ.get("SHOW"):
                print(json.dumps([one.text[-400:] for one in ended], indent=1), flush=True)
    print(f"slowest: {slowest:.1f} s; ways with faults: {all_faults}")
    return int(all_faults > 0)


if __name__ == "__main__":
    raise SystemExit(cli())
