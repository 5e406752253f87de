"""The table of noise levels of what is on the timeline, planned by the family and drawn as SVG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pusa_jax.diffusion.tasks import Condition
from pusa_jax.inference.settings import plan_run

WIDTH, HEIGHT = 560, 300
"""Of the drawing, in its own units."""

MARGIN = 34


def levels_of(
    job: Any, model: Any, given: Sequence[tuple[int, float]]
) -> Float[np.ndarray, "steps_and_end F"]:
    """Noise level of every latent frame before every step and behind the last.

    Args:
      job: has the settings.
      model: opened; its family makes the table.
      given: (place, noise level) pairs.

    Raises:
      ValueError: as a run would, see `settings.plan_run`.
    """
    blank = np.zeros((1, 1, 1, 3), np.uint8)
    conditions = [
        Condition(frames=blank, take=(0,), at=(place,), multipliers=(level,))
        for place, level in given
    ]
    table = plan_run(model.family, job.settings, conditions, model.configs)
    return np.asarray(table.sigmas, np.float32)


def drawing(levels: Float[np.ndarray, "rows F"]) -> str:
    """A cell per latent frame and row, white where clean and dark where all noise."""
    rows, f = levels.shape
    wide, high = (WIDTH - MARGIN) / f, (HEIGHT - MARGIN) / rows
    cells = []
    for i, j in np.ndindex(rows, f):
        level = float(levels[i, j])
        where = f'x="{MARGIN + j * wide:.2f}" y="{i * high:.2f}"'
        size = f'width="{wide:.2f}" height="{high:.2f}"'
        told = f"row {i}, frame {j}: {level:.3f}"
        cells.append(
            f'<rect {where} {size} fill="{_colour(level)}" data-level="{level:.3f}">'
            f"<title>{told}</title></rect>"
        )
    words = (
        f'<text x="{MARGIN}" y="{HEIGHT - 20}">latent frames 0 to {f - 1}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 20}" text-anchor="end">white is clean</text>'
        f'<text x="12" y="14">0</text><text x="4" y="{HEIGHT - MARGIN - 4}">{rows - 1}</text>'
    )
    return (
        f'<svg class="noise-table" viewBox="0 0 {WIDTH} {HEIGHT - 12}" role="img" '
        f'aria-label="noise levels, {rows} rows of {f} frames">{"".join(cells)}{words}</svg>'
    )


def _colour(level: float) -> str:
    """From white over blue to nearly black."""
    share = min(max(level, 0.0), 1.0)
    return f"hsl({214 + 30 * share:.0f} 62% {96 - 78 * share:.1f}%)"
