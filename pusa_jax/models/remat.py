"""Rematerialisation: what the backward pass of a block finds stored and what it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import jax

Remat = Literal["none", "full", "attention", "dots"]
"""What is kept of each block for the backward pass.

  none       everything
  dots       results of matrix products and of attention; norms, gates, activations are redone
  attention  results of attention, the part that is dearest to redo at many tokens
  full       nothing but the block's input
"""

ATTENTION_PRIMITIVES = frozenset({"dot_product_attention_fwd_wrapper"})
"""Primitives that compute attention with the residuals that its backward pass needs (cuDNN)."""


def rematerialised(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A block that keeps only what `remat` says; its value and gradient stay the same.

    For the body of a `jax.lax.scan`: common subexpressions are left for XLA to merge.
    """
    if remat == "none":
        return block
    return jax.checkpoint(block, policy=_POLICIES[remat], prevent_cse=False)


def _is_attention(primitive, *_, **params) -> bool:
    return primitive.name in ATTENTION_PRIMITIVES


_POLICIES = {
    "full": None,
    "attention": _is_attention,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims, _is_attention
    ),
}
