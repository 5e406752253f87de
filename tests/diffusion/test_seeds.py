"""Seeds: 64 bits, and below 2**32 what they have always meant."""

import jax
import numpy as np
import pytest

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.seeds import random_key

BITS = {
    0: [4070199207, 4202968722, 1427181096],
    2**32: [31327077, 89727312, 2497208264],
    2**32 + 7: [2899676959, 3548400998, 1692160380],
    2**64 - 1: [3335868561, 3946171722, 2156512007],
}
"""Seed -> the first random bits drawn from it: videos are made again by their seeds."""


@pytest.mark.parametrize("seed", BITS)
def test_a_seed_keeps_its_noise(seed):
    assert SamplingConfig(seed=seed).seed == seed
    assert np.asarray(jax.random.bits(random_key(seed), (3,))).tolist() == BITS[seed]


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_seeds_of_32_bit_are_those_of_jax(seed):
    np.testing.assert_array_equal(
        jax.random.normal(random_key(seed), (4,)), jax.random.normal(jax.random.key(seed), (4,))
    )


def test_no_bit_of_a_seed_is_dropped():
    seeds = [0, *(2**n for n in range(64))]
    keys = {tuple(np.asarray(jax.random.key_data(random_key(seed))).tolist()) for seed in seeds}
    assert len(keys) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be 0 to {2**64 - 1}, got {seed}"):
        SamplingConfig(seed=seed)
