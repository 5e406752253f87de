"""Which rows of a fine noise table a run takes: where the passes go.

A row left out is exactly a velocity used twice, so this is the plainest of all step caches. Early
rows decide what a clip shows and late ones how it looks: "front" is dense at the start, wide behind
it, and ends with the last row, so that no leap is left to the end.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

FINE = 50
"""Steps of the table that rows are taken of."""


def rows_taken(rows: Literal["front"] | Sequence[int], num_steps: int) -> tuple[int, ...]:
    """Numbers of the rows that a run of so many steps takes, of `FINE`.

    Raises:
      ValueError: rows that do not rise from 0 within the table, or another number than the steps.
    """
    if rows == "front":
        return front(num_steps)
    listed = tuple(int(row) for row in rows)
    rises = all(a < b for a, b in itertools.pairwise(listed))
    if not listed or not rises or listed[0] != 0 or listed[-1] >= FINE:
        raise ValueError(
            f"rows must rise from 0 to at most {FINE - 1}, as in 0,1,2,4,8,16,32; got "
            f"{','.join(map(str, listed[:40]))}."
        )
    if len(listed) != num_steps:
        raise ValueError(
            f"{len(listed)} rows make a run of {len(listed)} steps, not of {num_steps}: leave out "
            "the number of steps."
        )
    return listed


def front(num_steps: int) -> tuple[int, ...]:
    """The first 5 of 12 rows one by one, the others evenly over the rest, up to the last.

    24 rows are the first ten and then every third.

    Raises:
      ValueError: fewer rows than 2 or more than there are.
    """
    if not 2 <= num_steps <= FINE:
        raise ValueError(
            f"rows dense at the front are 2 to {FINE} of a table of {FINE}, got {num_steps} steps."
        )
    dense = max(num_steps * 5 // 12, 1)
    wide = np.rint(np.linspace(FINE - 1, dense, num_steps - dense)).astype(int)[::-1]
    return (*range(dense), *wide.tolist())
