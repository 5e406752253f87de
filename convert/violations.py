"""What does not fit between a checkpoint and a model, all of it in one error of one line."""

import re
from collections import Counter
from collections.abc import Iterable

from pusa_jax.listing import listed

SHOWN = 20
"""Tensors that a message about a checkpoint names; their shapes make them long."""


class ConversionError(ValueError):
    """A checkpoint and a model do not fit together; the message says in a line what is wrong.

    Attributes:
      violations: all of them, of which the message shows some, sorted, as (kind, what), kind one of
        "missing", "unexpected",
        "wrong shape", "wrong dtype" (of the checkpoint), "unfilled", "table" (of the rules).
    """

    def __init__(self, violations: Iterable[tuple[str, str]], where: str = "checkpoint"):
        lines = {(kind, one_line(what)) for kind, what in violations}
        self.violations = sorted(lines, key=lambda v: _natural("\0".join(v)))
        counts = Counter(kind for kind, _ in self.violations)
        found = [f"{kind}: {what}" for kind, what in self.violations]
        super().__init__(
            f"{where} does not fit the model: "
            + ", ".join(f"{n} {kind}" for kind, n in counts.items())
            + f" ({listed(found, SHOWN, '; ')})."
        )


def one_line(text: str) -> str:
    """Names come from files and may hold anything; makes them printable."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", text)]
