"""Names in messages: some of them and how many there are, however long the list."""

from collections.abc import Collection

LIMIT = 40
"""Most names in a message."""

LONGEST = 120
"""Most characters of one name; what is longer is cut."""

TOGETHER = 1200
"""Most characters of all names, so that what comes behind them is not cut off."""


def listed(names: Collection[object], limit: int = LIMIT, between: str = ", ") -> str:
    """Names one after the other, as many as `limit`, and the number of the others.

    Args:
      names: shown by `str`, in their order; none gives "none".
      limit: most that are shown.
      between: stands between two of them.
    """
    shown, length = [], 0
    for _, name in zip(range(limit), names, strict=False):
        text = _cut(str(name))
        length += len(text) + len(between)
        if shown and length > TOGETHER:
            break
        shown.append(text)
    left = len(names) - len(shown)
    return between.join([*shown, *([f"and {left} more"] if left else [])]) or "none"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
