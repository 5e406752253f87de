import jax
import jax.numpy as jnp
import pytest

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.models.attention import blockwise, kernels
from pusa_jax.models.attention.attention import (
    attention_backend,
    cross_attention,
    pad_tokens,
    self_attention,
)
from pusa_jax.models.attention.kernels import attend, attend_in_part, backend_for
from pusa_jax.models.attention.ring import Ring
from pusa_jax.testing.compare import assert_close, relative_error

SHORT, LONG = 20, 45
"""Queries and keys; neither is a multiple of the blocks of 16 used below."""


def draw(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def plain(query, key, value):
    scores = jnp.einsum("bnkp,bmkp->bknm", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bknm,bmkp->bnkp", jax.nn.softmax(scores, axis=-1), value)


def clip(seed, frames=3, places=5, heads=4, batch=2):
    """Query, key and value [B, F, S, K, P] of a small clip."""
    return tuple(draw(batch, frames, places, heads, 6, seed=3 * seed + i) for i in range(3))


def whole(query, key, value):
    """What attention of a clip must be, computed on all tokens at once."""
    flat = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (query, key, value))
    return plain(*flat).reshape(query.shape)


def padded(query, key, value):
    tokens = query.shape[2]
    parts = (pad_tokens(x, axis=2) for x in (query, key, value))
    return self_attention(*parts, tokens=tokens)[:, :, :tokens]


def test_blocks_give_the_plain_result_and_gradient():
    args = draw(2, SHORT, 3, 8), draw(2, LONG, 3, 8, seed=1), draw(2, LONG, 3, 8, seed=2)
    weight = draw(2, SHORT, 3, 8, seed=3)

    def loss(function):
        def total(*xs):
            return (weight * function(*xs)).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))

    ours = loss(lambda *xs: blockwise.blockwise_attention(*xs, block=16))(*args)
    expected = loss(plain)(*args)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, 2e-6)


@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_parts_of_the_keys_merge_to_the_whole(backend):
    query, key, value = (
        draw(1, SHORT, 2, 8),
        draw(1, LONG, 2, 8, seed=1),
        draw(1, LONG, 2, 8, seed=2),
    )
    run = jax.jit(attend_in_part)
    with attention_backend(backend):
        starts = ((0, 30), (30, 15), (10, 0))
        parts = [
            run(query, key, value, (jnp.arange(LONG) >= at) & (jnp.arange(LONG) < at + n))
            for at, n in starts
        ]
    log_sum = jax.nn.logsumexp(jnp.stack([s for _, s in parts]), axis=0)
    merged = sum(out * jnp.exp(s - log_sum) for out, s in parts)
    assert_close(merged, plain(query, key, value), 2e-6)


def test_splash_masks_its_padding():
    query, key, value = (
        draw(2, SHORT, 2, 16),
        draw(2, 300, 2, 16, seed=1),
        draw(2, 300, 2, 16, seed=2),
    )
    with attention_backend("splash"):
        assert_close(jax.jit(attend)(query, key, value), plain(query, key, value), 2e-6)


def test_backends_agree_in_bfloat16():
    """Within two roundings of bfloat16 (2^-8 each): that of the weights and that of the result."""
    args = [draw(1, n, 2, 128, seed=n, dtype=jnp.bfloat16) for n in (300, 301)]
    args.append(draw(1, 301, 2, 128, seed=5, dtype=jnp.bfloat16))
    exact = plain(*(x.astype(jnp.float32) for x in args))
    results = [jax.jit(blockwise.blockwise_attention)(*args)]
    for backend in ("xla", "splash"):
        with attention_backend(backend):
            results.append(jax.jit(attend)(*args))
    for result in results:
        assert result.dtype == jnp.bfloat16
        assert_close(result.astype(jnp.float32), exact, 2**-7)


def test_no_buffer_of_all_scores_at_75600_tokens():
    tokens = 75_600
    x = jax.ShapeDtypeStruct((1, 21, tokens // 21, 1, 128), jnp.float32)

    def loss(*xs):
        return self_attention(*xs).sum()

    for function in (self_attention, jax.grad(loss, argnums=(0, 1, 2))):
        memory = jax.jit(function).lower(x, x, x).compile().memory_analysis()
        assert memory is not None and memory.temp_size_in_bytes < 0.05 * 4 * tokens**2


@pytest.mark.parametrize(
    ("sizes", "heads", "exchange"),
    [
        ({"context": 4}, 4, "Ulysses"),
        ({"context": 4}, 3, "ring"),
        ({"context": 8}, 4, "Ulysses 4 x ring 2"),
        ({"data": 2, "context": 2, "tensor": 2}, 4, "Ulysses with heads and clips split"),
        ({"context": 4, "tensor": 2}, 2, "ring with heads split"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_split_attention_equals_whole(sizes, heads, exchange):
    count = 1
    for size in sizes.values():
        count *= size
    args = clip(1, heads=heads)
    with jax.set_mesh(make_mesh(sizes, jax.devices()[:count])):
        assert_close(jax.jit(padded)(*args), whole(*args), 2e-6, exchange)


def test_gradients_pass_through_ulysses_and_ring():
    args, weight = clip(2), clip(3)[0]

    def loss(function):
        return jax.jit(jax.grad(lambda *xs: (weight * function(*xs)).sum(), argnums=(0, 1, 2)))

    expected = loss(whole)(*args)
    with jax.set_mesh(make_mesh({"context": 8})):
        ours = loss(padded)(*args)
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b, 2e-6)


@pytest.mark.parametrize("places", [1, 16])
def test_frames_of_any_size_can_be_split(places):
    """Down to a single place in a frame: then seven of eight devices hold nothing but padding."""
    args = clip(4, places=places)
    with jax.set_mesh(make_mesh({"context": 8})):
        assert_close(jax.jit(padded)(*args), whole(*args), 2e-6)


def test_padding_would_be_seen_if_it_were_not_masked():
    args = clip(5)
    with jax.set_mesh(make_mesh({"context": 8})):
        parts = (pad_tokens(x, axis=2) for x in args)
        assert relative_error(jax.jit(self_attention)(*parts)[:, :, :5], whole(*args)) > 0.1


def test_keys_gathered_from_a_ring_are_in_order():
    """The path of cuDNN, whose kernel is not here: gather, then attend to all keys."""
    ring = Ring(axis="context", stride=2, size=4, places=2, tokens=14)
    mesh = make_mesh({"context": 8})
    keys = jnp.arange(16.0)[None, :, None, None]
    ranks = [i // 2 for i in range(8)]  # devices 0, 2, 4, 6 form one ring, 1, 3, 5, 7 the other
    blocks = jnp.concatenate([keys[:, 4 * r : 4 * r + 4] for r in ranks], axis=1)
    spread = jax.P(None, "context")
    with jax.set_mesh(mesh):
        gather = jax.shard_map(ring.gather, in_specs=spread, out_specs=spread, check_vma=False)
        gathered = gather(blocks).reshape(8, 14)
    assert (gathered == jnp.arange(14.0)[None]).all()


def test_text_keys_are_the_same_everywhere():
    query, key, value = clip(6)[0], draw(2, 7, 4, 6, seed=1), draw(2, 7, 4, 6, seed=2)
    expected = plain(query.reshape(2, -1, 4, 6), key, value).reshape(query.shape)
    with jax.set_mesh(make_mesh({"data": 2, "context": 4})):
        split = jax.jit(lambda *xs: cross_attention(pad_tokens(xs[0], axis=2), *xs[1:]))
        assert_close(split(query, key, value)[:, :, :5], expected, 2e-6)


@pytest.mark.parametrize("backend", ["xla", "splash", "blocks"])
def test_keys_beyond_a_clips_length_are_not_seen(backend, monkeypatch):
    """Each clip of a batch has a number of keys of its own, and gradients of its own."""
    query, key, value = draw(2, SHORT, 2, 8), draw(2, 45, 2, 8, seed=1), draw(2, 45, 2, 8, seed=2)
    weight, lengths = draw(2, SHORT, 2, 8, seed=3), jnp.asarray([45, 17])
    if backend == "blocks":
        monkeypatch.setattr(kernels, "PLAIN_SCORES_LIMIT", 0)

    def loss(function):
        return jax.value_and_grad(lambda *xs: (weight * function(*xs)).sum(), argnums=(0, 1, 2))

    def one_by_one(query, key, value):
        clips = [
            plain(q[None], k[None, :n], v[None, :n])
            for q, k, v, n in zip(query, key, value, (45, 17), strict=True)
        ]
        return jnp.concatenate(clips)

    expected = loss(one_by_one)(query, key, value)
    with attention_backend("auto" if backend == "blocks" else backend):
        ours = jax.jit(loss(lambda *xs: attend(*xs, lengths)))(query, key, value)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, 2e-6)


def test_heads_that_tensor_does_not_divide_are_refused():
    with jax.set_mesh(make_mesh({"tensor": 8})):
        with pytest.raises(
            ValueError, match=r"tensor=8 does not divide the 12 heads; use one of .1, 2, 3, 4"
        ):
            jax.eval_shape(self_attention, *clip(7, heads=12))


def test_unpadded_tokens_are_refused():
    with jax.set_mesh(make_mesh({"context": 8})):
        with pytest.raises(ValueError, match=r"5 tokens are not divisible by context=8"):
            jax.eval_shape(self_attention, *clip(7))


def test_backend_is_part_of_what_is_compiled():
    traced = []

    @jax.jit
    def run(x):
        traced.append(backend_for(x))
        return x

    x = draw(1, 4, 1, 8)
    run(x)
    for backend in ("splash", "xla", "splash"):
        with attention_backend(backend):
            run(x)
    run(x)
    assert traced == ["xla", "splash", "xla"]


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(ValueError, match="known: auto, xla, cudnn, splash"):
        attention_backend("flash")
