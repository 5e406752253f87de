import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.t5 import config_from_source, umt5_layout
from pusa_jax.convert.tables import LeafTensors, dump
from pusa_jax.convert.wan.foreign import WAN21 as FOREIGN
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.family import WAN21

CONFIG = TextConfig(
    vocab=10, dim=8, dim_attn=6, dim_ffn=12, num_heads=2, num_layers=3, num_buckets=8,
    max_distance=64, eps=1e-5,
)  # fmt: skip
SETTINGS = {"relative_attention_max_distance": 64, "layer_norm_epsilon": 1e-5}
TABLES = FOREIGN.networks["text_encoder"].rules


def arrays(layout):
    shapes = WAN21.networks["text_encoder"].shapes(CONFIG)
    leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    return dict(dump(leaves, TABLES[layout](CONFIG)))


@pytest.mark.parametrize("layout", TABLES)
def test_the_configuration_is_read_off_the_tensors(layout):
    source = ArrayTensors(arrays(layout))
    assert umt5_layout(source) == layout
    assert config_from_source(source, SETTINGS) == CONFIG
    assert config_from_source(source).max_distance == 128


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 4096}, "config.json has d_model=4096, the tensors have 8"),
        ({"num_heads": "2"}, "config.json has num_heads='2', the tensors have 2"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon=0, which must be a number above 0"),
        ({"layer_norm_epsilon": float("nan")}, "must be a number above 0"),
        ({"relative_attention_max_distance": 1.5}, "must be a whole number above 0"),
        ({"relative_attention_max_distance": True}, "must be a whole number above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        config_from_source(ArrayTensors(arrays("diffusers")), settings)


def test_something_else_is_no_encoder():
    with pytest.raises(ValueError, match="no T5 encoder"):
        config_from_source(ArrayTensors({"w": np.zeros(1)}))
    with pytest.raises(ValueError, match=r"relative_attention_bias\.weight must be there"):
        config_from_source(ArrayTensors({"shared.weight": np.zeros((10, 8))}))


def test_the_second_name_of_the_embedding_may_be_there():
    tensors = arrays("diffusers")
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    ignored, shapes = (
        FOREIGN.networks["text_encoder"].ignored,
        WAN21.networks["text_encoder"].shapes(CONFIG),
    )
    assert "encoder.embed_tokens.weight" in ignored
    assert config_from_source(ArrayTensors(tensors), SETTINGS) == CONFIG
    assert set(LeafTensors(shapes, TABLES["diffusers"](CONFIG)).tensors) == (
        tensors.keys() - ignored.keys()
    )
