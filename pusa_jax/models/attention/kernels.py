"""Attention on one device: which kernel runs, and what each of them needs.

- xla: plain XLA, all scores at once where they are few, block by block where not; anywhere.
- cudnn: flash attention of cuDNN; GPUs, half precision, head dimension up to 128.
- splash: the Pallas kernel that comes with jax; TPUs.
"""

import functools
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pusa_jax.models.attention.blockwise import (
    Keys,
    Normaliser,
    Queries,
    blockwise_attention,
    forward,
)
from pusa_jax.models.remat import ATTENTION

Backend = Literal["auto", "xla", "cudnn", "splash"]

PLAIN_SCORES_LIMIT = 2**28
"""Bytes of scores up to which plain XLA holds them all."""

SPLASH_BLOCK = 1024
SPLASH_KEYS_AT_ONCE = 512
"""Tokens of a tile; these fit the vector memory of v5e, v5p and v6e with head dimension 128."""

LANES = 128
"""Splash counts keys in multiples of this."""

_chosen = jax.make_user_context("auto")


def attention_backend(name: str) -> AbstractContextManager:
    """Chooses the kernel inside a `with` block; jit keeps programs of different choices apart.

    Raises:
      ValueError: no such backend.
    """
    if name not in get_args(Backend):
        raise ValueError(
            f"unknown attention backend {name!r}; known: {', '.join(get_args(Backend))}."
        )
    return _chosen(name)


def platform() -> str:
    """Platform compiled for: that of the mesh's devices, which need not be there, or jax's own."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def backend_for(query: Queries) -> str:
    """The kernel `attend` runs for such queries: the chosen one, else the platform's if it can."""
    if _chosen.value != "auto":
        return _chosen.value
    head_dim = query.shape[-1]
    if platform() == "tpu" and head_dim <= 256:
        return "splash"
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    if platform() in ("gpu", "cuda") and half and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    return "xla"


def attend(
    query: Queries, key: Keys, value: Keys, lengths: Int[Array, " B"] | None = None
) -> Queries:
    """softmax(query . key / sqrt(P)) . value of each head.

    Args:
      query: [B, N, K, P].
      key: [B, M, K, P].
      value: as the keys.
      lengths: how many of the keys of each clip are real, the first ones; all, if not given.
    """
    dot_product = functools.partial(
        jax.nn.dot_product_attention, query, key, value, key_value_seq_lengths=lengths
    )
    match backend_for(query):
        case "splash":
            return _splash(query, key, value, lengths=lengths)[0]
        case "cudnn":
            return dot_product(implementation="cudnn")
    b, n, k, _ = query.shape
    if 4 * b * n * k * key.shape[1] <= PLAIN_SCORES_LIMIT:
        return dot_product(implementation="xla")
    if lengths is None:
        return blockwise_attention(query, key, value)
    one = jax.vmap(blockwise_attention)  # each clip has keys of its own
    is_key = jnp.arange(key.shape[1])[None] < lengths[:, None]
    return one(query[:, None], key[:, None], value[:, None], is_key)[:, 0]


def attend_in_part(
    query: Queries, key: Keys, value: Keys, is_key: Bool[Array, " M"]
) -> tuple[Queries, Normaliser]:
    """Attention over those keys that are not padding, and its normaliser to merge it with others.

    Not differentiable. Never cuDNN, which hands out its normaliser in half precision only.
    """
    if backend_for(query) == "splash":
        return _splash(query, key, value, is_key)  # pyright: ignore[reportReturnType]
    return forward(query, key, value, is_key)


def _splash(
    query: Queries,
    key: Keys,
    value: Keys,
    is_key: Bool[Array, " M"] | None = None,
    lengths: Int[Array, " B"] | None = None,
) -> tuple[Queries, Normaliser | None]:
    """Attention; given `is_key` over these keys only, and with the normaliser.

    Given `lengths`, over so many keys of each clip.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (_, n, k, p), m = query.shape, key.shape[1]
    partial = is_key is not None
    block_n, block_m = (min(SPLASH_BLOCK, -(-x // LANES) * LANES) for x in (n, m))
    at_once = SPLASH_KEYS_AT_ONCE if block_m % SPLASH_KEYS_AT_ONCE == 0 else LANES
    query = query * jnp.asarray(p**-0.5, query.dtype)
    query, key, value = (
        jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % block), (0, 0)))
        for x, block in ((query, block_n), (key, block_m), (value, block_m))
    )  # [B, K, tokens, P]
    all_pairs = splash.FullMask((query.shape[2], key.shape[2]))
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([all_pairs] * k),
        block_sizes=splash.BlockSizes(
            block_q=block_n,
            block_kv=block_m,
            block_kv_compute=at_once,
            block_q_dkv=block_n,
            block_kv_dkv=block_m,
            block_kv_dkv_compute=at_once,
            block_q_dq=block_n,
            block_kv_dq=block_m,
        ),
        head_shards=1,
        q_seq_shards=1,
        save_residuals=partial,
        residual_checkpoint_name=ATTENTION,
        interpret=platform() == "cpu",
    )
    segments, axes = None, None
    if lengths is not None:
        seen = (jnp.arange(key.shape[2])[None] < lengths[:, None]).astype(jnp.int32)  # [B, M]
        segments = splash.SegmentIds(q=jnp.ones((len(seen), query.shape[2]), jnp.int32), kv=seen)
        axes = 0
    elif partial or key.shape[2] > m:
        seen = jnp.ones(m, bool) if is_key is None else is_key
        seen = jnp.pad(seen, (0, key.shape[2] - m)).astype(jnp.int32)
        segments = splash.SegmentIds(q=jnp.ones(query.shape[2], jnp.int32), kv=seen)
    result: Any = jax.vmap(kernel, in_axes=(0, 0, 0, axes))(query, key, value, segments)
    out, normaliser = (result[0], result[1][0][..., None]) if partial else (result, None)
    out = jnp.swapaxes(out[:, :, :n], 1, 2)
    return out, None if normaliser is None else jnp.swapaxes(normaliser[:, :, :n], 1, 2)
