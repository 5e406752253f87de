"""Does this machine's accelerator compute what the references recorded? Every kind, two precisions.

  python -m experiments.gpu_parity                       (both; a few minutes on one GPU)
  python -m experiments.gpu_parity --dtype bfloat16      (one part)
  python -m experiments.gpu_parity --golden-dir DIR      (other recordings; may be repeated)

Runs the checks of tests/parity on whatever device jax finds, from a plain checkout. Needs jax, flax
(with the optax that it brings) and safetensors, nothing else; without jaxtyping, shapes in
signatures are not checked. float32 has the highest matmul precision and the limits of the checks;
bfloat16 holds weights and products of all networks in bfloat16, where no limit is set because
rounding alone moves results by 1e-3 to 2e-1 (most where timesteps are rounded too). Exits with code
1 if float32 breaks a limit or anything is not finite.
"""

import argparse
import collections
import functools
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.plain import do_without_jaxtyping

PARITY = Path(__file__).resolve().parents[1] / "tests" / "parity"
DTYPES = ("float32", "bfloat16")

Row = tuple[str, float, str]
"""Kind of recording, limit and unit of the error."""


class Dtype:
    """While entered, every network that is built has this dtype; tells whether there was one."""

    def __init__(self, name: str):
        self.name, self.networks = name, 0
        self._original = {}

    def __enter__(self) -> "Dtype":
        from pusa_jax.models.t5 import TextConfig
        from pusa_jax.models.wan.config import DiTConfig, VAEConfig

        networks: tuple[Any, ...] = (DiTConfig, VAEConfig, TextConfig)
        for cls in networks:
            self._original[cls] = cls.__init__
            cls.__init__ = self._wrapped(cls.__init__)
        return self

    def __exit__(self, *error) -> None:
        for cls, original in self._original.items():
            cls.__init__ = original

    def _wrapped(self, original):
        @functools.wraps(original)
        def init(instance, **fields):
            self.networks += 1
            if self.name != "float32":
                fields |= {"param_dtype": self.name, "compute_dtype": self.name}
            original(instance, **fields)

        return init


def compare(dtype: str, folders: list[str] | None) -> tuple[dict[Row, list[float]], list[str]]:
    """Errors of each row of the table, and what went wrong."""
    do_without_jaxtyping()
    sys.path[:0] = [str(PARITY), str(PARITY.parent)]  # the checks, and what tests share
    from golden import NETWORKS, discover, golden_dirs  # pyright: ignore[reportMissingImports]
    from test_golden import all_checks  # pyright: ignore[reportMissingImports]

    checks, rows, broken = all_checks(), collections.defaultdict(list), []
    for folder in golden_dirs(folders):
        for golden in discover(folder):
            if golden.kind not in checks:
                rows[golden.kind, 0.0, "not covered"] += [0.0] * len(golden.cases())
                continue
            for case in golden.cases():
                NETWORKS.clear()  # those of another case or dtype are not counted
                with Dtype(dtype) as used:
                    try:
                        found = list(checks[golden.kind](golden, case))
                    except Exception as error:
                        where = f"{golden.path.name} {case['name']} {dtype}"
                        broken.append(f"{where}: {type(error).__name__}: {error}")
                        traceback.print_exc(file=sys.stderr)
                        continue
                if dtype != "float32" and not used.networks:
                    continue
                for comparison in found:
                    row = (golden.kind, comparison.limit, comparison.unit)
                    rows[row].append(comparison.error)
                    if dtype == "float32" and not comparison.error <= comparison.limit:
                        where = f"{golden.path.name} {case['name']} {comparison.name}"
                        broken.append(f"{where}: {comparison.error:.2g} > {comparison.limit:.2g}")
    return dict(rows), broken


def table(found: dict[str, dict[Row, list[float]]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| kind | comparisons | " + " | ".join(f"worst {d}" for d in found) + " | limit | unit |"
    yield "|---|" + "---|" * (len(found) + 3)
    for row in sorted({row for rows in found.values() for row in rows}):
        kind, limit, unit = row
        errors = [rows.get(row) for rows in found.values()]
        count = max(len(some) for some in errors if some)
        if unit == "not covered":
            yield f"| {kind} | {count} cases | " + "- | " * len(errors) + "- | not covered |"
        else:
            cells = [f"{max(some):.2g}" if some else "no network" for some in errors]
            yield f"| {kind} | {count} | " + " | ".join(cells) + f" | {limit:g} | {unit} |"


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    parser.add_argument("--golden-dir", action="append", help="default: the bundled recordings")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    device, since = jax.devices()[0], time.perf_counter()
    found, broken = {}, []
    for dtype in args.dtype or DTYPES:
        found[dtype], wrong = compare(dtype, args.golden_dir)
        broken += wrong
    seconds = time.perf_counter() - since
    lines = [f"{device.device_kind}, jax {jax.__version__}, {seconds:.0f} s", "", *table(found)]
    print("\n".join(lines))
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")
    for line in broken:
        print(line, file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
