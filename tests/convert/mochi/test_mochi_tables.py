"""The tables of Mochi's networks: every published tensor once, both ways, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert import t5
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.mochi import dit, vae
from pusa_jax.convert.tables import LeafTensors, TensorInfo, bind, dump, load
from pusa_jax.models.mochi.config import DiTConfig, VAEConfig
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.vae import MochiVAE
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.weights.leaves import shapes_of

DIT = DiTConfig(
    dim=24, context_dim=16, ffn_dim=40, context_ffn_dim=20, num_heads=2, num_layers=3,
    text_dim=8, text_len=6, freq_dim=16, in_dim=3, out_dim=3, patch_size=(1, 2, 4),
)  # fmt: skip
VAE = VAEConfig(
    encoder_dims=(32, 64, 32), decoder_dims=(64, 32, 96), num_res_blocks=(2, 1, 3, 1),
    temporal_factors=(1, 3), z_dim=4, latent_mean=(0.5, -1.0, 2.0, 0.0),
    latent_std=(1.0, 2.0, 0.5, 1.5),
)  # fmt: skip
STATISTICS = {"latents_mean": [0.5, -1, 2, 0], "latents_std": [1, 2, 0.5, 1.5]}
T5_XXL = TextConfig(vocab=32128, shared_positions=True)
NETWORKS = {
    "dit": (dit, lambda c: MochiDiT(c, rngs=nnx.Rngs(0)), DIT, {"max_sequence_length": 6}),
    "vae": (vae, lambda c: MochiVAE(c, rngs=nnx.Rngs(0)), VAE, STATISTICS),
}
RULES = {"original": "original_rules", "diffusers": "diffusers_rules"}
KEYS = Path(__file__).resolve().parents[4] / "shared" / "reference" / "keys"


def leaves(name):
    _, build, config, _ = NETWORKS[name]
    rng = np.random.default_rng(0)
    return {
        path: rng.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in shapes_of(lambda: build(config)).items()
    }


def rules(name, layout):
    tables, _, config, _ = NETWORKS[name]
    return getattr(tables, RULES[layout])(config)


@pytest.mark.parametrize("layout", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_survives_a_round_trip_bit_for_bit(name, layout):
    table, here = rules(name, layout), leaves(name)
    source = LeafTensors(here, table)
    shapes = shapes_of(lambda: NETWORKS[name][1](NETWORKS[name][2]))
    again = load(source, table, shapes)
    for path, leaf in here.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    for tensor, values in dump(again, table):
        np.testing.assert_array_equal(values, source.read(tensor), err_msg=tensor)


@pytest.mark.parametrize("layout", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_configuration_is_read_off_the_tensors(name, layout):
    tables, _, config, published = NETWORKS[name]
    source = LeafTensors(leaves(name), rules(name, layout))
    assert tables.layout_of(source) == layout
    assert tables.config_from_source(source, published) == config


def test_parts_of_leaves_are_read_where_a_tensor_holds_three(name="dit"):
    here = leaves(name)
    shapes = shapes_of(lambda: MochiDiT(DIT, rngs=nnx.Rngs(0)))
    bound = bind(LeafTensors(here, rules(name, "original")), rules(name, "original"), shapes)
    index = (slice(1, 2), slice(3, 9), slice(4, 20))
    for layer in "qkv":
        (leaf,) = (x for x in bound if x.path == f"blocks/visual/{layer}/kernel")
        np.testing.assert_array_equal(leaf.read(index), here[leaf.path][index])


def test_the_layouts_swap_the_halves_of_feed_forward_and_final_modulation():
    here = leaves("dit")
    genmo, diffusers = (LeafTensors(here, rules("dit", layout)) for layout in RULES)
    pairs = {
        "blocks.0.mlp_x.w1.weight": "transformer_blocks.0.ff.net.0.proj.weight",
        "blocks.1.mlp_y.w1.weight": "transformer_blocks.1.ff_context.net.0.proj.weight",
        "final_layer.mod.weight": "norm_out.linear.weight",
        "final_layer.mod.bias": "norm_out.linear.bias",
    }
    for ours, theirs in pairs.items():
        first, second = np.split(genmo.read(ours), 2)
        np.testing.assert_array_equal(diffusers.read(theirs), np.concatenate([second, first]))
    assert "transformer_blocks.2.norm1_context.linear_1.weight" in diffusers.tensors
    assert "blocks.2.mod_y.weight" in genmo.tensors


class Shapes:
    """A checkpoint of which only names and shapes are known."""

    def __init__(self, shapes):
        self.tensors = {n: TensorInfo(tuple(s), np.dtype(np.float32)) for n, s in shapes.items()}

    def read(self, name, index=None):
        raise AssertionError("nothing is to be read")


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of published tensors are not at hand")
@pytest.mark.parametrize(
    ("file", "tables", "config", "build", "ignored"),
    [
        ("mochi-1.diffusers", dit, DiTConfig(), NETWORKS["dit"][1], {}),
        ("mochi-1-vae.diffusers", vae, VAEConfig(), NETWORKS["vae"][1], {}),
    ],
    ids=["dit", "vae"],
)
def test_every_published_tensor_has_its_place(file, tables, config, build, ignored):
    listed = json.loads((KEYS / f"{file}.json").read_text())
    source = Shapes(listed["tensors"])
    assert tables.config_from_source(source) == config
    shapes, table = shapes_of(lambda: build(config)), tables.diffusers_rules(config)
    assert len(bind(source, table, shapes, ignored=ignored)) == len(shapes)
    assert sum(np.prod(s.shape, dtype=int) for s in shapes.values()) == listed["parameters"]
    back = LeafTensors(shapes, table).tensors
    assert {n: list(t.shape) for n, t in back.items()} == listed["tensors"]
    original = LeafTensors(shapes, tables.original_rules(config))
    assert len(original.tensors) == {"mochi-1.diffusers": 879}.get(file, 243 + 162)
    assert tables.config_from_source(original) == config


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of published tensors are not at hand")
def test_every_tensor_of_the_text_encoder_has_its_place():
    listed = json.loads((KEYS / "t5-v1.1-xxl-encoder.transformers.json").read_text())
    source = Shapes(listed["tensors"])
    assert (t5.t5_layout(source), t5.umt5_layout(source)) == ("diffusers", None)
    config = t5.config_from_source(source)
    assert config == TextConfig(**{**T5_XXL.__dict__, "text_len": config.text_len})
    shapes = shapes_of(lambda: T5Encoder(config, rngs=nnx.Rngs(0)))
    table = t5.transformers_rules(config)
    assert len(bind(source, table, shapes, ignored=t5.TRANSFORMERS_IGNORED)) == len(shapes)
    assert sum(leaf.size for leaf in shapes.values()) == 4_762_310_656


@pytest.mark.parametrize(
    ("name", "published", "message"),
    [
        ("dit", {"num_layers": 48}, "config.json has num_layers=48, the tensors have 3"),
        ("dit", {"max_sequence_length": 0}, "max_sequence_length=0, which must be a whole number"),
        ("vae", {"latent_channels": 12}, "config.json has latent_channels=12, the tensors have 4"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(name, published, message):
    source = LeafTensors(leaves(name), rules(name, "diffusers"))
    with pytest.raises(ValueError, match=message):
        NETWORKS[name][0].config_from_source(source, published)


@pytest.mark.parametrize("name", NETWORKS)
def test_something_else_is_refused(name):
    with pytest.raises(ValueError, match="of Mochi: there is no tensor"):
        NETWORKS[name][0].config_from_source(ArrayTensors({"w": np.zeros(1)}))
