"""Mutation tests: breaks the code in one place, runs the tests that answer for it, and repeats.

    python tests/mutants --room pusa_jax/diffusion/flow.py --sample 100

cosmic-ray makes the mutants. The rest of its machinery does not serve here: a session has one test
command where rooms.toml has one per file, and it breaks the working tree itself where this breaks
copies. mutmut leaves out decorated functions and what stands outside of functions, as the tables of
convert/ do, and by default starts pytest twice in a process, which jaxtyping refuses.

Every result is kept under runs/mutants with a hash of the mutant and of its tests: a run goes on
where it was interrupted, and a mutant is tried again when its file or its tests change.
"""

import argparse
import hashlib
import json
import os
import queue
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import tqdm
from making import Mutant, mutants_by_hand, mutants_of
from rooms import ROOT, equivalents, rooms
from warm import tests_pass

PATIENCE = 5  # a mutant may take this many times as long as the original before it counts as hung
KEPT = ROOT / "runs" / "mutants"
Make = Callable[[str], Iterable[Mutant]]


def copy_tree(target: Path) -> Path:
    """The files that git knows or would add, with their times, so that mutants can break them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # a link to a folder as well
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def survives(tree: Path, file: str, code: str, limit: float | None) -> bool:
    """Whether all tests of the file pass in a copy where it has this code; hanging is failing."""
    tests = [*rooms()[file], "--golden-dir", "tests/golden"]
    arguments = ["-q", "-x", "-n", "0", "--no-header", *tests]
    original, times = (tree / file).read_bytes(), (tree / file).stat().st_mtime
    (tree / file).write_text(code)
    # Bytecode is known by the time of its source: no mutant may be run by that of another.
    stamp = int(hashlib.sha256(code.encode()).hexdigest()[:7], 16)
    os.utime(tree / file, (stamp, stamp))
    try:
        return tests_pass(tree, arguments, limit)
    finally:
        (tree / file).write_bytes(original)
        os.utime(tree / file, (times, times))


def key_of(mutant: Mutant) -> str:
    """Names a mutant by what it is and by the tests that it is tried with."""
    tests = rooms()[mutant.file]
    texts = [(ROOT / f).read_text() for f in sorted({t.partition("::")[0] for t in tests})]
    return hashlib.sha256(
        "\0".join([mutant.file, mutant.code, *tests, *texts]).encode()
    ).hexdigest()


def chosen(room: str | None, sample: int | None, seed: int, make: Make) -> dict[str, Mutant]:
    """The mutants that `make` makes of a room, or of all, or a sample of them, by their keys.

    Raises:
      SystemExit: there is no such room.
    """
    if room is not None and room not in rooms():
        raise SystemExit(
            f"{room} is not in tests/mutants/rooms.toml, which has {', '.join(rooms())}."
        )
    every = [m for file in ([room] if room else rooms()) for m in make(file)]
    if sample is not None:  # shuffled first, so that a larger sample holds the smaller one
        every = random.Random(seed).sample(every, len(every))[:sample]
    return {key_of(m): m for m in every}


def try_all(mutants: dict[str, Mutant], known: dict[str, bool], workers: int) -> None:
    """Adds to the known results, in memory and on disk, those of the mutants that lack one.

    Raises:
      SystemExit: the tests of a file fail without a mutant.
    """
    left = {key: m for key, m in mutants.items() if key not in known}
    with (
        tempfile.TemporaryDirectory() as folder,
        (KEPT / "results.jsonl").open("a") as results,
        ThreadPoolExecutor(workers) as pool,
    ):
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for n in range(workers):
            trees.put(copy_tree(Path(folder) / str(n)))

        def outcome(file: str, code: str, limit: float | None) -> bool:
            tree = trees.get()
            try:
                return survives(tree, file, code, limit)
            finally:
                trees.put(tree)

        limits = {}
        for file in tqdm.tqdm(
            sorted({m.file for m in left.values()}), "unbroken", disable=not left
        ):
            start = time.perf_counter()
            if not outcome(file, (ROOT / file).read_text(), None):
                raise SystemExit(f"the tests of {file} fail without a mutant: {rooms()[file]}")
            limits[file] = PATIENCE * (time.perf_counter() - start)
        running = {
            pool.submit(outcome, m.file, m.code, limits[m.file]): key for key, m in left.items()
        }
        try:
            for done in tqdm.tqdm(as_completed(running), "mutants", len(left), disable=not left):
                known[running[done]] = done.result()
                record = {"key": running[done], "survived": done.result()}
                print(json.dumps(record), file=results, flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def report(mutants: dict[str, Mutant], known: dict[str, bool]) -> None:
    """Prints the survivors with what they change, and the share of killed mutants per file."""
    same = {(e["file"], e["line"], e["mutant"]) for e in equivalents()}
    counted = {k: m for k, m in mutants.items() if (m.file, m.line, m.changed) not in same}
    for m in (m for key, m in counted.items() if known[key]):
        print(f"survived: {m.file}:{m.number}\n  - {m.line}\n  + {m.changed}")
    for file in dict.fromkeys(m.file for m in counted.values()):
        print(f"{file}: {share([known[key] for key, m in counted.items() if m.file == file])}")
    print(f"all: {share([known[key] for key in counted])}")
    print(f"not counted: {len(mutants) - len(counted)} known to be equivalent")


def share(survived: list[bool]) -> str:
    """How many were killed, as a count and in percent."""
    killed = survived.count(False)
    return f"killed {killed} of {len(survived)}, {100 * killed / max(1, len(survived)):.1f} %"


def main() -> None:
    """Reads the command line, tries what has no result yet, and reports."""
    parser = argparse.ArgumentParser(
        description="Mutation tests; tests/mutants/rooms.toml says of what."
    )
    parser.add_argument("--room", help="one file of rooms.toml; all when left out")
    parser.add_argument(
        "--sample", type=int, help="try this many of the mutants; all when left out"
    )
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument(
        "--by-hand", action="store_true", help="those of by_hand.toml in place of the operators'"
    )
    parser.add_argument("--workers", type=int, default=2, help="mutants tried at the same time")
    args = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(KEPT / "programs"),
        "JAX_PLATFORMS": "cpu",
    }
    (KEPT / "results.jsonl").touch()
    make = mutants_by_hand if args.by_hand else mutants_of
    mutants = chosen(args.room, args.sample, args.seed, make)
    lines = (KEPT / "results.jsonl").read_text().splitlines()
    known = {r["key"]: r["survived"] for r in map(json.loads, lines)}
    try_all(mutants, known, args.workers)
    report(mutants, known)


if __name__ == "__main__":
    main()
