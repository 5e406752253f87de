"""Makes docs/plan.md: what sampling needs on TPU slices and GPU boxes, none of which is needed.

  python -m experiments.plan_table                   (all rows: half an hour on 2 cores)
  python -m experiments.plan_table --only h100       (renews the rows of one topology)
  python -m experiments.plan_table --model ti2v      (renews the rows of one model)
  python -m experiments.plan_table --bench FILE      (adds peaks measured by bench_dit --json FILE)

Needs pusa_jax[tpu] for the TPU rows and pusa_jax[cuda] for the GPU rows; rows whose plugin is
missing keep what the page said before. Each row is one `pusa-jax plan infer --json` in a process of
its own. The numbers are kept in docs/plan.json, so that a part of the page can be renewed.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from experiments.plan_page import COLUMNS, Numbers, cells, head, line, renew
from pusa_jax.devices.topologies import GIB

SIZES = {
    "480p": (480, 832),
    "480 x 848": (480, 848),
    "720p": (720, 1280),
    "704p": (704, 1280),
    "256 x 256": (256, 256),
}
PRESETS = {
    "14b": "wan2.1-t2v-14b",
    "1.3b": "wan2.1-t2v-1.3b",
    "a14b, one": "wan2.2-t2v-a14b",
    "a14b, both": "wan2.2-t2v-a14b",
    "ti2v-5b": "wan2.2-ti2v-5b",
    "mochi-1": "mochi-1-preview",
    "latte-ucf101": "fvdm-xl-2-ucf101",
}

INTRODUCTION = """# What fits where

Made by `python -m experiments.plan_table` from `pusa-jax plan`, which compiles the program that
sampling runs for each step, for chips that need not be there: 81 frames (ti2v-5b: 121, mochi-1:
163, latte-ucf101: 16), bfloat16, guidance on, a timestep for every latent frame. Bytes are per
chip.

- **a14b** has two experts of the size of 14b: **one** on the chips while the other waits in host
  memory (`--resident one`), or **both** with their prompts (`--resident all`).
- **peak** is what one chip must hold at once by the compiler's account: weights, arguments,
  results and temporaries. Kernel workspaces and fragmentation are not in it.
- **limit** is what a program may use: of a TPU what libtpu says, of a GPU the share that jax takes
  by default, three quarters (`XLA_PYTHON_CLIENT_MEM_FRACTION` changes it).
- **s/step** is a lower bound: the longest of computing at the vendor's peak for dense bfloat16
  products, moving every byte held once, and sending over links of the stated width. It is no
  forecast.
- **measured** is the peak of a real run of the same program where there was hardware.
- **compile** was on 2 CPU cores, shared with other work.

Steps are planned, but for ti2v-5b also the text encoder and one tile of the VAE, which run before
and after with the DiT's weights beside them (`pusa-jax plan infer --stage text` and `--stage
decode`). On a card of 24 GB these two take more than jax's usual share: they need
`XLA_PYTHON_CLIENT_MEM_FRACTION=0.95`, and leave little room for what the compiler does not count.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One plan to make."""

    model: str
    size: str
    topology: str
    mesh: str
    stage: str = "denoise"

    @property
    def key(self) -> str:
        """What tells rows apart."""
        stage = "" if self.stage == "denoise" else f" {self.stage}"
        return f"{self.model} {self.size} {self.topology} {self.mesh}{stage}"

    @property
    def flags(self) -> list[str]:
        """Flags of `pusa-jax plan`."""
        height, width = SIZES[self.size]
        flags = ["infer", "--preset", PRESETS[self.model], "--topology", self.topology]
        flags += ["--mesh", self.mesh, "--height", str(height), "--width", str(width)]
        flags += ["--resident", "all"] if self.model.endswith("both") else []
        return flags if self.stage == "denoise" else [*flags, "--stage", self.stage]


GUIDED = {"v5e:4x4": 8, "v5p:2x2x1": 2, "v6e:2x4": 4, "tpu7x:2x2x1": 4, "h100:8": 4, "h200:8": 4}
"""Topology -> size of the context axis beside the two passes of guidance."""
ROWS = [
    *(
        Row(model="14b", size=size, topology=topology, mesh=f"data=2,context={context}")
        for topology, context in GUIDED.items()
        for size in SIZES
    ),
    *(Row(model="14b", size=size, topology="h200:1", mesh="data=1") for size in SIZES),
    Row(model="14b", size="480p", topology="h100:1", mesh="data=1"),
    *(
        Row(model="1.3b", size="480p", topology=topology, mesh=mesh)
        for topology, mesh in {
            "v5e:1x1": "data=1",
            "v5e:2x4": "data=2,context=4",
            "v6e:1x1": "data=1",
            "h100:1": "data=1",
            "h200:1": "data=1",
        }.items()
    ),
    *(
        Row(model=model, size=size, topology=topology, mesh=mesh)
        for model in ("a14b, one", "a14b, both")
        for size, topology, mesh in (
            ("720p", "v6e:2x4", "data=2,context=4"),
            ("720p", "h100:8", "data=2,context=4"),
            ("480p", "h200:1", "data=1"),
        )
    ),
    *(
        Row(model="ti2v-5b", size="704p", topology=topology, mesh="data=1", stage=stage)
        for topology in ("v6e:1x1", "rtx4090:1")
        for stage in ("denoise", "text", "decode")
    ),
    *(
        Row(model="mochi-1", size="480 x 848", topology=topology, mesh=mesh)
        for topology, mesh in {
            "v6e:2x4": "data=2,context=4",
            "h100:8": "data=2,context=4",
            "h200:1": "data=1",
        }.items()
    ),
    *(
        Row(model="latte-ucf101", size="256 x 256", topology=topology, mesh="data=1")
        for topology in ("v6e:1x1", "h100:1", "rtx4090:1")
    ),
]


def measured(bench: dict, row: Row) -> str:
    """Peak of a real run, of a row on one chip like that of the benchmark."""
    found = bench.get(f"{row.model}-{row.size}", [])
    device = next((r["device"].lower() for r in found if r["who"] == "matmul"), "")
    family, _, count = row.topology.partition(":")
    if family not in device or count != "1":
        return "not measured"
    peak = next((r.get("peak_bytes") for r in found if r["who"].startswith("ours")), None)
    return "not measured" if peak is None else f"{peak / GIB:.1f}"


def page(numbers: Numbers) -> str:
    """The whole page."""
    plans, bench = numbers["plans"], numbers["bench"]
    peak, limit, *rest = COLUMNS
    lines = head("model", "size", "topology", "mesh", peak, limit, "measured GiB", *rest)
    for row in ROWS:
        if row.key in plans:
            first, second, *others = cells(plans[row.key])
            stage = "" if row.stage == "denoise" else f", {row.stage}"
            names = [f"{row.model}{stage}", row.size, row.topology, row.mesh]
            lines.append(line([*names, first, second, measured(bench, row), *others]))
    peaks = {}
    for report in plans.values():
        roofline = report["roofline"]
        values = (roofline["peak_flops"], roofline["peak_bandwidth"], roofline["peak_link"])
        peaks[report["topology"].partition(":")[0]] = values
    assumed = head("chip", "TFLOP/s bfloat16", "HBM GB/s", "links, one way, GB/s")
    assumed += [
        line([chip, f"{flops / 1e12:.0f}", f"{bandwidth / 1e9:.0f}", f"{link / 1e9:.0f}"])
        for chip, (flops, bandwidth, link) in sorted(peaks.items())
    ]
    table, assumptions = "\n".join(lines), "\n".join(assumed)
    return f"{INTRODUCTION}\n{table}\n\nPeaks assumed, per chip:\n\n{assumptions}\n"


def main() -> int:
    """Renews the page; returns 1 where a row could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="rows whose topology begins so")
    parser.add_argument("--model", default="", help="rows whose model begins so")
    parser.add_argument("--bench", type=Path, help="what bench_dit --json wrote")
    args = parser.parse_args()
    rows = {
        row.key: row.flags
        for row in ROWS
        if row.topology.startswith(args.only) and row.model.startswith(args.model)
    }
    return renew("plan", page, rows, args.bench)


if __name__ == "__main__":
    sys.exit(main())
