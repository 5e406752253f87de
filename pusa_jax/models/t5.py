"""The T5 text encoders UMT5 and T5 v1.1: pre-norm blocks with a bias for relative positions.

Three things set it apart from most transformers: scores are not divided by the square root of the
head dimension, no layer has a bias vector, and positions enter only as a learned number per head
and bucket of distance, added to the scores. UMT5 has such a table in every layer, T5 v1.1 one that
all layers share.

  ids [B,L] -> embedding -> blocks: x += attention(norm1(x)); x += ffn(norm2(x)) -> norm -> [B,L,D]
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from pusa_jax.models.layers import RMSNorm
from pusa_jax.typing import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A T5 text encoder; the defaults are UMT5-XXL's.

    Attributes:
      shared_positions: whether one table of positions serves all layers (T5 v1.1).
      text_len: padded prompt length that the DiT attends to.
    """

    vocab: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128
    shared_positions: bool = False
    eps: float = 1e-6
    text_len: int = 512
    param_dtype: Precision = "float32"
    compute_dtype: Precision = "float32"


def relative_position_bucket(
    offset: Int[np.ndarray, "*shape"], num_buckets: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
    """Bucket of each offset, key position minus query position; computed on the host.

    Half of the buckets are for keys after the query. Of each half, the first half holds one
    distance each; the others grow logarithmically up to `max_distance`, the last holds the rest.

    Returns:
      Buckets in [0, num_buckets), int32.
    """
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # Parity: float32 as in the original, so that distances on a boundary fall on the same side.
    octaves = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    grown = octaves / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + grown.astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, far) + half * (offset > 0)).astype(np.int32)


class Attention(nnx.Module):
    """Self-attention with a bias added to unscaled scores; scores and softmax are float32."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        dtypes = {"dtype": config.compute_dtype, "param_dtype": config.param_dtype}
        linear = functools.partial(nnx.Linear, use_bias=False, **dtypes, rngs=rngs)
        self.num_heads = config.num_heads
        # A fresh query is drawn smaller by the 1 / sqrt(head dimension) that the scores lack.
        small = nnx.initializers.variance_scaling(
            config.num_heads / config.dim_attn, "fan_in", "truncated_normal"
        )
        self.q = linear(config.dim, config.dim_attn, kernel_init=small)
        self.k = linear(config.dim, config.dim_attn)
        self.v = linear(config.dim, config.dim_attn)
        self.o = linear(config.dim_attn, config.dim)

    def __call__(
        self, x: Float[Array, "B L D"], bias: Float[Array, "B K L L"]
    ) -> Float[Array, "B L D"]:
        """Every token looks at every token; `bias` holds position and padding."""
        b, l, _ = x.shape
        query, key, value = (
            p(x).reshape(b, l, self.num_heads, -1) for p in (self.q, self.k, self.v)
        )
        scores = jnp.einsum("bqkp,bmkp->bkqm", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(value.dtype)
        return self.o(jnp.einsum("bkqm,bmkp->bqkp", weights, value).reshape(b, l, -1))


class FeedForward(nnx.Module):
    """fc2(fc1(x) * gelu(gate(x))), GELU in its tanh form."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        dtypes = {"dtype": config.compute_dtype, "param_dtype": config.param_dtype}
        linear = functools.partial(nnx.Linear, use_bias=False, **dtypes, rngs=rngs)
        self.gate = linear(config.dim, config.dim_ffn)
        self.fc1 = linear(config.dim, config.dim_ffn)
        self.fc2 = linear(config.dim_ffn, config.dim)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Transforms each token by itself."""
        return self.fc2(self.fc1(x) * jax.nn.gelu(self.gate(x), approximate=True))


def _positions(config: TextConfig, rngs: nnx.Rngs) -> nnx.Embed:
    """Bias of every head for each bucket of distance."""
    return nnx.Embed(
        config.num_buckets,
        config.num_heads,
        dtype=jnp.float32,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


class Block(nnx.Module):
    """Attention and feed-forward, each on the normed stream and added to it."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        norm = functools.partial(RMSNorm, config.dim, config.eps, param_dtype=config.param_dtype)
        self.dtype = config.compute_dtype
        self.norm1 = norm()
        self.attn = Attention(config, rngs=rngs)
        if not config.shared_positions:
            self.pos_embedding = _positions(config, rngs)
        self.norm2 = norm()
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        bias: Float[Array, "B K L L"],
    ) -> Float[Array, "B L D"]:
        """Adds attention and feed-forward to the stream.

        Args:
          x: the stream, in the compute dtype.
          bias: of each query (row) and key (column), for positions and padding.
        """
        h = self.norm1(x).astype(self.dtype)
        x = x + self.attn(h, bias)
        return x + self.ffn(self.norm2(x).astype(self.dtype))


class T5Encoder(nnx.Module):
    """Token ids -> features, one vector per token."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.token_embedding = nnx.Embed(
            config.vocab,
            config.dim,
            dtype=config.compute_dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        if config.shared_positions:
            self.pos_embedding = _positions(config, rngs)
        self.blocks = jax.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.num_layers))
        self.norm = RMSNorm(config.dim, config.eps, param_dtype=config.param_dtype)

    def __call__(self, ids: Int[Array, "B L"], mask: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Encodes token ids.

        Args:
          ids: tokens in [0, vocab), any number of them (nothing is tied to the trained length).
          mask: 1 where there is a token, 0 where there is padding. Padding is never looked at, so
            features of tokens do not depend on it; the rows of the padding itself are meaningless.

        Returns:
          Features in the compute dtype.
        """
        config = self.config
        positions = np.arange(ids.shape[1])
        offsets = positions[None, :] - positions[:, None]
        buckets = jnp.asarray(
            relative_position_bucket(offsets, config.num_buckets, config.max_distance)
        )
        # Parity: the lowest finite number, so that a row without any token stays finite.
        padding_bias = jnp.where(mask == 0, jnp.finfo(jnp.float32).min, 0.0)[:, None, None]

        def bias_of(owner):  # [B, K, L, L]
            return jnp.moveaxis(owner.pos_embedding(buckets), -1, 0)[None] + padding_bias

        shared = bias_of(self) if config.shared_positions else None

        def run_block(x, block):
            return block(x, bias_of(block) if shared is None else shared), None

        x, _ = jax.lax.scan(run_block, self.token_embedding(ids), self.blocks)
        return self.norm(x).astype(config.compute_dtype)
