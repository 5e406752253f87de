"""The conversion engine: tables of rules between PyTorch tensors and leaves of a parameter tree.

A rule names a tensor of the checkpoint, the leaf it fills and how the layout changes. `{i}` stands for
a layer number; such tensors are stacked along a new first axis of one leaf, in order. Every tensor and
every leaf must be used exactly once: all violations are found first and raised together.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """A reversible change of memory layout.

    Attributes:
      to_leaf: PyTorch layout -> pusa_jax layout, for one tensor (without the stacked layer axis).
      to_torch: the exact inverse.
    """

    to_leaf: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(np.transpose, np.transpose)
"""Linear weight (out, in) <-> kernel (in, out)."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
      source: tensor name in the checkpoint; may hold one `{i}`.
      target: slash-separated path of the leaf it fills, as in `blocks/self_attn/q/kernel`.
      transform: change of layout.
    """

    source: str
    target: str
    transform: Transform = SAME
