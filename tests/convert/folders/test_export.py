import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.files.safetensors import open_safetensors
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.export import export_folder
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.folders.published import open_published
from pusa_jax.convert.tables import LeafTensors
from pusa_jax.convert.wan.foreign import WAN21 as FOREIGN
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21

FILES = {
    layout: [network.files[layout] for network in FOREIGN.networks.values()]
    for layout in ("original", "diffusers")
}

CONFIGS = {
    "dit": DiTConfig(
        dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=8, text_len=6, freq_dim=16,
        in_dim=2, out_dim=2,
    ),
    "vae": VAEConfig(
        dim=4, z_dim=2, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,),
        latent_mean=(0.5, 0.25), latent_std=(2.0, 3.0),
    ),
    "text_encoder": TextConfig(
        vocab=10, dim=8, dim_attn=8, dim_ffn=12, num_heads=2, num_layers=2, num_buckets=8,
        text_len=6,
    ),
}  # fmt: skip


def networks(names=tuple(CONFIGS)):
    rng = np.random.default_rng(0)
    for name in names:
        dtype = ml_dtypes.bfloat16 if name == "text_encoder" else np.float32
        shapes = WAN21.networks[name].shapes(CONFIGS[name])
        leaves = {p: rng.standard_normal(s.shape).astype(dtype) for p, s in shapes.items()}
        yield name, CONFIGS[name], leaves


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_the_original_layout_has_the_published_files(tokenizer, tmp_path):
    written = export_folder(networks(), tmp_path / "out", family=WAN21, tokenizer=tokenizer)
    expected = {*FILES["original"], "config.json", "google/umt5-xxl/tokenizer.json"}
    assert files(tmp_path / "out") == expected
    assert {str(p.relative_to(tmp_path / "out")) for p in written} == expected
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["_class_name"] == "WanModel" and config["model_type"] == "t2v"
    assert config["dim"] == 24 and config["text_len"] == 6


def test_the_diffusers_layout_has_the_published_files(tokenizer, tmp_path):
    export_folder(
        networks(), tmp_path / "out", family=WAN21, layout="diffusers", tokenizer=tokenizer
    )
    configs = {str(path).rsplit("/", 1)[0] + "/config.json" for path in FILES["diffusers"]}
    assert files(tmp_path / "out") == {
        *FILES["diffusers"], *configs, "model_index.json", "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_import_undoes_export_and_export_undoes_import(tokenizer, tmp_path, layout):
    names = tuple(n for n in CONFIGS if layout == "diffusers" or n != "vae")  # z_dim 2 needs means
    first, second = tmp_path / "first", tmp_path / "second"
    export_folder(networks(names), first, family=WAN21, layout=layout, tokenizer=tokenizer)
    converted = ModelFolder(convert_folder(first, tmp_path / "converted"))
    loaded = [(name, *converted.load(name)) for name in converted.names]
    for (name, config, leaves), (_, ours, before) in zip(loaded, networks(names), strict=True):
        width = "bfloat16" if name == "text_encoder" else "float32"
        assert config == dataclasses.replace(ours, param_dtype=width)
        for path, leaf in before.items():
            assert np.asarray(leaves[path]).tobytes() == leaf.tobytes(), path
    export_folder(loaded, second, family=WAN21, layout=layout, tokenizer=converted.tokenizer())
    assert files(first) == files(second)
    for name in names:
        a, b = (open_published(folder).networks[name].source for folder in (first, second))
        assert {n: a.read(n).tobytes() for n in a.tensors} == {
            n: b.read(n).tobytes() for n in b.tensors
        }
    for path in files(first):
        if path.endswith(".json"):
            assert (first / path).read_text() == (second / path).read_text()


def test_shards_are_no_larger_than_asked_and_hold_everything_once(tmp_path):
    ((_, config, leaves),) = networks(["dit"])
    export_folder([("dit", config, leaves)], tmp_path / "out", family=WAN21, shard_bytes=8000)
    index = json.loads(
        (tmp_path / "out" / "diffusion_pytorch_model.safetensors.index.json").read_text()
    )
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    count = len(shards)
    assert (
        count > 2 and shards[0].name == f"diffusion_pytorch_model-00001-of-{count:05}.safetensors"
    )
    for shard in shards:
        tensors = open_safetensors(shard).tensors
        assert {n for n, file in index["weight_map"].items() if file == shard.name} == set(tensors)
        assert sum(np.prod(t.shape, dtype=int) * 4 for t in tensors.values()) <= 8000 or (
            len(tensors) == 1
        )
    source = LeafTensors(leaves, FOREIGN.networks["dit"].rules["original"](config))
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in leaves.values())
    again = open_published(tmp_path / "out").networks["dit"].source
    for name in source.tensors:
        assert again.read(name).tobytes() == source.read(name).tobytes()


def test_progress_counts_every_byte(tmp_path):
    told = []
    ((_, config, leaves),) = networks(["dit"])
    export_folder(
        [("dit", config, leaves)],
        tmp_path / "out",
        family=WAN21,
        on_progress=lambda *a: told.append(a),
    )
    size = sum(leaf.nbytes for leaf in leaves.values())
    assert told[-1] == ("dit", size, size)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        export_folder(networks(), tmp_path / "out", family=WAN21)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_no_numbers_are_not_written(tmp_path, bad):
    ((_, config, leaves),) = networks(["dit"])
    leaves["blocks/ffn/up/kernel"][1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"1 of 960 values of blocks\.1\.ffn\.0\.weight \(dit\)"):
        export_folder([("dit", config, leaves)], tmp_path / "out", family=WAN21)
    assert not list(tmp_path.iterdir())


def test_leaves_of_another_model_are_refused_and_nothing_is_left(tmp_path):
    ((_, config, leaves),) = networks(["dit"])
    del leaves["head/linear/bias"]
    with pytest.raises(ValueError, match="the model has no leaf head/linear/bias"):
        export_folder([("dit", config, leaves)], tmp_path / "out", family=WAN21)
    assert not list(tmp_path.iterdir())
