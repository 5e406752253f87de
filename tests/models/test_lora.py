from itertools import permutations

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pusa_jax.models.lora import (
    MERGE_RULES,
    LoRA,
    LowRank,
    Target,
    merge,
    merge_all,
    rank_stabilised,
)
from pusa_jax.testing.compare import assert_close

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def low_rank(rank=2, into=6, out=4, alpha=None):
    return LowRank(normal(rank, into), normal(out, rank), alpha)


def model(dtype=jnp.float32):
    return {
        "blocks/q/kernel": jnp.asarray(normal(3, 6, 4), dtype),
        "blocks/q/bias": jnp.zeros((3, 4)),
        "head/kernel": jnp.asarray(normal(6, 4), dtype),
    }


@pytest.mark.parametrize(
    ("rule", "alpha", "scale"),
    [
        ("pusa", None, 1.4),
        ("pusa", 8.0, 1.4),
        ("file_alpha", None, 1.4),
        ("file_alpha", 8.0, 1.4 * 8 / 2),
        ("file_alpha", 0.0, 0.0),
        ("lightx2v", None, 1.4 / 2),
        ("lightx2v", 0.0, 0.0),
        ("lightx2v", 8.0, 8 / 2),
    ],
)
def test_each_rule_scales_as_its_tool_does(rule, alpha, scale):
    leaves, module = model(), low_rank(alpha=alpha)
    merged = merge(leaves, LoRA({Target("head"): module}), 1.4, rule)["head/kernel"]
    expected = np.asarray(leaves["head/kernel"]) + scale * (module.up @ module.down).T
    assert_close(merged, expected, 1e-6)


def test_layers_without_an_adapter_and_other_leaves_stay_the_same():
    leaves = model()
    lora = LoRA({Target("blocks/q", 2): low_rank(3), Target("blocks/q", 0): low_rank(1)})
    merged = merge(leaves, lora)
    before, after = (np.asarray(x["blocks/q/kernel"]) for x in (leaves, merged))
    np.testing.assert_array_equal(after[1], before[1])
    for layer in (0, 2):
        module = lora.modules[Target("blocks/q", layer)]
        assert_close(after[layer], before[layer] + (module.up @ module.down).T, 1e-6)
    assert merged["head/kernel"] is leaves["head/kernel"]
    assert merged["blocks/q/bias"] is leaves["blocks/q/bias"]


def test_the_given_leaves_are_not_changed():
    leaves = {path: np.array(leaf) for path, leaf in model().items()}
    before = {path: leaf.copy() for path, leaf in leaves.items()}
    merge(leaves, LoRA({Target("blocks/q", 1): low_rank()}))
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, before[path])


def bf16(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("rule", MERGE_RULES)
def test_bfloat16_rounds_where_the_tool_rounds(rule):
    kernel = bf16(normal(64, 48))
    module = LowRank(normal(8, 64), normal(48, 8), None)
    lora = LoRA({Target("head"): module})
    merged = merge({"head/kernel": jnp.asarray(kernel, jnp.bfloat16)}, lora, 1.5, rule)
    actual = np.asarray(merged["head/kernel"]).astype(np.float32)
    expected = {
        "pusa": kernel + bf16(1.5 * bf16(bf16(module.up) @ bf16(module.down))).T,
        "file_alpha": kernel + 1.5 * (module.up @ module.down).T,
        "lightx2v": kernel + bf16(1.5 / 8 * (module.up @ module.down)).T,
    }
    matching = [name for name, value in expected.items() if np.mean(bf16(value) == actual) > 0.99]
    assert matching == [rule]


@pytest.mark.parametrize(
    ("target", "shape", "message"),
    [
        (Target("blocks/z", 0), {}, "the model has no blocks/z"),
        (Target("blocks/q", 3), {}, "the model has no blocks/q of layer 3"),
        (Target("blocks/q"), {}, "the model has no blocks/q"),
        (Target("head", 0), {}, "the model has no head of layer 0"),
        (Target("blocks/q", -1), {}, "the model has no blocks/q of layer -1"),
        (Target("head"), {"into": 5}, "head is 4x5 in the LoRA and 4x6 in the model"),
        (Target("head"), {"out": 5}, "head is 5x6 in the LoRA and 4x6 in the model"),
    ],
)
def test_adapters_without_a_layer_are_named(target, shape, message):
    lora = LoRA({Target("head"): low_rank(), target: low_rank(**shape)})
    with pytest.raises(ValueError, match=message) as error:
        merge(model(), lora)
    assert "\n" not in str(error.value)


def test_an_empty_lora_fits_nothing():
    with pytest.raises(ValueError, match="there are none"):
        merge(model(), LoRA({}))


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="known: file_alpha, lightx2v, pusa"):
        merge(model(), LoRA({Target("head"): low_rank()}), rule="kohya")


def test_rank_stabilised_alpha_gives_one_over_the_root_of_the_rank():
    assert rank_stabilised(8.0, 16) / 16 == 8.0 / 4


def test_several_adapters_are_merged_one_upon_the_other_with_their_own_strengths():
    """In order: the weights are rounded after each."""
    leaves = {"head/kernel": jnp.asarray(normal(6, 4), jnp.bfloat16)}
    small, large = (LoRA({Target("head"): low_rank(alpha=alpha)}) for alpha in (1.0, 16.0))
    merged, other = (
        merge_all(leaves, adapters)["head/kernel"]
        for adapters in permutations([(small, 0.5, "file_alpha"), (large, 2.0, "file_alpha")])
    )
    expected = merge(merge(leaves, small, 0.5), large, 2.0)["head/kernel"]
    assert np.array_equal(merged, expected) and not np.array_equal(merged, other)
    assert not np.array_equal(merged, merge(leaves, large, 2.0)["head/kernel"])
    assert merge_all(leaves, []) == leaves


@pytest.mark.parametrize("rule", MERGE_RULES)
def test_each_of_several_adapters_is_merged_by_its_own_rule(rule):
    leaves = {"head/kernel": jnp.asarray(normal(6, 4), jnp.bfloat16)}
    lora = LoRA({Target("head"): low_rank(alpha=8.0)})
    merged = merge_all(leaves, [(lora, 1.5, rule)])["head/kernel"]
    assert np.array_equal(merged, merge(leaves, lora, 1.5, rule)["head/kernel"])


def test_strength_is_1_and_alpha_the_files_unless_told_otherwise():
    leaves, lora = model(), LoRA({Target("head"): low_rank(alpha=8.0)})
    told = merge(leaves, lora, 1.0, "file_alpha")["head/kernel"]
    assert np.array_equal(merge(leaves, lora)["head/kernel"], told)
