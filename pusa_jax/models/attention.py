"""Softmax attention behind one function, whatever the platform's kernel and the mesh.

Without a mesh `attention` runs one kernel. On a mesh it is an island of `jax.shard_map`: clips are
split over `data`, heads over `tensor`, and where keys lie spread over `context` with the queries
(self-attention), one exchange each way lets every query meet every key:

  Ulysses  heads divide by `context`: all-to-all trades the split of tokens for one of heads
           (arXiv 2309.14509); every device then holds all tokens of some heads.
  ring     otherwise keys and values travel from device to device and partial softmaxes are merged
           (arXiv 2310.01889).
  both     Ulysses over the part of `context` that divides the heads, a ring over the rest.

Tokens have two axes, latent frame F and place in the frame S, of which S is split.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from pusa_jax.models.kernels import Backend, attend, attention_backend
from pusa_jax.models.ring import Ring, ring_attention
from pusa_jax.sharding import fit

__all__ = ["Backend", "attention", "attention_backend", "pad_tokens"]

Queries = Float[Array, "B *tokens K P"]
Keys = Float[Array, "B *key_tokens K P"]


def attention(query: Queries, key: Keys, value: Keys, *, tokens: int | None = None) -> Queries:
    """softmax(query . key / sqrt(P)) . value for each head, without a mask.

    Scores and softmax are float32 whatever the dtype of the arguments; the result has theirs.

    Args:
      query: [B, F, S, K, P], or [B, N, K, P] with tokens that are not split over devices.
      key: [B, F, S, K, P], split like the queries, or [B, M, K, P], the same on all devices of a
        clip.
      value: like `key`.
      tokens: how many of the S tokens of a frame are real, the rest having been put on by
        `pad_tokens`; all, if not given.

    Raises:
      ValueError: the mesh does not divide heads or tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    spread = key.ndim == 5
    tokens = key.shape[-3] if tokens is None else tokens
    if mesh.empty:
        return _unsplit(query, key, value)
    sizes = mesh.shape
    _check(query, sizes)
    query_spec = _island_spec(query, sizes)
    key_spec = query_spec if spread else _island_spec(key, sizes)
    body = _unsplit
    if spread and sizes["context"] > 1:
        body = functools.partial(_split, tokens=tokens, size=sizes["context"])
    return jax.shard_map(
        body, in_specs=(query_spec, key_spec, key_spec), out_specs=query_spec, check_vma=False
    )(query, key, value)


def pad_tokens(x: Array, axis: int) -> Array:
    """Puts zeros behind an axis of tokens, so that the mesh's `context` axis divides it."""
    size = jax.sharding.get_abstract_mesh().shape.get("context", 1)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, pad)


def _check(query: Array, sizes) -> None:
    if query.ndim != 5:
        return
    heads, tensor, context = query.shape[-2], sizes["tensor"], sizes["context"]
    if heads % tensor:
        fits = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ValueError(f"tensor={tensor} does not divide the {heads} heads; use one of {fits}.")
    if query.shape[2] % context:
        raise ValueError(
            f"{query.shape[2]} tokens are not divisible by context={context}; use pad_tokens first."
        )


def _island_spec(x: Array, sizes) -> P:
    axes = (None, "context") if x.ndim == 5 else (None,)
    return fit(x.shape, ("data", *axes, "tensor", None), sizes)


def _unsplit(query, key, value):
    flat = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (query, key, value))
    return attend(*flat).reshape(query.shape)


def _split(query, key, value, *, tokens: int, size: int):
    """Self-attention of [B, F, S / size, K, P] on each of the `size` devices of a context.

    Inside, tokens are ordered place by place and not frame by frame: padding then is the end.
    """
    ulysses = math.gcd(query.shape[3], size)
    ring = size // ulysses
    neighbours = [[i * ulysses + j for j in range(ulysses)] for i in range(ring)]
    exchange = functools.partial(
        jax.lax.all_to_all, axis_name="context", axis_index_groups=neighbours, tiled=True
    )
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    if ulysses > 1:
        query, key, value = (exchange(x, split_axis=3, concat_axis=1) for x in (query, key, value))
    b, s, f, k, p = query.shape
    if ring == 1:
        out = attend(*(x[:, :tokens].reshape(b, -1, k, p) for x in (query, key, value)))
    else:
        rings = Ring(axis="context", stride=ulysses, size=ring, num_keys=tokens * f)
        query, key, value = (x.reshape(b, -1, k, p) for x in (query, key, value))
        out = ring_attention(query, key, value, rings)
    out = out.reshape(b, -1, f, k, p)
    out = jnp.pad(out, ((0, 0), (0, s - out.shape[1]), (0, 0), (0, 0), (0, 0)))
    if ulysses > 1:
        out = exchange(out, split_axis=1, concat_axis=3)
    return jnp.swapaxes(out, 1, 2)
