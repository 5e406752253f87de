"""Rows for every seed -> mean and standard deviation, as JSON, Markdown and a picture."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.tiny import chart
from experiments.tiny.lab import Lab
from experiments.tiny.measuring import Row
from pusa_jax.files.atomic import replacing
from pusa_jax.training.workdir import git_commit

Results = Mapping[tuple[str, str], Sequence[Row]]
"""(series, x) -> a row per seed."""


def publish(lab: Lab, study: str, results: Results, panels: Sequence[str]) -> None:
    """Writes `table.json`, `table.md` and `plot.png` of an experiment.

    Args:
      lab: says where to.
      study: name of the experiment.
      results: what was measured; series are drawn as lines over x.
      panels: measures that are drawn, one beside the other.
    """
    folder = lab.tables / study
    rows = [
        {"series": series, "x": x, "seeds": len(found)} | statistics(found)
        for (series, x), found in results.items()
    ]
    record = {"depends": lab.depends, "git_commit": git_commit(), "rows": rows}
    with replacing(folder / "table.json") as part:
        part.write_text(json.dumps(record, indent=1) + "\n")
    with replacing(folder / "table.md") as part:
        part.write_text(markdown(rows))
    chart.draw(folder / "plot.png", rows, panels)


def statistics(found: Sequence[Row]) -> dict[str, list[float]]:
    """Measure -> mean and standard deviation over seeds (of a sample: divided by n - 1)."""
    ddof = 1 if len(found) > 1 else 0
    values = {name: [row[name] for row in found] for name in found[0]}
    return {name: [float(np.mean(x)), float(np.std(x, ddof=ddof))] for name, x in values.items()}


def markdown(rows: Sequence[Mapping]) -> str:
    """One line per row, one column per measure, mean ± standard deviation."""
    names = list(dict.fromkeys(n for row in rows for n, x in row.items() if isinstance(x, list)))
    head = ["series", "x", *names]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row[n][0]:.3g} ± {row[n][1]:.2g}" if n in row else "" for n in names]
        lines.append(f"| {' | '.join([row['series'], row['x'], *cells])} |")
    return "\n".join(lines) + "\n"
