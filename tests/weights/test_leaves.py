import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.weights.leaves import assemble, leaves_of, shapes_of

CONFIG = DiTConfig(
    dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=8, text_len=4, freq_dim=16
)


def build():
    return WanDiT(CONFIG, rngs=nnx.Rngs(0))


def test_taking_apart_and_putting_together_is_the_identity():
    dit = build()
    leaves = leaves_of(dit)
    again = assemble(build, leaves)
    assert leaves_of(again).keys() == shapes_of(build).keys()
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), leaves, leaves_of(again))
    assert all(same.values())


def test_a_leaf_of_another_shape_is_named():
    leaves = leaves_of(build())
    leaves["head/linear/bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"head/linear/bias is \(3,\), the model has \(64,\)"):
        assemble(build, leaves)
