"""Memory of a process that samples many shapes: `python -m experiments.reliability.memory`.

Prints the resident memory every so many runs; with --most it keeps so many shapes, else all.
Programs lie on the disk as those of commands do, so that one that was let go of is read again.
"""

import argparse
import dataclasses
import gc
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pusa_jax.demo import shipped
from pusa_jax.devices.compile_cache import keep_compiled
from pusa_jax.inference.kept import SHAPES
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.progress import PusaWarning


def resident() -> float:
    """Megabytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--shapes", type=int, default=20)
    parser.add_argument("--most", type=int, default=SHAPES, help="shapes that are kept; 0 for all")
    args = parser.parse_args()
    warnings.simplefilter("ignore", PusaWarning)
    programs = tempfile.TemporaryDirectory()
    keep_compiled(Path(programs.name))
    pipe: Any = PusaPipeline.from_pretrained(shipped.FOLDER, dtype="float32")
    if args.most:
        pipe.keep(shapes=args.most, prompts=8)
    rng = np.random.default_rng(0)
    sizes = [(16 * (1 + i % 7), 16 * (1 + i // 7)) for i in range(args.shapes)]
    for run in range(args.runs):
        height, width = sizes[rng.integers(len(sizes))]
        pipe(
            f"a red square {run}",
            settings=dataclasses.replace(
                shipped.SETTINGS, height=height, width=width, num_frames=5, num_steps=1, tiled=False
            ),
        )
        if run % (args.runs // 20) == args.runs // 20 - 1:
            gc.collect()
            print(f"{run + 1} runs: {resident():.0f} MB", flush=True)
    pipe.clear()
    gc.collect()
    print(f"cleared: {resident():.0f} MB")
    programs.cleanup()
    return 0


if __name__ == "__main__":
    raise SystemExit(cli())
