"""Judges a trained folder over several clips of every kind, where one alone says little.

    python -m experiments.tiny_fvdm.judging runs/tiny-fvdm --times 6
    python -m experiments.tiny_fvdm.judging runs/tiny-fvdm --only plain long-8x

Each time has fresh scenes and seeds. Clips stay in FOLDER/judged; the table is Markdown.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.tiny_fvdm import checking
from experiments.tiny_fvdm.checking import Part, Shares
from pusa_jax.progress import Console


def main() -> None:
    """Makes the clips and prints the mean of what is seen of each kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="that was trained")
    parser.add_argument("--times", type=int, default=6, help="clips of each kind")
    parser.add_argument("--only", nargs="+", choices=[*checking.parts()], help="kinds")
    args = parser.parse_args()
    chosen = repeated(args.times, args.only or [*checking.parts()])
    with Console() as console:
        found = checking.make_all(args.folder, chosen, console, "judged")
    print(table(found))


def repeated(times: int, kinds: Sequence[str]) -> dict[str, Part]:
    """Clips of some kinds, each so often, named KIND.NUMBER."""
    return {
        f"{kind}.{i}": part
        for i in range(times)
        for kind, part in checking.parts(i * checking.SCENES).items()
        if kind in kinds
    }


def table(found: Mapping[str, Shares]) -> str:
    """Means over the clips of a kind, which are named KIND.NUMBER."""
    kinds = {name.partition(".")[0]: seen for name, seen in found.items()}
    columns = next(iter(kinds.values()))
    lines = [f"| clip | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for kind in kinds:
        rows = [[*seen.values()] for name, seen in found.items() if name.partition(".")[0] == kind]
        cells = (f"{share:.0%}" for share in np.mean(rows, axis=0))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
