"""Joint attention: the tokens of a clip and of its prompt see each other as one sequence.

On a mesh the clip's tokens are split over `context` and the prompt's are whole on every device. As
in self-attention an all-to-all trades the split of the clip's tokens for one of heads; every device
then takes its share of the prompt's heads as well, and gives the prompt's results back by an
all-gather. Where `context` does not divide the heads, keys are gathered for the rest (no ring: text
is short, but every query of it meets every key).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pusa_jax.devices.sharding import AXES, fit
from pusa_jax.models.attention.attention import OF_CLIP, OF_PROMPT, check_split
from pusa_jax.models.attention.kernels import attend
from pusa_jax.models.attention.ring import Ring


class Clip(NamedTuple):
    """Of the tokens of clips: each [B, F, S, K, P]."""

    query: Float[Array, "B F S K P"]
    key: Float[Array, "B F S K P"]
    value: Float[Array, "B F S K P"]


class Prompt(NamedTuple):
    """Of the tokens of prompts: each [B, L, K, P]."""

    query: Float[Array, "B L K P"]
    key: Float[Array, "B L K P"]
    value: Float[Array, "B L K P"]


Results = tuple[Float[Array, "B F S K P"], Float[Array, "B L K P"]]


def joint_attention(
    clip: Clip, prompt: Prompt, lengths: Int[Array, " B"], *, tokens: int
) -> Results:
    """softmax(query . key / sqrt(P)) . value over the tokens of clip and prompt together.

    Args:
      clip: its tokens, split over `context` by their place in the frame.
      prompt: its tokens, real ones first.
      lengths: real tokens of each prompt; nobody sees the others, whose results mean nothing.
      tokens: how many of the S tokens of a frame are real, see `pad_tokens`.

    Returns:
      results for the clip's and for the prompt's queries.

    Raises:
      ValueError: the mesh does not divide heads or tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _together(clip, prompt, lengths)
    sizes = {axis: mesh.shape.get(axis, 1) for axis in AXES}
    check_split(clip.query, sizes)
    of_clip = fit(clip.query.shape, OF_CLIP, sizes)
    of_prompt = fit(prompt.query.shape, OF_PROMPT, sizes)
    body = _together
    if sizes["context"] > 1:
        body = functools.partial(_split, tokens=tokens, size=sizes["context"])
    return jax.shard_map(
        body,
        in_specs=(of_clip, of_prompt, fit(lengths.shape, ("data",), sizes)),
        out_specs=(of_clip, of_prompt),
        check_vma=False,
    )(clip, prompt, lengths)


def _together(clip: Clip, prompt: Prompt, lengths: Int[Array, " B"]) -> Results:
    query, key, value = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in clip)  # [B, F S, K, P]
    of_clip, of_prompt = _attend(query, (key, value), prompt, lengths)
    return of_clip.reshape(clip.query.shape), of_prompt


def _attend(query, key_value, prompt: Prompt, lengths) -> tuple[Array, Array]:
    """Queries [B, N, K, P] and keys [B, M, K, P] of a clip, its prompt's put behind them."""
    key, value = (
        jnp.concatenate(pair, axis=1)
        for pair in zip(key_value, (prompt.key, prompt.value), strict=True)
    )
    queries = jnp.concatenate([query, prompt.query], axis=1)
    out = attend(queries, key, value, lengths + key_value[0].shape[1])
    return out[:, : query.shape[1]], out[:, query.shape[1] :]


def _split(clip: Clip, prompt: Prompt, lengths, *, tokens: int, size: int) -> Results:
    """On each of the `size` devices of a context: the clip's [B, F, S / size, K, P]."""
    b, f, s, heads, p = clip.query.shape
    ulysses = math.gcd(heads, size)
    share = heads // ulysses
    neighbours = [range(i, i + ulysses) for i in range(0, size, ulysses)]
    ring = Ring(axis="context", stride=ulysses, size=size // ulysses, places=s, tokens=tokens)

    def exchange(x):
        return jax.lax.all_to_all(x, "context", 1, 1, axis_index_groups=neighbours, tiled=True)

    def some_heads_of_all_tokens(x):  # [B, F, s, K, P] -> [B, ulysses F s, K / ulysses, P]
        heads_of_each = jnp.moveaxis(x.reshape(b, f, s, ulysses, share, p), 3, 1)
        return exchange(heads_of_each).reshape(b, ulysses * f * s, share, p)

    def some_heads(x):  # [B, L, K, P] -> [B, L, K / ulysses, P]
        first = jax.lax.axis_index("context") % ulysses * share
        return jax.lax.dynamic_slice_in_dim(x, first, share, axis=2)

    query, key, value = (some_heads_of_all_tokens(x) for x in clip)
    of_clip, of_prompt = _attend(
        query, (ring.gather(key), ring.gather(value)), Prompt(*map(some_heads, prompt)), lengths
    )
    tokens_of_each = exchange(of_clip.reshape(b, ulysses, f, s, share, p))
    of_clip = jnp.moveaxis(tokens_of_each, 1, 3).reshape(b, f, s, heads, p)
    of_prompt = jax.lax.all_gather(
        of_prompt, "context", axis_index_groups=neighbours, axis=2, tiled=True
    )
    return of_clip, of_prompt
