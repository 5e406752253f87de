"""Softmax attention behind two functions, whatever the platform's kernel and the mesh.

Without a mesh it is one kernel. On a mesh it is an island of `jax.shard_map`: clips are
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
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from pusa_jax.devices.sharding import AXES, fit
from pusa_jax.models.attention.kernels import Backend, attend, attention_backend
from pusa_jax.models.attention.ring import Ring, ring_attention

__all__ = ["Backend", "attention_backend", "cross_attention", "pad_tokens", "self_attention"]

Tokens = Float[Array, "B F S K P"]
"""Queries, keys or values of a clip, split into heads K of P channels."""

Prompt = Float[Array, "B M K P"]
"""Keys or values of a prompt, the same on all devices of a clip."""


def self_attention(
    query: Tokens, key: Tokens, value: Tokens, *, tokens: int | None = None
) -> Tokens:
    """softmax(query . key / sqrt(P)) . value for each head: every token of a clip sees every other.

    Scores and softmax are float32 whatever the dtype of the arguments; the result has theirs.

    Args:
      query: of the clip's tokens.
      key: cut over the mesh as the queries are.
      value: as the keys.
      tokens: how many of the S tokens of a frame are real, the rest having been put on by
        `pad_tokens`; all, if not given.

    Raises:
      ValueError: the mesh does not divide heads or tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _unsplit(query, key, value)
    sizes = {axis: mesh.shape.get(axis, 1) for axis in AXES}
    check_split(query, sizes)
    spec = fit(query.shape, OF_CLIP, sizes)
    body = _unsplit
    if sizes["context"] > 1:
        real = query.shape[2] if tokens is None else tokens
        body = functools.partial(_split, tokens=real, size=sizes["context"])
    return island(body, (spec, spec, spec))(query, key, value)


def cross_attention(query: Tokens, key: Prompt, value: Prompt) -> Tokens:
    """As `self_attention`, with the keys and values of a prompt: no token needs another device.

    Raises:
      ValueError: the mesh does not divide heads or tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _unsplit(query, key, value)
    sizes = {axis: mesh.shape.get(axis, 1) for axis in AXES}
    check_split(query, sizes)
    of_query, of_key = fit(query.shape, OF_CLIP, sizes), fit(key.shape, OF_PROMPT, sizes)
    return island(_unsplit, (of_query, of_key, of_key))(query, key, value)


OF_CLIP = ("data", None, "context", "tensor", None)  # B F S K P
OF_PROMPT = ("data", None, "tensor", None)  # B M K P


def island(body, specs: tuple[P, P, P]):
    """`body` on each device's part of query, key and value; its result lies like the query."""
    return jax.shard_map(body, in_specs=specs, out_specs=specs[0], check_vma=False)


def pad_tokens(x: Array, axis: int) -> Array:
    """Puts zeros behind an axis of tokens, so that the mesh's `context` axis divides it."""
    size = jax.sharding.get_abstract_mesh().shape.get("context", 1)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, pad)


def check_split(query: Tokens, sizes: Mapping[str, int]) -> None:
    """Raises ValueError unless a mesh of such axes divides heads and tokens."""
    heads, tensor, context = query.shape[-2], sizes["tensor"], sizes["context"]
    if heads % tensor:
        fits = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ValueError(f"tensor={tensor} does not divide the {heads} heads; use one of {fits}.")
    if query.shape[2] % context:
        raise ValueError(
            f"{query.shape[2]} tokens are not divisible by context={context}; use pad_tokens first."
        )


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
