"""Attention along one axis of a clip's tokens: within each frame, or through time at each place.

On a mesh clips are split over `data`, places over `context` and heads over `tensor`, as for
`self_attention`. Within frames that is its exchange, each frame being a clip; through time every
device has all it needs.
"""

import jax
from jaxtyping import Array, Float

from pusa_jax.devices.sharding import AXES, fit
from pusa_jax.models.attention.attention import OF_CLIP, check_split, island, self_attention
from pusa_jax.models.attention.kernels import attend

Tokens = Float[Array, "B F S K P"]
"""Queries, keys or values of a clip, split into heads K of P channels."""


def attention_within_frames(
    query: Tokens, key: Tokens, value: Tokens, *, tokens: int | None = None
) -> Tokens:
    """softmax(query . key / sqrt(P)) . value: every token sees those of its own frame.

    Args:
      query: of the clip's tokens.
      key: cut over the mesh as the queries are.
      value: as the keys.
      tokens: how many of the S tokens of a frame are real, see `pad_tokens`; all, if not given.

    Raises:
      ValueError: the mesh does not divide heads or tokens.
    """

    def alone(x):  # [B, F, S, K, P] -> [B F, 1, S, K, P]
        return x.reshape(-1, 1, *x.shape[2:])

    out = self_attention(alone(query), alone(key), alone(value), tokens=tokens)
    return out.reshape(query.shape)


def attention_through_time(query: Tokens, key: Tokens, value: Tokens) -> Tokens:
    """As `attention_within_frames`: every token sees those of its own place in all frames.

    Raises:
      ValueError: the mesh does not divide heads or tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _through_time(query, key, value)
    sizes = {axis: mesh.shape.get(axis, 1) for axis in AXES}
    check_split(query, sizes)
    spec = fit(query.shape, OF_CLIP, sizes)
    return island(_through_time, (spec, spec, spec))(query, key, value)


def _through_time(query, key, value):
    b, f, s, *heads = query.shape
    by_place = (x.swapaxes(1, 2).reshape(b * s, f, *heads) for x in (query, key, value))
    return attend(*by_place).reshape(b, s, f, *heads).swapaxes(1, 2)
