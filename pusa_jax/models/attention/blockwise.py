"""Softmax attention in plain XLA without ever holding all scores: blocks meet blocks.

The forward pass keeps a running softmax (arXiv 1805.02867) and hands out the logarithm of the
normaliser, so that results over separate sets of keys can be merged; the backward pass computes the
scores again from it (arXiv 2205.14135). Both hold O(query block * key block) scores at a time.
Numbers of tokens need not divide into blocks: both sides are padded and padded keys masked.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pusa_jax.models.remat import of_attention

Queries = Float[Array, "B N K P"]
Keys = Float[Array, "B M K P"]
Normaliser = Float[Array, "B N K 1"]
"""log(sum over keys of exp(score)), float32; about -1e30 where there was no key."""

BLOCK = 1024
MASKED = -1e30
"""Score of a masked key: finite, so that rows without any key stay free of NaN."""


def blockwise_attention(
    query: Queries,
    key: Keys,
    value: Keys,
    is_key: Bool[Array, " M"] | None = None,
    block: int = BLOCK,
) -> Queries:
    """softmax(query . key / sqrt(P)) . value with bounded memory, forwards and backwards.

    Args:
      query: [B, N, K, P].
      key: [B, M, K, P].
      value: as the keys.
      is_key: which keys are real; all, if not given.
      block: tokens that are taken together.
    """
    is_key = jnp.ones(key.shape[1], bool) if is_key is None else is_key
    return _blockwise(query, key, value, is_key, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blockwise(query, key, value, is_key, block):
    return _forward_rule(query, key, value, is_key, block)[0]


def _forward_rule(query, key, value, is_key, block):
    out, normaliser = of_attention(*forward(query, key, value, is_key, block))
    return out, (query, key, value, is_key, out, normaliser)


def _backward_rule(block, saved, cotangent):
    query, key, value, is_key, out, normaliser = saved
    return *backward(query, key, value, is_key, out, normaliser, cotangent, block), None


_blockwise.defvjp(_forward_rule, _backward_rule)


def forward(
    query: Queries, key: Keys, value: Keys, is_key: Bool[Array, " M"], block: int = BLOCK
) -> tuple[Queries, Normaliser]:
    """Attention over the keys that are some, in the dtype of `query`, and its normaliser."""
    b, n, k, p = query.shape
    keys = (_cut(key, 1, block), _cut(value, 1, block), _cut(is_key, 0, block))

    def visit_keys(q):
        def visit(carry, one):
            total, normaliser, largest = carry
            k, v, seen = one
            scores = _scores(q, k, seen)
            new_largest = jnp.maximum(largest, scores.max(-1))
            rescale = jnp.exp(largest - new_largest)
            weights = jnp.exp(scores - new_largest[..., None])
            part = _dot("bknm,bmkp->bknp", weights.astype(v.dtype), v)
            total = total * rescale[..., None] + part
            return (total, normaliser * rescale + weights.sum(-1), new_largest), None

        rows = (b, k, q.shape[1])
        start = (jnp.zeros((*rows, p)), jnp.zeros(rows), jnp.full(rows, MASKED))
        (total, normaliser, largest), _ = jax.lax.scan(visit, start, keys)
        out = (total / normaliser[..., None]).astype(q.dtype)
        return out, (largest + jnp.log(normaliser))[..., None]

    pieces = jax.lax.map(visit_keys, _cut(query, 1, block))
    out, normaliser = (_join(jnp.swapaxes(x, 2, 3), 1)[:, :n] for x in pieces)
    return out, normaliser


def backward(
    query: Queries,
    key: Keys,
    value: Keys,
    is_key: Bool[Array, " M"],
    out: Queries,
    normaliser: Normaliser,
    cotangent: Queries,
    block: int = BLOCK,
) -> tuple[Queries, Keys, Keys]:
    """Gradients of attention, where `out` and `normaliser` may come of more keys than the given.

    Summed over all sets of keys, the query's parts are its whole gradient; those of keys and
    values are whole at once.

    Returns:
      gradients of query, key and value in their dtypes.
    """
    scale = query.shape[-1] ** -0.5
    drift = (out.astype(jnp.float32) * cotangent).sum(-1, keepdims=True)
    queries = tuple(_cut(x, 1, block) for x in (query, cotangent, normaliser, drift))

    def visit_queries(grad_query, one):
        k, v, seen = one

        def visit(carry, one):
            (q, dout, log_sum, shift), dq = one
            rows = (jnp.swapaxes(x, 1, 2) for x in (log_sum, shift))  # [B, K, n, 1]
            log_sum, shift = rows
            weights = jnp.exp(_scores(q, k, seen) - log_sum)
            push = weights * (_dot("bnkp,bmkp->bknm", dout, v) - shift) * scale
            push, weights = push.astype(q.dtype), weights.astype(q.dtype)
            dk, dv = carry
            dk += _dot("bknm,bnkp->bmkp", push, q)
            dv += _dot("bknm,bnkp->bmkp", weights, dout)
            return (dk, dv), dq + _dot("bknm,bmkp->bnkp", push, k)

        start = (jnp.zeros(k.shape), jnp.zeros(v.shape))
        (dk, dv), grad_query = jax.lax.scan(visit, start, (queries, grad_query))
        return grad_query, (dk.astype(k.dtype), dv.astype(v.dtype))

    start = jnp.zeros(queries[0].shape)
    keys = (_cut(key, 1, block), _cut(value, 1, block), _cut(is_key, 0, block))
    grad_query, grads = jax.lax.scan(visit_queries, start, keys)
    grad_query = _join(grad_query, 1)[:, : query.shape[1]].astype(query.dtype)
    grad_key, grad_value = (_join(g, 1)[:, : key.shape[1]] for g in grads)
    return grad_query, grad_key, grad_value


def _scores(q, k, seen):
    scores = _dot("bnkp,bmkp->bknm", q, k) * q.shape[-1] ** -0.5
    return jnp.where(seen[None, None, None], scores, MASKED)


_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _cut(x: Array, axis: int, block: int) -> Array:
    """Pads an axis to whole blocks and moves their number to the front; `False` or 0 in the pad."""
    block = min(block, x.shape[axis])
    count = -(-x.shape[axis] // block)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, count * block - x.shape[axis])
    blocks = jnp.pad(x, pad).reshape(*x.shape[:axis], count, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(blocks, axis, 0)


def _join(blocks: Array, axis: int) -> Array:
    x = jnp.moveaxis(blocks, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
