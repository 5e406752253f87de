"""What checksums cost: `python -m experiments.reliability.cost`.

Saves half a gigabyte as a checkpoint, as a saved tree and as shards, with and without checksums in
turn, and prints the fastest save of each kind, the least that was spent on checksums, and by how
much the first is longer than the second: a saved tree is summed in a thread of its own meanwhile.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pusa_jax.cli.printing import quiet_libraries
from pusa_jax.data import shards
from pusa_jax.data.encoded import Example, serialized, write_records
from pusa_jax.files import sums
from pusa_jax.training import checkpoints, checksums
from pusa_jax.weights.store import save_tree

LEAVES = {f"layer{i}": np.random.default_rng(i).standard_normal((2048, 4096), np.float32)
          for i in range(16)}  # fmt: skip


class Clock:
    """Adds up the seconds spent in a function, which can be left out.

    Attributes:
      seconds: spent.
      is_on: whether it is called at all; else it gives an empty table.
    """

    def __init__(self, room: Any, name: str):
        """Takes the place of the function."""
        self._real, self.seconds, self.is_on = getattr(room, name), 0.0, True
        setattr(room, name, self)

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        since = time.perf_counter()
        found = self._real(*args) if self.is_on else {}
        self.seconds += time.perf_counter() - since
        return found


def _checkpoint(folder: Path) -> None:
    run = checkpoints.RunCheckpoints(folder, keep_last=1)
    run.save(1, jax.device_put({"params": LEAVES}), {"step": 1})
    run.close()


def _tree(folder: Path) -> None:
    save_tree(folder, LEAVES.items())


def _shards(folder: Path) -> None:
    folder.mkdir()
    rows = [x.reshape(-1)[: 2**22].view(np.uint16).view("bfloat16") for x in LEAVES.values()]
    text = np.zeros((1, 8), "bfloat16")
    for i, row in enumerate(rows):
        one = Example(name=f"{i}", caption="", latents=row.reshape(1, 1024, 1024, 8), text=text)
        write_records(folder / shards.shard_name(i, len(rows)), [serialized(one)])
    (folder / "staging").mkdir()
    shards.write_sums(folder / "staging", folder)


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    quiet_libraries(until_exit=True)
    kinds: list[tuple[str, Callable[[Path], None], Clock]] = [
        ("checkpoint", _checkpoint, Clock(checksums, "of_tree")),
        ("saved tree", _tree, Clock(sums, "of_files")),
        ("shards", _shards, Clock(shards, "write_sums")),
    ]
    print("| save of 0.5 GB | s | without sums | in sums | longer by |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, save, clock in kinds:
            found: dict[bool, list[float]] = {True: [], False: []}
            spent = []
            for i in range(2 * args.times):
                clock.is_on, clock.seconds = i % 2 == 0, 0.0
                place, since = Path(folder) / str(i), time.perf_counter()
                save(place)
                found[clock.is_on].append(time.perf_counter() - since)
                spent += [clock.seconds] * clock.is_on
                shutil.rmtree(place)
            whole, bare = min(found[True]), min(found[False])
            row = f"{name} | {whole:.2f} | {bare:.2f} | {min(spent):.3f} | {whole / bare - 1:.1%}"
            print(f"| {row} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli())
