"""Which axis of a mesh cuts which axis of which leaf, network by network."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import FSDP, make_mesh, shardings
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21

CONFIGS = {
    "dit": DiTConfig(dim=64, ffn_dim=128, num_heads=4, num_layers=2, text_dim=32, freq_dim=16),
    "text_encoder": TextConfig(
        vocab=64, dim=64, dim_attn=64, dim_ffn=128, num_heads=4, num_layers=2
    ),
    "vae": VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
}
MADE, USED = P(None, FSDP, "tensor"), P(None, "tensor", FSDP)
"""Projections that make heads or channels, and those that use them up."""

CUT = {
    "dit": {
        **{f"blocks/{a}_attn/{x}/kernel": MADE for a in ("self", "cross") for x in "qkv"},
        **{f"blocks/{a}_attn/o/kernel": USED for a in ("self", "cross")},
        "blocks/ffn/up/kernel": MADE,
        "blocks/ffn/down/kernel": USED,
        **{f"blocks/{a}_attn/{x}/bias": P(None, "tensor") for a in ("self", "cross")
           for x in "qkv"},
        "blocks/ffn/up/bias": P(None, "tensor"),
        **{f"{a}_embedding/{x}/kernel": P(FSDP) for a in ("text", "time")
           for x in ("up", "down")},
        "time_projection/kernel": P(FSDP),
    },
    "text_encoder": {
        "token_embedding/embedding": P(None, FSDP),
        **{f"blocks/attn/{x}/kernel": MADE for x in "qkv"},
        "blocks/attn/o/kernel": USED,
        "blocks/ffn/gate/kernel": MADE,
        "blocks/ffn/fc1/kernel": MADE,
        "blocks/ffn/fc2/kernel": USED,
    },
    "vae": {},
}  # fmt: skip
"""Network -> leaf -> how it is cut; all others are whole everywhere."""


def specs(name, shapes):
    mesh = make_mesh({"data": 2, "context": 2, "tensor": 2})
    placed = shardings(shapes, WAN21.networks[name].sharding, mesh)
    return {path: sharding.spec for path, sharding in placed.items()}


@pytest.mark.parametrize("name", CUT)
def test_leaves_are_cut_as_the_table_says_and_others_are_whole(name):
    shapes = WAN21.networks[name].shapes(CONFIGS[name])
    assert CUT[name].keys() <= shapes.keys()
    assert {path: spec for path, spec in specs(name, shapes).items() if any(spec)} == CUT[name]


def test_factors_of_adapters_are_cut_on_the_side_of_the_model():
    shapes = {
        f"blocks/ffn/up/lora_{factor}": jax.ShapeDtypeStruct(shape, "float32")
        for factor, shape in (("a", (2, 64, 8)), ("b", (2, 8, 64)))
    }
    assert specs("dit", shapes) == {
        "blocks/ffn/up/lora_a": P(None, FSDP),
        "blocks/ffn/up/lora_b": P(None, None, FSDP),
    }
