"""What the pages of plans have in common: making plans, showing them, renewing a part."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.devices.topologies import GIB
from pusa_jax.files.atomic import replacing

DOCS = Path(__file__).resolve().parents[1] / "docs"

COLUMNS = ("peak GiB", "limit GiB", "TFLOP", "sent GiB", "s/step", "bound by", "compile s")
"""What `cells` are."""

Numbers = dict[str, Any]
"""plans: key of a row -> report of `pusa-jax plan --json`; bench: what a benchmark wrote."""


def plan(flags: Sequence[str]) -> dict[str, Any] | None:
    """The report of `pusa-jax plan FLAGS --json`, or None where it could not be made."""
    code = "import sys; from pusa_jax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "plan", *flags, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.returncode in (0, 3) else None


def cells(report: Mapping[str, Any]) -> list[str]:
    """Cells of a report, under `COLUMNS`."""
    roofline = report["roofline"]
    sent = sum(traffic["bytes"] for traffic in report["collectives"].values())
    return [
        in_short(report["peak_bytes"] / GIB) + ("" if report["fits"] else " (does not fit)"),
        in_short(report["limit_bytes"] / GIB),
        in_short(report["model_flops"] / 1e12),
        in_short(sent / GIB),
        f"{roofline['seconds']:.3g}",
        roofline["bound"],
        f"{report['compile_seconds']:.0f}",
    ]


def in_short(value: float) -> str:
    """With a tenth, and small numbers with two digits."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def head(*columns: str) -> list[str]:
    """The first two lines of a table."""
    return [line(columns), line(["---"] * len(columns))]


def renew(
    name: str,
    page: Callable[[Numbers], str],
    rows: Mapping[str, Sequence[str]],
    bench: Path | None,
) -> int:
    """Makes plans and writes docs/NAME.json, where all numbers are kept, and docs/NAME.md.

    Args:
      name: of the page.
      page: its text.
      rows: key -> flags of the plans to make. One that cannot be made keeps what it had.
      bench: numbers of a benchmark to take in, in place of plans.

    Returns:
      the exit code: 1 where a plan could not be made.
    """
    kept = DOCS / f"{name}.json"
    numbers: Numbers = json.loads(kept.read_text()) if kept.exists() else {"plans": {}, "bench": {}}
    if bench:
        numbers["bench"] |= json.loads(bench.read_text())
    missing = []
    for key, flags in rows.items() if not bench else ():
        print(key, file=sys.stderr)
        report = plan(flags)
        if report is None:
            missing.append(key)
            continue
        numbers["plans"][key] = report
        _write(kept, page, numbers)
    _write(kept, page, numbers)
    for key in missing:
        print(f"not made: {key}", file=sys.stderr)
    return int(bool(missing))


def _write(kept: Path, page: Callable[[Numbers], str], numbers: Numbers) -> None:
    with replacing(kept) as part:
        part.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    with replacing(kept.with_suffix(".md")) as part:
        part.write_text(page(numbers))
