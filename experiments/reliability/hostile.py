"""Damages our files and runs what reads them: `python -m experiments.reliability.hostile`.

Prints a row per kind of file: how often it was damaged, how often that was told in one line, how
often it changed nothing, and what was wrong. Exit code 1 if anything was.
"""

import argparse
import collections
import shutil
import tempfile
from pathlib import Path

import numpy as np

from experiments.reliability.damage import called, drawn
from experiments.reliability.subjects import SUBJECTS, make
from pusa_jax.cli.printing import quiet_libraries


def run(top: Path, count: int, seed: int, names: list[str], kinds: list[str]) -> int:
    """Damages each subject so many times; returns how many faults there were."""
    paths, rng, all_faults = make(top / "made"), np.random.default_rng(seed), 0
    print("| file, command | damaged | told | without effect | faults |\n|---|---|---|---|---|")
    for name in names or SUBJECTS:
        subject, path, counts = SUBJECTS[name], paths[name], collections.Counter()

        def attempt(path, subject=subject):
            out = top / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            return called(subject.argv(path, out), lambda it: subject.result(it, out))

        kept = path.with_name(path.name + ".kept")  # some commands go on with what they are given
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, kept)
        whole = attempt(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kept.rename(path)
        assert whole.code == 0, whole.err
        size = sum(f.stat().st_size for f in ([path] if path.is_file() else path.rglob("*")))
        for _ in range(count):
            # In place, so that what is said of paths is the same.
            path.rename(kept)
            copy(kept, path)
            damage = drawn(rng, kinds)
            done = damage.apply(path)
            outcome = attempt(path)
            faults = outcome.faults(size, whole if subject.is_ours else None)
            counts["faults" if faults else {0: "same", 2: "told"}.get(outcome.code or 0)] += 1
            if faults:
                print(f"  {name}: {done} -> {'; '.join(faults)} ({damage})", flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            kept.rename(path)
        all_faults += counts["faults"]
        row = (name, count, counts["told"], counts["same"], counts["faults"])
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    return all_faults


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="damages per kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], choices=SUBJECTS)
    parser.add_argument("--kind", action="append", default=[])
    args = parser.parse_args()
    quiet_libraries(until_exit=True)  # as a process of the command does
    with tempfile.TemporaryDirectory() as folder:
        return int(run(Path(folder), args.count, args.seed, args.only, args.kind) > 0)


if __name__ == "__main__":
    raise SystemExit(cli())
