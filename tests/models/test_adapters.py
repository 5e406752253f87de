import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import merged

from pusa_jax.models.adapters import (
    AdaptedLinear,
    AdapterConfig,
    adapted_layers,
    as_lora,
    attach,
    init_adapters,
)
from pusa_jax.models.families import preset
from pusa_jax.models.lora import Target, merge
from pusa_jax.models.wan.config import BLOCK_LINEARS
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import assert_close
from pusa_jax.weights.leaves import shapes_of

SHAPES = {
    "blocks/self_attn/q/kernel": jax.ShapeDtypeStruct((3, 8, 6), jnp.bfloat16),
    "blocks/self_attn/q/bias": jax.ShapeDtypeStruct((3, 6), jnp.bfloat16),
    "blocks/ffn/up/kernel": jax.ShapeDtypeStruct((3, 8, 10), jnp.bfloat16),
    "head/linear/kernel": jax.ShapeDtypeStruct((8, 4), jnp.bfloat16),
}


def random_adapters(config):
    fresh = init_adapters(SHAPES, config, jax.random.key(0))
    return {
        p: jax.random.normal(jax.random.key(i), x.shape) for i, (p, x) in enumerate(fresh.items())
    }


@pytest.mark.parametrize(("name", "count"), [("wan2.1-t2v-14b", 2_453_667_840)])
def test_pusa_adapts_four_hundred_layers(name, count):
    config = preset(name).dit
    shapes = shapes_of(lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    adapter = AdapterConfig(targets=preset(name).family.lora_targets)
    adapters = jax.eval_shape(lambda k: init_adapters(shapes, adapter, k), jax.random.key(0))
    assert len(adapted_layers(shapes, adapter.targets)) * config.num_layers == 400
    assert sum(leaf.size for leaf in adapters.values()) == count


def test_kaiming_is_uniform_within_the_root_of_the_inputs():
    shapes = {"q/kernel": jax.ShapeDtypeStruct((400, 30), jnp.float32)}
    a = init_adapters(shapes, AdapterConfig(rank=64, targets="q"), jax.random.key(0))["q/lora_a"]
    assert np.abs(a).max() <= 0.05 and np.abs(a).max() > 0.049
    assert float(a.std()) == pytest.approx(0.05 / 3**0.5, rel=0.02)
    gaussian = AdapterConfig(rank=64, init="gaussian", targets="q")
    a = init_adapters(shapes, gaussian, jax.random.key(0))["q/lora_a"]
    assert float(a.std()) == pytest.approx(1 / 64, rel=0.02)


def test_fresh_adapters_are_float32_and_add_nothing():
    adapters = init_adapters(
        SHAPES, AdapterConfig(rank=2, targets=BLOCK_LINEARS), jax.random.key(0)
    )
    assert {x.dtype for x in adapters.values()} == {jnp.dtype("float32")}
    assert not any(x.any() for p, x in adapters.items() if p.endswith("lora_b"))
    assert sorted(adapters) == sorted(
        f"blocks/{p}/{f}" for p in ("self_attn/q", "ffn/up") for f in ("lora_a", "lora_b")
    )


def test_an_adapted_stack_computes_what_the_merged_stack_does():
    config = AdapterConfig(rank=2, alpha=3.0, targets="layer")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layer = jax.vmap(lambda r: nnx.Linear(6, 6, rngs=r))(rngs.split(3))

    model, whole = Model(nnx.Rngs(0)), Model(nnx.Rngs(0))
    leaves = {"layer/kernel": model.layer.kernel[...]}
    shapes = {"layer/kernel": jax.ShapeDtypeStruct((3, 6, 6), jnp.float32)}
    fresh = init_adapters(shapes, config, jax.random.key(1))
    adapters = {p: jax.random.normal(jax.random.key(2), x.shape) for p, x in fresh.items()}
    attach(model, adapters, config.scale)
    kernel = merged(leaves, adapters, config.scale)["layer/kernel"]
    whole.layer.kernel.set_value(jnp.asarray(kernel))
    x = jax.random.normal(jax.random.key(3), (4, 6))

    def run(stack):
        return jax.lax.scan(lambda x, layer: (layer(x), None), x, stack)[0]

    assert_close(run(model.layer), run(whole.layer), 1e-6)
    assert relative_change(run(model.layer), run(Model(nnx.Rngs(0)).layer)) > 0.1


def relative_change(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def test_as_lora_merges_to_the_same_weights():
    config = AdapterConfig(rank=2, alpha=3.0, targets=".*")
    adapters = random_adapters(config)
    leaves = {p: jax.random.normal(jax.random.key(9), s.shape) for p, s in SHAPES.items()}
    lora = as_lora(adapters, config.alpha)
    assert Target("head/linear") in lora.modules and len(lora.modules) == 3 + 3 + 1
    ours, theirs = merged(leaves, adapters, config.scale), merge(leaves, lora)
    for path, leaf in ours.items():
        assert_close(leaf, theirs[path], 1e-6, path)


def test_rank_zero_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        AdapterConfig(rank=0, targets="q")


def test_targets_that_match_nothing_list_the_layers():
    with pytest.raises(ValueError, match=r"'blocks/q' matches no layer; there are blocks/ffn/up"):
        adapted_layers(SHAPES, "blocks/q")


@pytest.mark.parametrize("part", ["blocks/self_attn", "self_attn/q"])
def test_targets_name_whole_paths(part):
    with pytest.raises(ValueError, match="matches no layer"):
        adapted_layers(SHAPES, part)


def test_no_two_layers_begin_alike():
    shapes = {f"{x}/kernel": jax.ShapeDtypeStruct((2, 8, 6), jnp.float32) for x in "pq"}
    fresh = init_adapters(shapes, AdapterConfig(rank=3, targets="."), jax.random.key(0))
    layers = np.concatenate([fresh["p/lora_a"], fresh["q/lora_a"]])
    assert len(np.unique(layers)) == layers.size


def test_an_adapted_layer_computes_in_the_dtype_of_its_base():
    base = nnx.Linear(4, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer = AdaptedLinear(base, jnp.ones((4, 2)), jnp.ones((2, 3)), 0.5)
    assert layer(jnp.ones((1, 4))).dtype == jnp.bfloat16


def test_a_merge_is_rounded_once():
    kernel = jnp.full((1, 1), 1.0, jnp.bfloat16)  # the next value is 1 + 2^-7
    adapters = {"q/lora_a": jnp.full((1, 1), 2.0**-8 + 2.0**-17), "q/lora_b": jnp.ones((1, 1))}
    got = merge({"q/kernel": kernel}, as_lora(adapters, 1.0))["q/kernel"]
    assert got.dtype == jnp.bfloat16 and got[0, 0] == 1 + 2.0**-7
