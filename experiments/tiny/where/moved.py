"""How far weights have moved in training, by part of the network."""

import numpy as np

from experiments.tiny.measuring import Row
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.weights.leaves import leaves_of

PARTS = {
    "self": "blocks/self_attn/",
    "cross": "blocks/cross_attn/",
    "ffn": "blocks/ffn/",
    "norm": "blocks/norm3/",
    "modulation": "blocks/modulation",
    "time": "time_",
    "text": "text_embedding/",
    "patch": "patch_embedding/",
    "head": "head/",
}
"""Name in the table -> what the paths of its leaves begin with."""


def movement(before: WanDiT, after: WanDiT) -> Row:
    """Length of the change of a part's weights by their length before."""
    old, new = ({k: np.asarray(x) for k, x in leaves_of(dit).items()} for dit in (before, after))
    return {
        part: _length([new[k] - old[k] for k in old if k.startswith(start)])
        / _length([old[k] for k in old if k.startswith(start)])
        for part, start in PARTS.items()
    }


def _length(leaves: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in leaves)))
