"""Rematerialisation: what the backward pass of a block finds stored and what it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "full", "attention", "dots"]
"""What is kept of each block for the backward pass.

  none       everything
  dots       results of matrix products and of attention; norms, gates, activations are redone
  attention  results of attention, the part that is dearest to redo at many tokens
  full       nothing but the block's input
"""

ATTENTION = "attention"
"""Name of what the backward pass of attention needs of its forward pass."""

CUDNN_ATTENTION = "dot_product_attention_fwd_wrapper"
"""Primitive that computes attention and what its backward pass needs; its results have no name."""


def rematerialised(block: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """A block that keeps only what `remat` says; its value and gradient stay the same.

    For the body of a `jax.lax.scan`: common subexpressions are left for XLA to merge.
    """
    if remat == "none":
        return block
    return jax.checkpoint(block, policy=_POLICIES[remat], prevent_cse=False)


def of_attention(*results: jax.Array) -> tuple[jax.Array, ...]:
    """Marks what a kernel's backward pass needs of its forward pass: results and normalisers."""
    return tuple(checkpoint_name(result, ATTENTION) for result in results)


def _is_cudnn(primitive, *_, **params) -> bool:
    return primitive.name == CUDNN_ATTENTION


_either = jax.checkpoint_policies.save_from_both_policies
_of_attention = _either(jax.checkpoint_policies.save_only_these_names(ATTENTION), _is_cudnn)
_POLICIES = {
    "full": None,
    "attention": _of_attention,
    "dots": _either(jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims, _of_attention),
}
