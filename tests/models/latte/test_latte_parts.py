"""Sharding rules and formulae of FVDM's networks."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from pusa_jax.devices.sharding import unused_rules
from pusa_jax.models.latte import flops, sharding
from pusa_jax.models.latte.config import DiTConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.weights.leaves import shapes_of


def test_no_rule_is_for_nothing_and_no_large_leaf_stays_whole():
    shapes = shapes_of(lambda: LatteVideo(DiTConfig(num_classes=101), rngs=nnx.Rngs(0)))
    unused = unused_rules(shapes, sharding.DIT)
    assert not [r for r in unused if not any(a in r for a in ("lora_a", "lora_b"))]
    for path, leaf in shapes.items():
        rule = next(spec for pattern, spec in sharding.DIT if re.search(pattern, path))
        assert leaf.size < 2**20 or any(rule), path


def counted(frames: int, levels: int) -> tuple[DiTConfig, tuple[int, ...], float]:
    """At a size without loops: the compiler counts the body of a scan once."""
    config = DiTConfig(dim=64, num_heads=4, num_layers=2, num_frames=frames, grid=(4, 6))
    dit = nnx.eval_shape(lambda: LatteVideo(config, rngs=nnx.Rngs(0)))
    shape = (1, frames, 8, 12, 4)
    args = [np.zeros(s, np.float32) for s in (shape, (1, levels), (1, 64))]
    lowered = jax.jit(lambda d, x, t, y: d(x, t, y)).lower(dit, *args)
    analysis = lowered.cost_analysis()
    assert analysis is not None
    return config, shape, analysis["flops"]


@pytest.mark.parametrize("levels", [5, 1])
def test_flops_are_those_that_the_compiler_counts(levels):
    config, shape, count = counted(5, levels)
    assert flops.velocity_flops(config, shape, levels) == pytest.approx(count, rel=0.1)


def test_attention_and_rows_make_up_the_whole():
    config, shape = DiTConfig(num_layers=4), (1, 16, 32, 32, 4)
    layers = shapes_of(lambda: LatteVideo(config, rngs=nnx.Rngs(0)))
    linear = sum(
        2 * leaf.size * flops.linear_rows(config, shape, path.removesuffix("/kernel"))
        for path, leaf in layers.items()
        if path.endswith("/kernel")
    )
    whole = flops.velocity_flops(config, shape)
    assert linear + flops.attention_flops(config, shape) == whole
    assert flops.velocity_flops(config, (3, *shape[1:])) == 3 * whole
