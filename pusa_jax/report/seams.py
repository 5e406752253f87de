"""Jumps: how much more changes from one frame to the next than around that place."""

import numpy as np
from jaxtyping import Float

AROUND = 4
"""Changes on either side that a change is held against."""

STILL = 0.5
"""Change, in levels of 0..255, below which nothing is held against: in a still clip every rounding
would be a jump."""


def jump(changes: Float[np.ndarray, " N"], at: int) -> float:
    """A change over the median of those around it; 1 is no jump.

    Args:
      changes: mean change of brightness from each frame to the next.
      at: which one, so that it leads to frame `at` + 1.
    """
    around = np.concatenate([changes[max(at - AROUND, 0) : at], changes[at + 1 : at + 1 + AROUND]])
    return _over(changes[at], around)


def closing_jump(changes: Float[np.ndarray, " N"], closing: float) -> float:
    """The change from the last frame to the first, over those at either end."""
    return _over(closing, np.concatenate([changes[:AROUND], changes[-AROUND:]]))


def greatest(changes: Float[np.ndarray, " N"]) -> tuple[float, int] | None:
    """The greatest jump and the frame that it leads to; None of a single frame."""
    if not len(changes):
        return None
    jumps = [jump(changes, at) for at in range(len(changes))]
    at = int(np.argmax(jumps))
    return jumps[at], at + 1


def _over(change: float, around: Float[np.ndarray, " M"]) -> float:
    usual = float(np.median(around)) if len(around) else 0.0
    return float(change) / max(usual, STILL)
