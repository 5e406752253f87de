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

from pusa_jax.devices.sharding import AXES, fit
from pusa_jax.models.attention.kernels import Backend, attend, attention_backend
from pusa_jax.models.attention.ring import Ring, ring_attention

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
    sizes = {axis: mesh.shape.get(axis, 1) for axis in AXES}
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

    What the devices bring is put one behind the other as it comes: the order of tokens does not
    matter to attention, as long as it is known which of them are padding.
    """
    b, f, s, heads, p = query.shape
    ulysses = math.gcd(heads, size)
    neighbours = [range(i, i + ulysses) for i in range(0, size, ulysses)]

    def exchange(x):
        """What each neighbour has for this device, in place of what this one has for each."""
        return jax.lax.all_to_all(x, "context", 1, 1, axis_index_groups=neighbours, tiled=True)

    def some_heads_of_all_tokens(x):
        heads_of_each = jnp.moveaxis(x.reshape(b, f, s, ulysses, heads // ulysses, p), 3, 1)
        return exchange(heads_of_each).reshape(b, ulysses * f * s, heads // ulysses, p)

    query, key, value = (some_heads_of_all_tokens(x) for x in (query, key, value))
    rings = Ring(axis="context", stride=ulysses, size=size // ulysses, places=s, tokens=tokens)
    if rings.size > 1:
        out = ring_attention(query, key, value, rings)
    elif tokens < size * s:
        out = _attend_without_padding(query, key, value, (size, f, s), tokens)
    else:
        out = attend(query, key, value)
    tokens_of_each = out.reshape(b, ulysses, f, s, heads // ulysses, p)
    return jnp.moveaxis(exchange(tokens_of_each), 1, 3).reshape(b, f, s, heads, p)


def _attend_without_padding(query, key, value, shape: tuple[int, int, int], tokens: int):
    """Attention among the first `tokens` places of each frame; other tokens get zeros.

    `shape` is that of the tokens: devices, frames, places of a frame that a device brought.
    """
    devices, frames, places = shape
    b, _, *rest = query.shape

    def real(x):
        by_frame = jnp.moveaxis(x.reshape(b, *shape, *rest), 1, 2)
        by_frame = by_frame.reshape(b, frames, devices * places, *rest)[:, :, :tokens]
        return by_frame.reshape(b, frames * tokens, *rest)

    out = attend(real(query), real(key), real(value)).reshape(b, frames, tokens, *rest)
    out = jnp.pad(out, ((0, 0), (0, 0), (0, devices * places - tokens), (0, 0), (0, 0)))
    return jnp.moveaxis(out.reshape(b, frames, devices, places, *rest), 2, 1).reshape(query.shape)
