import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import LeafTensors, TensorInfo, bind, dump, load
from pusa_jax.convert.wan.published import diffusers_vae
from pusa_jax.convert.wan.vae import (
    config_from_source,
    diffusers_rules,
    layout_of,
    original_rules,
    wan21_layout_of,
    wan22_layout_of,
)
from pusa_jax.models.wan.config import WAN22_VAE, VAEConfig
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.weights.leaves import shapes_of

STATISTICS = {"latent_mean": (0.5, -1.0, 2.0, 0.0), "latent_std": (1.0, 2.0, 0.5, 1.5)}
CONFIG = VAEConfig(
    dim=4, z_dim=4, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, False),
    **STATISTICS,
)  # fmt: skip
CONFIG22 = dataclasses.replace(
    CONFIG, decoder_dim=6, num_res_blocks=2, patch_size=2, has_stage_shortcuts=True
)
CONFIGS = {"wan2.1": CONFIG, "wan2.2": CONFIG22}
FULL = {"wan2.1": VAEConfig(), "wan2.2": WAN22_VAE}
PUBLISHED = {"latents_mean": [0.5, -1, 2, 0], "latents_std": [1, 2, 0.5, 1.5]}
TABLES = {"original": original_rules, "diffusers": diffusers_rules}
KEYS = Path(__file__).resolve().parents[4] / "shared" / "reference" / "keys"


def abstract(config):
    return shapes_of(lambda: WanVAE(config, rngs=nnx.Rngs(0)))


def leaves(config=CONFIG):
    rng = np.random.default_rng(0)
    return {
        path: rng.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in abstract(config).items()
    }


def checkpoint(layout, config=CONFIG):
    return LeafTensors(leaves(config), TABLES[layout](config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("layout", TABLES)
def test_a_checkpoint_survives_a_round_trip_bit_for_bit(layout, config):
    rules, source = TABLES[layout](config), checkpoint(layout, config)
    again = load(source, rules, abstract(config))
    for path, leaf in leaves(config).items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)
    for name, tensor in dump(again, rules):
        np.testing.assert_array_equal(tensor, source.read(name), err_msg=name)


@pytest.mark.parametrize("layout", TABLES)
def test_a_kernel_keeps_time_height_width_apart(layout):
    rule = next(r for r in TABLES[layout](CONFIG) if r.target == "encoder/conv1/kernel")
    weight = np.arange(4 * 3 * 27, dtype=np.float32).reshape(4, 3, 3, 3, 3)
    kernel = rule.transform.to_leaf(weight)
    for t, h, w, c, o in np.ndindex(kernel.shape):
        assert kernel[t, h, w, c, o] == weight[o, c, t, h, w]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("layout", TABLES)
def test_the_configuration_is_read_off_the_tensors(layout, config):
    source = checkpoint(layout, config)
    assert layout_of(source) == layout
    assert config_from_source(source, PUBLISHED) == config
    assert config_from_source(source, diffusers_vae(config)) == config


@pytest.mark.parametrize("layout", TABLES)
def test_an_autoencoder_of_a_single_stage_is_read_off_as_well(layout):
    config = dataclasses.replace(CONFIG, dim_mult=(1,), temporal_downsample=())
    assert config_from_source(checkpoint(layout, config), PUBLISHED) == config


@pytest.mark.parametrize("family", CONFIGS)
def test_without_a_config_16_and_48_channels_have_the_published_statistics(family):
    full = FULL[family]
    config = dataclasses.replace(
        CONFIGS[family],
        z_dim=full.z_dim,
        latent_mean=full.latent_mean,
        latent_std=full.latent_std,
    )
    assert config_from_source(Shapes(shapes_listed(config))) == config


def shapes_listed(config):
    """Name in the original's file -> shape."""
    listed = LeafTensors(abstract(config), original_rules(config)).tensors
    return {name: tensor.shape for name, tensor in listed.items()}


@pytest.mark.parametrize("layout", TABLES)
def test_the_two_architectures_are_told_apart(layout):
    old, new = checkpoint(layout, CONFIG), checkpoint(layout, CONFIG22)
    assert (wan21_layout_of(old), wan22_layout_of(old)) == (layout, None)
    assert (wan21_layout_of(new), wan22_layout_of(new)) == (None, layout)
    other = ArrayTensors({"w": np.zeros(1)})
    assert wan21_layout_of(other) is wan22_layout_of(other) is None


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({}, "4 latent channels needs a config.json with as many numbers in latents_mean, got"),
        (PUBLISHED | {"latents_std": [1, 2]}, r"in latents_std, got \[1, 2\]"),
        (PUBLISHED | {"latents_mean": None}, "in latents_mean, got None"),
        (
            PUBLISHED | {"dim_mult": [1, 2, 4]},
            r"dim_mult=\[1, 2, 4\], the tensors have \[1, 2, 2\]",
        ),
        (PUBLISHED | {"base_dim": 96}, "base_dim=96, the tensors have 4"),
        (PUBLISHED | {"decoder_base_dim": 6}, "decoder_base_dim=6, the tensors have 4"),
        (PUBLISHED | {"in_channels": 12}, "in_channels=12, the tensors have 3"),
        (PUBLISHED | {"is_residual": True}, "is_residual=True, the tensors have False"),
        (PUBLISHED | {"patch_size": 2}, "patch_size=2, the tensors have 1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(published, message):
    with pytest.raises(ValueError, match=message):
        config_from_source(checkpoint("diffusers"), published)


def test_another_autoencoder_is_refused_with_the_reason():
    arrays = dict(dump(leaves(), original_rules(CONFIG)))
    with pytest.raises(ValueError, match="no VAE of the Wan family"):
        config_from_source(ArrayTensors({"w": np.zeros(1)}))
    for channels in (1, 4, 6, 13):
        arrays["encoder.conv1.weight"] = np.zeros((4, channels, 3, 3, 3), np.float32)
        with pytest.raises(ValueError, match=f"takes {channels} channels; those of a Wan VAE are"):
            config_from_source(ArrayTensors(arrays), PUBLISHED)


def test_null_in_a_config_is_what_diffusers_takes_it_for():
    null = PUBLISHED | {"decoder_base_dim": None, "patch_size": None}
    assert config_from_source(checkpoint("diffusers"), null) == CONFIG
    with pytest.raises(ValueError, match="decoder_base_dim=4, the tensors have 6"):
        config_from_source(checkpoint("diffusers", CONFIG22), null)


def test_a_missing_tensor_that_tells_a_width_is_named():
    arrays = dict(dump(leaves(), original_rules(CONFIG)))
    name = "encoder.downsamples.2.residual.2.weight"
    del arrays[name]
    with pytest.raises(ValueError, match=f"{name} must be there"):
        config_from_source(ArrayTensors(arrays), PUBLISHED)


class Shapes:
    """A checkpoint of which only names and shapes are known."""

    def __init__(self, shapes):
        self.tensors = {n: TensorInfo(tuple(s), np.dtype(np.float32)) for n, s in shapes.items()}

    def read(self, name, index=None):
        raise AssertionError("nothing is to be read")


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of published tensors are not at hand")
@pytest.mark.parametrize("file", sorted(f.stem for f in KEYS.glob("wan*-vae.*.json")))
def test_every_published_tensor_has_its_place(file):
    listed = json.loads((KEYS / f"{file}.json").read_text())
    config, rules = FULL[file[:6]], TABLES[file.rpartition(".")[2]]
    source = Shapes(listed["tensors"])
    assert config_from_source(source) == config
    shapes = abstract(config)
    assert len(bind(source, rules(config), shapes)) == len(shapes)
    back = LeafTensors(shapes, rules(config)).tensors
    assert {n: list(t.shape) for n, t in back.items()} == listed["tensors"]


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [(VAEConfig(), 126_892_531, 194), (WAN22_VAE, 704_688_668, 196)],
    ids=FULL,
)
def test_the_full_size_model_has_the_published_number_of_tensors_and_parameters(
    config, parameters, tensors
):
    shapes = abstract(config)
    assert sum(leaf.size for leaf in shapes.values()) == parameters
    for rules in TABLES.values():
        assert len(LeafTensors(shapes, rules(config)).tensors) == tensors


def test_a_kernel_of_single_frames_keeps_height_and_width_apart():
    rules = original_rules(CONFIG)
    rule = next(r for r in rules if r.target.endswith("resample/kernel"))
    weight = np.arange(5 * 4 * 9, dtype=np.float32).reshape(5, 4, 3, 3)
    kernel = rule.transform.to_leaf(weight)
    for h, w, c, o in np.ndindex(kernel.shape):
        assert kernel[h, w, c, o] == weight[o, c, h, w]


@pytest.mark.parametrize(
    ("path", "original", "diffusers"),
    [
        ("norm1/scale", "residual.0.gamma", "norm1.gamma"),
        ("conv1/kernel", "residual.2.weight", "conv1.weight"),
        ("norm2/scale", "residual.3.gamma", "norm2.gamma"),
        ("conv2/bias", "residual.6.bias", "conv2.bias"),
    ],
)
def test_the_parts_of_a_block_have_their_published_names(path, original, diffusers):
    for number, stage in ((0, "encoder.down_blocks.0"), (2, "encoder.down_blocks.2")):
        target = f"encoder/downsamples/{number}/{path}"
        names = [{r.target: r.source for r in TABLES[x](CONFIG)}[target] for x in TABLES]
        assert names == [f"encoder.downsamples.{number}.{original}", f"{stage}.{diffusers}"]


@pytest.mark.parametrize(
    ("path", "original", "diffusers"),
    [
        ("encoder/downsamples/0", "downsamples.0.downsamples.0", "down_blocks.0.resnets.0"),
        ("encoder/downsamples/4", "downsamples.1.downsamples.1", "down_blocks.1.resnets.1"),
        ("encoder/downsamples/5", "downsamples.1.downsamples.2", "down_blocks.1.downsampler"),
        ("decoder/upsamples/3", "upsamples.0.upsamples.3", "up_blocks.0.upsampler"),
        ("decoder/upsamples/6", "upsamples.1.upsamples.2", "up_blocks.1.resnets.2"),
        ("decoder/upsamples/8", "upsamples.2.upsamples.0", "up_blocks.2.resnets.0"),
    ],
)
def test_the_layers_of_wan22_are_numbered_within_their_stages(path, original, diffusers):
    side = path.split("/")[0]
    for rules, name in ((original_rules, original), (diffusers_rules, diffusers)):
        sources = [r.source for r in rules(CONFIG22) if r.target.startswith(f"{path}/")]
        assert sources and all(source.startswith(f"{side}.{name}.") for source in sources)


def test_the_layers_between_encoder_and_decoder_have_their_published_names():
    for table, encoder, decoder in (
        (original_rules, "conv1.weight", "conv2.weight"),
        (diffusers_rules, "quant_conv.weight", "post_quant_conv.weight"),
    ):
        names = {r.target: r.source for r in table(CONFIG)}
        assert (names["conv1/kernel"], names["conv2/kernel"]) == (encoder, decoder)
