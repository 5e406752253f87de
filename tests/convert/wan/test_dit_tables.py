import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import LeafTensors, TensorInfo, bind, dump, load
from pusa_jax.convert.wan.dit import (
    config_from_source,
    diffusers_rules,
    layout_of,
    original_rules,
)
from pusa_jax.models.families import PRESETS
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.weights.leaves import shapes_of

CONFIG = DiTConfig(
    dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=8, text_len=6, freq_dim=16,
    patch_size=(1, 2, 4), in_dim=3, out_dim=3,
)  # fmt: skip
TABLES = {"original": original_rules, "diffusers": diffusers_rules}
PUBLISHED = {
    "original": {"dim": 24, "num_heads": 2, "num_layers": 2, "text_len": 6, "eps": 1e-6},
    "diffusers": {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3},
}


def abstract(config):
    return shapes_of(lambda: WanDiT(config, rngs=nnx.Rngs(0)))


def leaves(config=CONFIG):
    rng = np.random.default_rng(0)
    return {
        path: rng.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in abstract(config).items()
    }


def checkpoint(layout, config=CONFIG):
    return LeafTensors(leaves(config), TABLES[layout](config))


@pytest.mark.parametrize("layout", TABLES)
def test_a_checkpoint_survives_a_round_trip_bit_for_bit(layout):
    rules, source = TABLES[layout](CONFIG), checkpoint(layout)
    again = load(source, rules, abstract(CONFIG))
    for path, leaf in leaves().items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    for name, tensor in dump(again, rules):
        np.testing.assert_array_equal(tensor, source.read(name), err_msg=name)


def test_rows_of_the_patch_kernel_run_over_height_width_channel():
    weight = np.arange(24 * 3 * 8, dtype=np.float32).reshape(24, 3, 1, 2, 4)
    rule = original_rules(CONFIG)[0]
    kernel = rule.transform.to_leaf(weight)
    for h, w, c in np.ndindex(2, 4, 3):
        np.testing.assert_array_equal(kernel[(h * 4 + w) * 3 + c], weight[:, c, 0, h, w])
    np.testing.assert_array_equal(rule.transform.to_torch(kernel), weight)


@pytest.mark.parametrize("layout", TABLES)
def test_the_configuration_is_read_off_the_tensors(layout):
    source = checkpoint(layout)
    assert layout_of(source) == layout
    config = config_from_source(source, PUBLISHED[layout] | {"text_len": 6})
    assert config == CONFIG


def test_heads_are_128_wide_where_no_config_says_otherwise():
    config = DiTConfig(dim=256, ffn_dim=8, num_heads=2, num_layers=1, text_dim=8, freq_dim=16)
    assert config_from_source(checkpoint("original", config)) == config


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({}, "width 24 needs a config.json with num_heads that divide it, got None"),
        ({"num_heads": 5}, "got 5"),
        ({"num_heads": "2"}, "got '2'"),
        ({"num_heads": 0}, "got 0"),
        ({"num_heads": -2}, "got -2"),
        ({"num_heads": 2, "patch_size": [1, 4, 2]}, "patch_size"),
        ({"num_heads": 2, "dim": 5120}, "config.json has dim=5120, the tensors have 24"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(published, message):
    with pytest.raises(ValueError, match=message):
        config_from_source(checkpoint("original"), published)


@pytest.mark.parametrize("layout", TABLES)
def test_an_image_to_video_checkpoint_is_refused_with_the_reason(layout):
    arrays = dict(dump(leaves(), TABLES[layout](CONFIG)))
    arrays["patch_embedding.weight"] = np.zeros((24, 9, 1, 2, 4), np.float32)
    with pytest.raises(ValueError, match="in_dim is 9 and out_dim 3: an image-to-video checkpoint"):
        config_from_source(ArrayTensors(arrays), PUBLISHED[layout])


def test_something_else_is_no_dit():
    with pytest.raises(ValueError, match="no DiT of the Wan family"):
        config_from_source(ArrayTensors({"w": np.zeros(1)}))


@pytest.mark.parametrize("name", ["patch_embedding.weight", "blocks.0.ffn.0.weight"])
def test_a_missing_tensor_that_tells_the_shape_is_named(name):
    arrays = dict(dump(leaves(), original_rules(CONFIG)))
    del arrays[name]
    with pytest.raises(ValueError, match=f"{name} must be there"):
        config_from_source(ArrayTensors(arrays), PUBLISHED["original"])


@pytest.mark.parametrize(
    ("preset", "tensors", "parameters"),
    [
        ("wan2.1-t2v-1.3b", 825, 1_418_996_800),
        ("wan2.1-t2v-14b", 1095, 14_288_491_584),
        ("wan2.2-t2v-a14b", 1095, 14_288_491_584),
        ("wan2.2-ti2v-5b", 825, 4_999_787_712),
    ],
)
def test_full_size_models_have_the_published_number_of_tensors(preset, tensors, parameters):
    config = PRESETS[preset].dit
    shapes = abstract(config)
    assert sum(np.prod(s.shape, dtype=int) for s in shapes.values()) == parameters
    for rules in TABLES.values():
        assert len(LeafTensors(shapes, rules(config)).tensors) == tensors


class Shapes:
    """A checkpoint of which only names and shapes are known."""

    def __init__(self, shapes):
        self.tensors = {n: TensorInfo(tuple(s), np.dtype(np.float32)) for n, s in shapes.items()}

    def read(self, name, index=None):
        raise AssertionError("nothing is to be read")


KEYS = Path(__file__).resolve().parents[4] / "shared" / "reference" / "keys"


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of published tensors are not at hand")
@pytest.mark.parametrize("layout", TABLES)
@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("wan")])
def test_every_published_tensor_has_its_place(preset, layout):
    # The experts of A14B have one list, and in the Diffusers layout the names of the 14B model.
    lists = {("wan2.2-t2v-a14b", "original"): "wan2.2-t2v-a14b-expert"}
    lists |= {("wan2.2-t2v-a14b", "diffusers"): "wan2.1-t2v-14b"}
    listed = json.loads((KEYS / f"{lists.get((preset, layout), preset)}.{layout}.json").read_text())
    source, config = Shapes(listed["tensors"]), PRESETS[preset].dit
    assert config_from_source(source) == config
    shapes = abstract(config)
    assert len(bind(source, TABLES[layout](config), shapes)) == len(shapes)
    assert sum(np.prod(s.shape, dtype=int) for s in shapes.values()) == listed["parameters"]
    back = LeafTensors(shapes, TABLES[layout](config)).tensors
    assert {n: list(t.shape) for n, t in back.items()} == listed["tensors"]


@pytest.mark.parametrize("layout", TABLES)
def test_what_no_tensor_tells_is_taken_from_the_config(layout):
    published = PUBLISHED[layout] | {"text_len": 77, "eps": 1e-4}
    config = config_from_source(checkpoint(layout), published)
    assert (config.text_len, config.eps) == (77, 1e-4)


def test_given_heads_are_taken_though_128_would_divide_the_width():
    config = DiTConfig(dim=256, ffn_dim=8, num_heads=4, num_layers=1, text_dim=8, freq_dim=16)
    assert config_from_source(checkpoint("original", config), {"num_heads": 4}) == config


@pytest.mark.parametrize("field", ["in_channels", "out_channels"])
def test_channels_that_are_not_the_tensors_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}=16, the tensors have 3"):
        config_from_source(checkpoint("diffusers"), PUBLISHED["diffusers"] | {field: 16})
