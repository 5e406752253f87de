"""The tables of FVDM's networks: every published tensor once, both ways, to the last bit."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.latte import dit, published, vae
from pusa_jax.convert.tables import LeafTensors, TensorInfo, bind, dump, load
from pusa_jax.convert.violations import ConversionError
from pusa_jax.models.latte.config import SIZES, DiTConfig, VAEConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.vae import FrameVAE
from pusa_jax.weights.leaves import shapes_of

DIT = DiTConfig(
    dim=24, num_heads=2, num_layers=4, in_dim=3, patch_size=(1, 2, 4), num_classes=5, num_frames=7,
    grid=(2, 3), freq_dim=16,
)  # fmt: skip
VAE = VAEConfig(
    block_out_channels=(8, 12, 16), layers_per_block=1, norm_num_groups=4, z_dim=3,
    scaling_factor=0.5,
)  # fmt: skip
NETWORKS = {
    "dit": (dit.original_rules, LatteVideo, DIT),
    "vae": (vae.diffusers_rules, FrameVAE, VAE),
}
TOLD = {
    "dit": {"num_heads": 2, "input_size": [4, 12]},
    "vae": {"norm_num_groups": 4, "scaling_factor": 0.5},
}
READERS = {"dit": dit, "vae": vae}
FORMER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
KEYS = Path(__file__).resolve().parents[4] / "shared" / "reference" / "keys"


@functools.cache
def shapes(name):
    _, build, config = NETWORKS[name]
    return shapes_of(lambda: build(config, rngs=nnx.Rngs(0)))


@functools.cache
def leaves(name):
    rng = np.random.default_rng(0)
    return {
        path: rng.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in shapes(name).items()
    }


def rules(name):
    table, _, config = NETWORKS[name]
    return table(config)


def tensors(name):
    return dict(dump(leaves(name), rules(name)))


def as_latte_has_it(arrays):
    """FVDM's tensors under Latte's names: blocks in one row, those within frames first."""

    def block(match):
        return f"blocks.{2 * int(match[2]) + (match[1] == 'temp')}."

    return {re.sub(r"blocks_(spatial|temp)\.(\d+)\.", block, n): x for n, x in arrays.items()}


def as_old_files_have_it(arrays, *, is_convolution):
    """Attention of the autoencoder under its former names, as matrices or as convolutions."""
    old = {}
    for name, x in arrays.items():
        if ".attentions.0.to_" in name:
            for today, former in FORMER.items():
                name = name.replace(f".0.{today}.", f".0.{former}.")
            x = x[:, :, None, None] if is_convolution and x.ndim == 2 else x
        old[name] = x
    return old


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_survives_a_round_trip_bit_for_bit(name):
    here, table = leaves(name), rules(name)
    source = LeafTensors(here, table)
    again = load(source, table, shapes(name))
    for path, leaf in here.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    for tensor, values in dump(again, table):
        np.testing.assert_array_equal(values, source.read(tensor), err_msg=tensor)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_configuration_is_read_off_the_tensors(name):
    source, read = LeafTensors(leaves(name), rules(name)), READERS[name]
    config = NETWORKS[name][2]
    write = {"dit": published.original_dit, "vae": published.diffusers_vae}[name]
    assert read.layout_of(source) == {"dit": "original", "vae": "diffusers"}[name]
    assert read.config_from_source(source, TOLD[name]) == config
    if name == "dit":  # its patches are not square
        config = dataclasses.replace(config, patch_size=(1, 2, 2), grid=(2, 6))
        here = leaves(name) | {
            "patch_embedding/kernel": np.zeros((12, 24), np.float32),
            "head/linear/kernel": np.zeros((24, 24), np.float32),
            "head/linear/bias": np.zeros(24, np.float32),
            "pos_embed": np.zeros((12, 24), np.float32),
        }
        source = LeafTensors(here, dit.original_rules(config))
    assert read.config_from_source(source, write(config)) == config


@pytest.mark.parametrize("change", ["Latte", "former names", "former names and convolutions"])
def test_what_has_other_names_is_read_the_same_and_written_under_todays(change):
    name = "dit" if change == "Latte" else "vae"
    ours = tensors(name)
    if change == "Latte":
        theirs = as_latte_has_it(ours)
        assert "blocks.3.attn.qkv.weight" in theirs and "blocks_temp.1.attn.qkv.weight" in ours
    else:
        theirs = as_old_files_have_it(ours, is_convolution="convolutions" in change)
        assert sum("proj_attn" in n or "query" in n for n in theirs) == 8
    source = ArrayTensors(theirs)
    assert READERS[name].config_from_source(source, TOLD[name]) == NETWORKS[name][2]
    again = load(source, rules(name), shapes(name))
    back = dict(dump(again, rules(name)))
    assert back.keys() == ours.keys()
    for tensor, values in ours.items():
        np.testing.assert_array_equal(back[tensor], values, err_msg=tensor)


def test_convolutions_of_todays_names_are_read_as_well():
    ours = tensors("vae")
    shaped = {
        n: x[:, :, None, None] if ".attentions.0.to_" in n and x.ndim == 2 else x
        for n, x in ours.items()
    }
    again = load(ArrayTensors(shaped), rules("vae"), shapes("vae"))
    expected = ours["decoder.mid_block.attentions.0.to_out.0.weight"].T
    np.testing.assert_array_equal(again["decoder/layers/1/o/kernel"], expected)


def test_parts_of_leaves_are_read_where_a_tensor_holds_three():
    bound = bind(ArrayTensors(as_latte_has_it(tensors("dit"))), rules("dit"), shapes("dit"))
    index = (slice(1, 2), slice(3, 9), slice(4, 20))
    for layer in "qkv":
        (leaf,) = (x for x in bound if x.path == f"blocks/temporal/{layer}/kernel")
        np.testing.assert_array_equal(leaf.read(index), leaves("dit")[leaf.path][index])


class Shapes:
    """A checkpoint of which only names and shapes are known."""

    def __init__(self, shapes):
        self.tensors = {n: TensorInfo(tuple(s), np.dtype(np.float32)) for n, s in shapes.items()}

    def read(self, name, index=None):
        raise AssertionError("nothing is to be read")


XL, UCF = SIZES["XL"], dataclasses.replace(SIZES["XL"], num_classes=101)
LISTS = {
    "latte-xl2.original": XL,
    "latte-xl2-ucf101.original": UCF,
    "fvdm-xl2.original": XL,
    "fvdm-xl2-ucf101.original": UCF,
    "fvdm-b2.original": SIZES["B"],
    "sd-vae.diffusers": VAEConfig(),
}


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of published tensors are not at hand")
@pytest.mark.parametrize("file", LISTS)
def test_every_published_tensor_has_its_place(file):
    listed = json.loads((KEYS / f"{file}.json").read_text())
    name = "vae" if "vae" in file else "dit"
    table, build, _ = NETWORKS[name]
    source, config = Shapes(listed["tensors"]), LISTS[file]
    assert READERS[name].config_from_source(source) == config
    abstract = shapes_of(lambda: build(config, rngs=nnx.Rngs(0)))
    assert len(bind(source, table(config), abstract)) == len(abstract)
    assert sum(np.prod(s.shape, dtype=int) for s in abstract.values()) == listed["parameters"]
    back = {n: list(t.shape) for n, t in LeafTensors(abstract, table(config)).tensors.items()}
    assert (as_latte_has_it(back) if file.startswith("latte") else back) == listed["tensors"]


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("dit", {"depth": 28}, "config.json has depth=28, the tensors have 4"),
        ("dit", {"num_classes": 101}, "config.json has num_classes=101, the tensors have 5"),
        ("dit", {"num_frames": 16}, "config.json has num_frames=16, the tensors have 7"),
        ("dit", {"learn_sigma": False}, "config.json has learn_sigma=False"),
        ("dit", {"num_heads": 0}, "num_heads=0, which must be a whole number above 0"),
        ("dit", {"num_heads": 5}, "dim must be a multiple of num_heads and of 4"),
        ("dit", {"input_size": 32}, "pos_embed has 6 places, which is no grid of latents of 32"),
        ("dit", {"input_size": [4, 13]}, r"no grid of latents of \[4, 13\]"),
        ("dit", {"input_size": ["a", None]}, "no grid of latents of"),
        ("vae", {"latent_channels": 4}, "config.json has latent_channels=4, the tensors have 3"),
        ("vae", {"shift_factor": 0.1}, "config.json has shift_factor=0.1, only None is supported"),
        ("vae", {"act_fn": "relu"}, "config.json has act_fn='relu', only 'silu' is supported"),
        ("vae", {"scaling_factor": "a"}, "scaling_factor='a', which must be a number above 0"),
        ("vae", {"norm_num_groups": 5}, "block_out_channels must be multiples of norm_num_gr"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(name, said, message):
    source = LeafTensors(leaves(name), rules(name))
    with pytest.raises(ValueError, match=message) as error:
        READERS[name].config_from_source(source, TOLD[name] | said)
    assert "\n" not in str(error.value)


def test_a_width_that_nobody_published_needs_to_be_told_its_heads():
    source = LeafTensors(leaves("dit"), rules("dit"))
    with pytest.raises(ValueError, match=r"how many heads share its 24 channels; put a config"):
        dit.config_from_source(source, {"input_size": [4, 12]})


@pytest.mark.parametrize(
    "names",
    [
        ["text_embedding_projection.1.weight", "temp_embed", "blocks.0.attn.qkv.weight"],
        ["temporal_transformer_blocks.0.attn1.to_q.weight", "pos_embed.proj.weight"],
    ],
    ids=["extras 78", "LatteT2V"],
)
def test_a_latte_that_takes_a_text_is_known_and_refused_in_one_line(names):
    source = ArrayTensors({name: np.zeros(1, np.float32) for name in names})
    assert dit.layout_of(source) == "original"
    with pytest.raises(ValueError, match=r"a Latte that takes a text, .*not supported; use one"):
        dit.config_from_source(source)


def test_a_model_that_predicts_noise_alone_is_refused():
    arrays = tensors("dit") | {"final_layer.linear.weight": np.zeros((24, 24), np.float32)}
    with pytest.raises(ValueError, match=r"final_layer\.linear\.weight has 24 rows, 48 are expec"):
        dit.config_from_source(ArrayTensors(arrays), TOLD["dit"])


def test_a_tensor_too_many_or_too_few_is_named():
    arrays = as_latte_has_it(tensors("dit"))
    arrays["blocks.4.attn.qkv.bias"] = arrays.pop("blocks.1.attn.qkv.bias")
    with pytest.raises(ConversionError) as error:
        bind(ArrayTensors(arrays), rules("dit"), shapes("dit"))
    kinds = {(kind, what.split()[0]) for kind, what in error.value.violations}
    assert ("unexpected", "blocks.4.attn.qkv.bias") in kinds


@pytest.mark.parametrize("name", NETWORKS)
def test_something_else_is_refused(name):
    source = ArrayTensors({"w": np.zeros(1)})
    assert READERS[name].layout_of(source) is None
    with pytest.raises(ValueError, match="there is no tensor"):
        READERS[name].config_from_source(source)
