"""Makes docs/plan_train.md: what the training runs of configs/ need on TPU slices and GPU boxes.

  python -m experiments.train_plan_table               (all rows: about an hour on 2 cores)
  python -m experiments.train_plan_table --only h100   (renews the rows of such topologies)
  python -m experiments.train_plan_table --bench FILE  (adds peaks of bench_train --json FILE)

Needs pusa_jax[tpu] for the TPU rows and pusa_jax[cuda] for the GPU rows; rows whose plugin is
missing keep what the page said before. Each row is one `pusa-jax plan train --json` in a process of
its own. The numbers are kept in docs/plan_train.json, so that a part of the page can be renewed.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from experiments.bench_train import PARTS
from experiments.plan_page import COLUMNS, Numbers, cells, head, line, renew
from pusa_jax.devices.sharding import AXES, describe
from pusa_jax.devices.topologies import GIB

ROOT = Path(__file__).resolve().parents[1]
HEIGHTS = {"480p": (480, 832), "720p": (720, 1280)}
"""Sizes that rows ask for; others are those of the config."""

INTRODUCTION = """# What training fits where

Made by `python -m experiments.train_plan_table` from `pusa-jax plan train`, which compiles the step
that `pusa-jax train` runs, for chips that need not be there: clips of 81 frames (pusa_lora_ti2v_5b:
121 of 704 x 1280; pusa_v05_full_mochi: 163 of 480 x 848; FVDM's own on Latte, which end in b2 and
xl2: 16 of 256 x 256), networks computing in bfloat16 (Latte: float32), trained weights and Adam's
moments in float32, the inputs of the blocks kept for the backward pass and all else computed again
(`remat="full"`).
Every optimizer step takes the batch of the paper, 8 clips (pusa_v05_full_mochi: 32; Latte: that of
its config), computed in so many **parts** one after the other. Bytes are per chip.

- **peak** is what one chip must hold at once by the compiler's account: weights, moments, clips,
  results and temporaries. Kernel workspaces and fragmentation are not in it.
- **limit** is what a program may use: of a TPU what libtpu says, of a GPU the share that jax takes
  by default, three quarters (`XLA_PYTHON_CLIENT_MEM_FRACTION` changes it).
- **s/step** is a lower bound: the longest of computing at the vendor's peak for dense bfloat16
  products, moving every byte held once, and sending over links of the stated width. Model FLOPs
  count what is computed twice once. It is no forecast.
- **measured** is the peak of a real run of the same program where there was hardware.
- **compile** is wall time on 2 CPU cores, at rest for GPUs. For TPUs other work shared them, for
  the most part in the rows above 1000: that of v5e:4x4 took 436 seconds of computing.

Both experts of Wan2.2, pusa_wan22_high_14b and pusa_wan22_low_14b, are the program of
pusa_v1_lora_14b with noise levels from a part of the table: on h200:1 it takes the same bytes.

To plan a row: `pusa-jax plan train --config=configs/RUN.py --topology=TOPOLOGY`, with
`--config.mesh.context=C`, `--config.optimizer.accumulate=PARTS` and, for 720p,
`--config.data.height=720 --config.data.width=1280`.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One plan to make: a config, a size, chips, and how clips are shared out over them."""

    run: str
    size: str
    topology: str
    context: int = 1
    parts: int = 1

    @property
    def key(self) -> str:
        """What tells rows apart."""
        shares = f"context={self.context} parts={self.parts}"
        return f"{self.run} {self.size} {self.topology} {shares}"

    @property
    def flags(self) -> list[str]:
        """The config and what it changes."""
        flags = [f"--config={ROOT / 'configs' / self.run}.py"]
        if self.size in HEIGHTS:
            height, width = HEIGHTS[self.size]
            flags += [f"--config.data.height={height}", f"--config.data.width={width}"]
        flags += [f"--config.mesh.context={self.context}"]
        return [*flags, f"--config.optimizer.accumulate={self.parts}"]


LORA, FULL = "pusa_v1_lora_14b", "pusa_full_14b"
MOCHI = "pusa_v05_full_mochi"
ROWS = [
    Row(run=LORA, size="480p", topology="v5e:4x4", context=4, parts=2),
    Row(run=LORA, size="480p", topology="h100:8"),
    Row(run=LORA, size="720p", topology="h100:8"),
    Row(run=LORA, size="480p", topology="h200:1", parts=8),
    Row(run=FULL, size="480p", topology="v6e:4x4", context=4, parts=2),
    Row(run=FULL, size="480p", topology="v6e:4x4", context=8, parts=4),
    Row(run=FULL, size="480p", topology="v5p:2x2x1", context=4, parts=8),
    Row(run=FULL, size="720p", topology="v6e:4x8", context=8, parts=2),
    Row(run=FULL, size="720p", topology="v5p:2x2x2", context=4, parts=4),
    Row(run="pusa_lora_1.3b", size="480p", topology="h100:1", parts=8),
    Row(run="fvdm_ptss_1.3b", size="480p", topology="h200:1", parts=8),
    Row(run="pusa_wan22_high_14b", size="480p", topology="v5e:4x4", context=4, parts=2),
    Row(run="pusa_wan22_high_14b", size="480p", topology="h200:1", parts=8),
    Row(run="pusa_lora_ti2v_5b", size="its own", topology="h100:8"),
    Row(run="pusa_lora_ti2v_5b", size="its own", topology="h200:1", parts=8),
    Row(run=MOCHI, size="its own", topology="v5p:2x2x4", context=4, parts=8),
    Row(run=MOCHI, size="its own", topology="v6e:8x8", context=8, parts=4),
    Row(run=MOCHI, size="its own", topology="h100:16", context=4, parts=8),
    *(
        Row(run=run, size="its own", topology="h100:1")
        for run in ("fvdm_ffs_b2", "fvdm_sky_xl2", "fvdm_taichi_xl2", "fvdm_ucf_xl2")
    ),
    Row(run="debug", size="its own", topology="h100:1"),
    Row(run="tiny_world", size="its own", topology="h100:1"),
]

MISSING = ["not planned yet", *[""] * (len(COLUMNS) - 1)]


def page(numbers: Numbers) -> str:
    """The whole page."""
    plans, bench = numbers["plans"], numbers["bench"]
    lines = head("run", "size", "topology", "mesh", "parts", *COLUMNS)
    for row in ROWS:
        report = plans.get(row.key)
        sizes = [report["mesh"][axis] for axis in AXES] if report else [1, row.context, 1]
        names = [row.run, row.size, row.topology, describe(sizes), str(row.parts)]
        lines.append(line([*names, *(cells(report) if report else MISSING)]))
    lines += ["", "The parts of `python -m experiments.bench_train`, on one H200:", ""]
    lines += head("part", "measured GiB", *COLUMNS)
    for part in PARTS:
        report = plans.get(f"bench {part}")
        peaks = [row["peak_bytes"] for row in bench.get(part, []) if "clips" in row]
        measured = f"{peaks[0] / GIB:.1f}" if peaks and peaks[0] else "not measured"
        lines.append(line([part, measured, *(cells(report) if report else MISSING)]))
    return INTRODUCTION + "\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Renews the page; returns 1 where a row could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="rows whose topology begins so")
    parser.add_argument("--run", default="", help="rows whose run begins so")
    parser.add_argument("--bench", type=Path, help="what bench_train --json wrote")
    args = parser.parse_args()
    rows = {
        row.key: ["train", f"--topology={row.topology}", *row.flags]
        for row in ROWS
        if row.topology.startswith(args.only) and row.run.startswith(args.run)
    }
    if "h200:1".startswith(args.only) and "bench".startswith(args.run):
        rows |= {f"bench {p}": ["train", "--topology=h200:1", *flags] for p, flags in PARTS.items()}
    return renew("plan_train", page, rows, args.bench)


if __name__ == "__main__":
    sys.exit(main())
