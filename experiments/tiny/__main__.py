"""Runs the experiments in the tiny world, from the shipped weights: `make experiments`.

    python -m experiments.tiny                      all of them, in full
    python -m experiments.tiny --only steps,noise   some
    python -m experiments.tiny --quick              proves that they run; the numbers mean nothing

What is measured already is not measured again: an interrupted run goes on with the same command.
"""

import argparse
import dataclasses
from pathlib import Path

from experiments.tiny.efficiency import run as efficiency
from experiments.tiny.fvdm import run as fvdm
from experiments.tiny.lab import FULL, QUICK, Lab
from experiments.tiny.mochi import run as mochi
from experiments.tiny.noise import run as noise
from experiments.tiny.nondestructive import run as nondestructive
from experiments.tiny.passes import run as passes
from experiments.tiny.steps import run as steps
from experiments.tiny.timesteps import run as timesteps
from experiments.tiny.where import run as where
from experiments.tiny.zeroshot import run as zeroshot
from pusa_jax.demo import shipped
from pusa_jax.devices.compile_cache import keep_compiled

STUDIES = (
    nondestructive,
    steps,
    passes,
    noise,
    zeroshot,
    efficiency,
    where,
    mochi,
    fvdm,
    timesteps,
)
"""Those that need no training first; `timesteps`, the longest, last."""


def main() -> None:
    """Runs what is asked for."""
    known = {module.STUDY: module for module in STUDIES}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(known), help="names, separated by commas")
    parser.add_argument("--model", type=Path, default=shipped.FOLDER, help="published folder")
    parser.add_argument("--workdir", type=Path, help="for cells and training runs")
    parser.add_argument("--count", type=int, default=FULL.count, help="clips per cell, by 34")
    parser.add_argument("--quick", action="store_true", help="prove that everything runs")
    args = parser.parse_args()
    wanted = args.only.split(",")
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"there is no experiment {unknown[0]!r}; known: {', '.join(known)}")
    workdir = args.workdir or Path("runs/experiments-quick" if args.quick else "runs/experiments")
    keep_compiled(workdir / "compiled")
    tables = workdir / "tables" if args.quick else Path(__file__).parent
    if args.count < 1 or args.count % FULL.batch:
        parser.error(f"--count must be a multiple of {FULL.batch}, got {args.count}")
    scale = QUICK if args.quick else dataclasses.replace(FULL, count=args.count)
    lab = Lab(args.model, workdir, tables, scale)
    for name in wanted:
        known[name].run(lab)
        print(f"{name}: {tables / name}")


if __name__ == "__main__":
    main()
