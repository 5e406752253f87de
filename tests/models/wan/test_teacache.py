"""TeaCache's rule on numbers of one's own; what it leads to is recorded (tests/parity)."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.diffusion.config import TeaCache
from pusa_jax.models.wan import teacache
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import random_module

LINE = (1.0, 0.0)
"""A polynomial that takes changes as they are."""

NEVER = [False] * 6


def dit(seed=0):
    config = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=8, text_len=4)
    return random_module(lambda: WanDiT(config, rngs=nnx.Rngs(0)), seed)


def test_steps_are_left_out_until_changes_reach_the_threshold():
    changed = np.asarray([0, 0.1, 0.1, 0.1, 0.25, 0.1])
    steps, sums = teacache.left_out(changed, 0.25, LINE, NEVER)
    assert steps == [False, True, True, False, False, False]
    np.testing.assert_allclose(sums, [0, 0.1, 0.2, 0, 0, 0])


def test_the_last_step_is_computed_whatever_has_changed():
    changed = np.full(6, 0.01)
    assert teacache.left_out(changed, 9.0, LINE, NEVER)[0] == [False, *[True] * 4, False]


def test_the_polynomial_begins_with_the_highest_power():
    assert (
        teacache.left_out(np.asarray([0, 0.5, 0.5, 0]), 9.0, (2.0, 0.0, 1.0), NEVER)[1][1]
        == 2 * 0.5**2 + 1
    )


def test_the_first_step_of_another_expert_is_computed_unless_as_in_the_original():
    """Its change may lie far outside the polynomial: the original then leaves out all the rest."""
    dits, told = [dit(0), dit(1)], np.linspace(1000, 100, 6)[:, None] * np.ones((1, 3))
    told, served = told.astype(np.float32), [0, 0, 0, 1, 1, 1]
    is_new = [i == 3 for i in range(6)]
    rules = {
        original: teacache.decide(
            TeaCache(threshold=1e9, polynomial="1.3B", original=original),
            lambda i: dits[i],
            told,
            served,
            is_new,
        )
        for original in (False, True)
    }
    assert rules[False] == [False, True, True, False, True, False]
    assert rules[True] == [False, True, True, True, True, False]


def test_a_change_is_the_mean_over_all_tokens():
    """A frame that is told the same at every step halves the mean of two."""
    both, one = np.linspace(900, 100, 4)[:, None] * np.ones((1, 2)), np.ones((4, 2)) * 900
    one[:, 0] = both[:, 0]
    found = [
        teacache.changes(lambda i: dit(), told.astype(np.float32), [0] * 4) for told in (both, one)
    ]
    assert (found[1][1:] < found[0][1:]).all() and found[0][0] == 0
    rows = [np.asarray(dit().embed_timestep(jnp.float32(t))[1]) for t in both[:2, 0]]
    right = np.abs(rows[1] - rows[0]).mean() / np.abs(rows[0]).mean()
    assert found[0][1] == pytest.approx(right, rel=1e-5)


def test_a_residual_stands_for_the_blocks():
    network, x = dit(), jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 4, 4, 16)))
    x, told = x.astype(jnp.float32), jnp.asarray([[500.0, 300.0]])
    text = network.project_text(jnp.ones((1, 4, 8)))
    velocity, residual = teacache.velocity_and_residual(network, x, told, text, None)
    np.testing.assert_allclose(velocity, network(x, told, text), rtol=2e-5, atol=2e-5)
    nothing = network.project_text(jnp.full((1, 4, 8), jnp.nan))
    again, same = teacache.velocity_and_residual(network, x, told, nothing, residual)
    np.testing.assert_allclose(again, velocity, rtol=2e-5, atol=2e-5)
    assert np.array_equal(same, residual)


def test_the_polynomial_goes_by_the_width_or_by_name():
    def of(dim, name=None):
        cache = TeaCache(threshold=0.2, polynomial=name)
        return teacache.polynomial_of(
            cache, DiTConfig(dim=dim, ffn_dim=8, num_heads=dim // 32, num_layers=1)
        )

    assert of(1536) == teacache.POLYNOMIALS["1.3B"] and of(5120) == teacache.POLYNOMIALS["14B"]
    assert of(64, "14B") == teacache.POLYNOMIALS["14B"]
    with pytest.raises(ValueError, match=r"published for 1.3B and 14B, not for a network of width"):
        of(64)
    with pytest.raises(ValueError, match="not for 5B"):
        of(64, "5B")
