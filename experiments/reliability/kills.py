"""Kills commands at any moment: `python -m experiments.reliability.kills --count 25`.

Each life of a command ends by SIGKILL, SIGTERM, SIGHUP or SIGINT, in turn, at a moment drawn
between start and end. Behind each kill the result must be whole: the old one, the new one or none.
Behind the last the same command runs to its end: its result must be the one of a run that nobody
killed, and nothing else may lie beside it. Exit code 1 if that is not so.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reliability.subjects import content, make
from pusa_jax.cli.main import main
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.folders.manifest import damage
from pusa_jax.media import video

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["pusa_jax.cli.main", "pusa_jax.cli.train", "pusa_jax.data.encode", "pusa_jax.inference.jobs"]
)
"""Processes that have imported what they need, but have begun nothing: they differ in no other way
from those of a terminal, and start in a tenth of the time."""

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SIZE = ("--height", 32, "--width", 48, "--num_frames", 9, "--num_inference_steps", 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that makes something.

    Attributes:
      argv: command line, given what there is and the folder that it makes everything in.
      result: what it has made, to be compared; raises if it is torn, and gives None if there is
        none.
      has_old: whether an older result is there, which must not be lost.
      is_used_up: whether the result is removed before each life, or each goes on from the last.
    """

    argv: Callable[[dict[str, Path], Path], list[Any]]
    result: Callable[[Path], Any]
    has_old: bool = False
    is_used_up: bool = True


def _converted(folder: Path) -> Any:
    if not (folder / "new").exists():
        return None
    assert not damage(folder / "new"), damage(folder / "new")
    return content(folder / "new" / "vae").keys() and "whole"


def _exported(folder: Path) -> Any:
    if not (folder / "new").exists():
        return None
    for path in folder.rglob("*.pth"):  # they tell when they were written
        source = open_tensors(path)
        assert all(source.read(name).nbytes for name in source.tensors)
    return {name: s for name, s in content(folder / "new").items() if not name.endswith(".pth")}


def _video(folder: Path) -> Any:
    if not (folder / "a.mp4").exists():
        return None
    video.read_video(folder / "a.mp4", 9)
    return video.read_metadata(folder / "a.mp4")["latents_sha256"]


def _dataset(folder: Path) -> Any:
    if not (folder / "new" / "dataset_info.json").exists():
        return None
    from pusa_jax.data.encoded import EncodedClips

    clips = EncodedClips(folder / "new")
    clips.check()
    return [hashlib.sha256(clips.example(i).latents.tobytes()).hexdigest() for i in range(3)]


def _run(folder: Path) -> Any:
    from pusa_jax.training.checkpoints import RunCheckpoints

    if not (folder / "new" / "checkpoints").exists():
        return None
    checkpoints = RunCheckpoints(folder / "new" / "checkpoints", keep_last=0)
    for step in checkpoints.steps:
        leaves = dict(checkpoints.restore_leaves(step, "params"))
    if not checkpoints.steps or checkpoints.steps[-1] < 30:
        return None
    return {path: hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in leaves.items()}


def _batch(folder: Path) -> Any:
    found = {
        path.stem: video.read_metadata(path)["latents_sha256"] for path in folder.glob("*/*.mp4")
    }
    for path in folder.glob("*/*.mp4"):
        video.video_length(path)
    return found if len(found) >= 8 else None


def _prompts(made: dict[str, Path]) -> Path:
    path = made["published"].with_name("prompts.txt")
    path.write_text("a dog\na cat\na cow\na hen\n")
    return path


def _listed(folder: Path) -> Any:
    """What a batch has made; none may be made twice, and no result be told of that is not there."""
    path = folder / "new" / "manifest.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may tear the last
    names = [entry["id"] for entry in entries]
    assert len({*names}) == len(names), names
    assert not any("error" in entry for entry in entries), entries
    found = {}
    for entry in entries:
        clip = folder / "new" / entry["output"]
        video.read_video(clip, 9)
        found[entry["id"]] = video.read_metadata(clip)["latents_sha256"]
    return found if len(found) == 4 else None


CASES = {
    "convert": Case(
        lambda made, out: ["convert", "--src", made["published"], "--dst", out / "new",
                           "--overwrite"],
        _converted, has_old=True,
    ),
    "export": Case(
        lambda made, out: ["export", "--src", made["published"], "--dst", out / "new"], _exported
    ),
    "t2v": Case(
        lambda made, out: ["t2v", "--model", made["published"], "--prompt", "a dog", *SIZE,
                           "--output", out / "a.mp4"],
        _video,
    ),
    "encode": Case(
        lambda made, out: ["encode", "--model", made["published"], "--src",
                           made["published"].with_name("clips"), "--dst", out / "new",
                           "--height", 32, "--width", 48, "--num_frames", 9],
        _dataset, is_used_up=False,
    ),
    "train": Case(
        lambda made, out: ["train", "--config=debug", f"--workdir={out / 'new'}",
                           "--config.steps=30", "--config.checkpoint.every=1",
                           "--config.samples.every=0"],
        _run, is_used_up=False,
    ),
    "batch": Case(
        lambda made, out: ["batch", "--prompts", _prompts(made), "--model", made["published"],
                           *SIZE, "--output", out / "new"],
        _listed, is_used_up=False,
    ),
    "demo": Case(lambda made, out: ["demo", "--output", out / "new"], _batch),
}  # fmt: skip


def hear_signals() -> None:
    """Lets this process and those it starts hear signals that whoever started it has ignored.

    A shell ignores Ctrl-C for what runs in its background, and nohup hang-ups; a command would
    rightly do the same.
    """
    for number in SIGNALS[1:]:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def live(argv: list[str]) -> None:
    """Runs a command line as a process does."""
    hear_signals()
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    sys.argv[1:] = argv
    sys.exit(main())


def beside(folder: Path) -> list[str]:
    """What lies in a folder that no command means to leave."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if (path.name.endswith((".tmp", ".part", ".lock")) and path.name != ".lock")
        or "orbax-checkpoint-tmp" in path.name or path.name == "unfinished"
    )  # fmt: skip


def run(case: Case, made: dict[str, Path], folder: Path, count: int, seed: int) -> list[str]:
    """Kills a command so many times; returns what was wrong."""
    rng, faults = np.random.default_rng(seed), []
    out = folder / "out"
    out.mkdir()
    argv = [*map(str, case.argv(made, out))]

    def start() -> BaseProcess:
        child = PROCESSES.Process(target=live, args=(argv,))
        child.start()
        return child

    def ended_well() -> bool:
        child = start()
        child.join()
        return child.exitcode == 0

    since = time.perf_counter()
    assert ended_well(), argv
    length, whole = time.perf_counter() - since, case.result(out)
    assert whole is not None
    if not case.has_old:
        shutil.rmtree(out)
        out.mkdir()
    killed = 0
    while killed < count:
        number = SIGNALS[killed % len(SIGNALS)]
        child = start()
        child.join(rng.uniform(0, 1) * length)
        if child.exitcode is not None:  # it was faster than before: nothing was killed
            if not case.has_old:
                shutil.rmtree(out)
                out.mkdir()
            length *= 0.9
            continue
        assert child.pid is not None
        os.kill(child.pid, number)
        child.join()
        killed += 1
        try:
            found = case.result(out)
        except (ValueError, OSError, AssertionError) as error:
            faults.append(f"torn by {number.name}: {error}")
            continue
        if found is None and case.has_old:
            faults.append(f"lost by {number.name}")
        if found is not None and found != whole:
            faults.append(f"another result by {number.name}")
        left = [name for name in beside(out) if f"-{child.pid}-" in name]
        if number != signal.SIGKILL and left:
            faults.append(f"left by {number.name}: {left}")
    if not ended_well():
        faults.append("the same command does not go on")
    elif case.result(out) != whole:
        faults.append("the same command makes something else")
    if left := beside(out):
        faults.append(f"left behind the next run: {left}")
    return faults


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=25, help="kills per command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], choices=CASES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        top, all_faults = Path(name), 0
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(top / "programs")
        made = make(top / "made")
        print("| command | kills | faults |\n|---|---|---|")
        for case in args.only or CASES:
            (top / case).mkdir()
            faults = run(CASES[case], made, top / case, args.count, args.seed)
            for fault in faults:
                print(f"  {case}: {fault}", flush=True)
            print(f"| {case} | {args.count} | {len(faults)} |", flush=True)
            all_faults += len(faults)
        return int(all_faults > 0)


if __name__ == "__main__":
    raise SystemExit(cli())
