"""Softmax attention behind one function, whatever kernel the platform has."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PLAIN_SCORES_LIMIT = 2**28
"""Bytes of scores up to which the plain form is used; beyond it scores are never all held at once."""

QUERY_BLOCK = 1024
KEY_BLOCK = 1024


def attention(
    query: Float[Array, "B N K P"], key: Float[Array, "B M K P"], value: Float[Array, "B M K P"]
) -> Float[Array, "B N K P"]:
    """softmax(query . key / sqrt(P)) . value for each head, without a mask.

    Scores and softmax are float32 whatever the dtype of the arguments; the result has theirs.
    """
    b, n, k, _ = query.shape
    if 4 * b * n * k * key.shape[1] <= PLAIN_SCORES_LIMIT:
        return jax.nn.dot_product_attention(query, key, value, implementation="xla")
    return blockwise_attention(query, key, value)


def blockwise_attention(
    query: Float[Array, "B N K P"],
    key: Float[Array, "B M K P"],
    value: Float[Array, "B M K P"],
    query_block: int = QUERY_BLOCK,
    key_block: int = KEY_BLOCK,
) -> Float[Array, "B N K P"]:
    """The same attention with O(query_block * key_block) scores alive, by a running softmax.

    Numbers of tokens need not divide into blocks: both sides are padded and padded keys masked.
    """
    n, m = query.shape[1], key.shape[1]
    query, key, value = (
        _blocks(x, block)
        for x, block in ((query, query_block), (key, key_block), (value, key_block))
    )
    valid = (jnp.arange(key.shape[0] * key_block) < m).reshape(-1, key_block)
    out = jax.lax.map(functools.partial(_one_query_block, key=key, value=value, valid=valid), query)
    return jnp.moveaxis(out, 0, 1).reshape(out.shape[1], -1, *out.shape[3:])[:, :n]


def _blocks(x: Float[Array, "B N K P"], block: int) -> Float[Array, "blocks B block K P"]:
    block_count = -(-x.shape[1] // block)
    x = jnp.pad(x, ((0, 0), (0, block_count * block - x.shape[1]), (0, 0), (0, 0)))
    return jnp.moveaxis(x.reshape(x.shape[0], block_count, block, *x.shape[2:]), 1, 0)


def _one_query_block(query, *, key, value, valid):
    """Runs one block of queries [B, n, K, P] over all key blocks [blocks, B, m, K, P]."""

    def visit(carry, block):
        total, normaliser, largest = carry
        k, v, is_key = block
        scores = jnp.einsum("bnkp,bmkp->bknm", query, k, preferred_element_type=jnp.float32)
        scores = jnp.where(is_key[None, None, None], scores / query.shape[-1] ** 0.5, -jnp.inf)
        new_largest = jnp.maximum(largest, scores.max(-1))
        rescale = jnp.exp(largest - new_largest)
        weights = jnp.exp(scores - new_largest[..., None])
        part = jnp.einsum(
            "bknm,bmkp->bknp", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        total = total * rescale[..., None] + part
        return (total, normaliser * rescale + weights.sum(-1), new_largest), None

    b, n, k, p = query.shape
    start = (
        jnp.zeros((b, k, n, p), jnp.float32),
        jnp.zeros((b, k, n), jnp.float32),
        jnp.full((b, k, n), -jnp.inf, jnp.float32),
    )
    (total, normaliser, _), _ = jax.lax.scan(visit, start, (key, value, valid))
    return jnp.moveaxis(total / normaliser[..., None], 1, 2).astype(query.dtype)
