"""Runs commands on a disk that gets full: `python -m experiments.reliability.full_disk`.

DIR is the root of a small file system that is not used otherwise, as made by
`mount -t tmpfs -o size=16m tmpfs DIR`. Each command runs with less and less room; it must end with
one line that names a file or folder there, leave the results of before as they were, leave nothing
of its own, and work once there is room again.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

from experiments.reliability.damage import called
from experiments.reliability.kills import CASES, beside
from experiments.reliability.subjects import content, make

STEP = 2**12
"""Bytes that are written at once to fill the disk."""


def fill(file: Path, free: int) -> None:
    """Writes a file so large that only so many bytes are free."""
    with file.open("wb") as out:
        while shutil.disk_usage(file.parent).free > free + STEP:
            out.write(bytes(STEP))
            out.flush()


def run(place: Path, made: dict[str, Path], name: str, shares: list[float]) -> list[str]:
    """Tries one command with each share of the room that it needs; returns what was wrong."""
    case, faults = CASES[name], []
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "out").mkdir()
    before = shutil.disk_usage(place).used
    argv = case.argv(made, place / "out")
    outcome = called(argv)
    assert outcome.code == 0, outcome.err
    whole, needed = case.result(place / "out"), shutil.disk_usage(place).used - before
    for share in shares:
        if not case.has_old:
            shutil.rmtree(place / "out")
            (place / "out").mkdir()
        gc.collect()  # open files keep their room
        old = content(place / "out")
        fill(place / "filling", int(needed * share))
        outcome = called(argv)
        lines = [line for line in outcome.err.splitlines() if line.startswith("pusa-jax: ")]
        what = f"{share:.0%} of {needed} bytes"
        if outcome.code != 2 or len(lines) != 1:
            faults.append(f"{what}: exit code {outcome.code}, {outcome.err[-400:]!r}")
        elif str(place) not in lines[0] or "shows where" in lines[0]:
            faults.append(f"{what}: names no file: {lines[0]}")
        if old != {path: s for path, s in content(place / "out").items() if path in old}:
            faults.append(f"{what}: what was there before has changed")
        if case.is_used_up and (left := beside(place / "out")):
            faults.append(f"{what}: left {left}")
        (place / "filling").unlink()
        if called(argv).code != 0 or case.result(place / "out") != whole:
            faults.append(f"{what}: the same command does not go on")
    return faults


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], choices=CASES)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.3, 0.7])
    args = parser.parse_args()
    if shutil.disk_usage(args.place).total > 2**28:
        sys.exit(f"{args.place} is no small file system: it would take long to fill.")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "programs")
        made, all_faults = make(Path(folder) / "made"), 0
        print("| command | fill levels | faults |\n|---|---|---|")
        for name in args.only or CASES:
            faults = run(args.place, made, name, args.shares)
            for fault in faults:
                print(f"  {name}: {fault}", flush=True)
            print(f"| {name} | {len(args.shares)} | {len(faults)} |", flush=True)
            all_faults += len(faults)
        shutil.rmtree(args.place / "out")
    return int(all_faults > 0)


if __name__ == "__main__":
    raise SystemExit(cli())
