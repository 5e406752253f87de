"""Attention within frames and through time, against attention written out for one head."""

import jax
import numpy as np
import pytest

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.models.attention.factored import attention_through_time, attention_within_frames
from pusa_jax.testing.compare import assert_close

HEADS = np.random.default_rng(0).standard_normal((3, 2, 3, 4, 2, 8)).astype(np.float32)
"""Queries, keys and values [B, F, S, K, P]."""


def written_out(query, key, value):
    """softmax(query . key / sqrt(P)) . value of [n, P]."""
    scores = np.exp(query @ key.T / np.sqrt(query.shape[-1]))
    return scores / scores.sum(-1, keepdims=True) @ value


def along(axis):
    """Every row of tokens along frames (1) or places (2) by itself."""
    out = np.zeros_like(HEADS[0])
    other = 3 - axis
    for b, i, head in np.ndindex(2, HEADS.shape[1 + other], 2):
        where = (b, i, slice(None), head) if axis == 2 else (b, slice(None), i, head)
        out[where] = written_out(*(x[where] for x in HEADS))
    return out


WAYS = {"within frames": (attention_within_frames, 2), "through time": (attention_through_time, 1)}


@pytest.mark.parametrize("way", WAYS)
def test_tokens_see_those_along_one_axis(way):
    attend, axis = WAYS[way]
    assert_close(jax.jit(attend)(*HEADS), along(axis), 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_mesh_gives_what_one_device_gives(way):
    attend, axis = WAYS[way]
    with jax.set_mesh(make_mesh({"data": 2, "context": 2, "tensor": 2})):
        assert_close(jax.jit(attend)(*HEADS), along(axis), 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_mesh_that_does_not_divide_the_heads_is_refused(way):
    attend, _ = WAYS[way]
    with (
        jax.set_mesh(make_mesh({"data": 2, "tensor": 4})),
        pytest.raises(ValueError, match="tensor=4 does not divide the 2 heads"),
    ):
        jax.jit(attend)(*HEADS)
