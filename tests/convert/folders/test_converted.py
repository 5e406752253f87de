import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.manifest import read_manifest
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.networks import config_from_json, config_to_json
from pusa_jax.convert.tables import LeafTensors
from pusa_jax.convert.violations import ConversionError
from pusa_jax.convert.wan.foreign import WAN21 as FOREIGN
from pusa_jax.devices import processes
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21

CONFIGS = {
    "dit": DiTConfig(
        dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=8, text_len=6, freq_dim=16
    ),
    "vae": VAEConfig(dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,)),
    "text_encoder": TextConfig(
        vocab=10,
        dim=8,
        dim_attn=8,
        dim_ffn=12,
        num_heads=2,
        num_layers=2,
        num_buckets=8,
        text_len=6,
    ),
}
ROOT = Path(__file__).resolve().parents[3]
DTYPES = {"dit": np.float32, "vae": np.float32, "text_encoder": ml_dtypes.bfloat16}
WAN_CONFIG = {"_class_name": "WanModel", "dim": 24, "num_heads": 2, "text_len": 6, "eps": 1e-6}
ORIGINAL = {
    "dit": "diffusion_pytorch_model.safetensors",
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
}
INDEX = "diffusion_pytorch_model.safetensors.index.json"
DIFFUSERS = {
    "dit": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def leaves_of(name):
    rng = np.random.default_rng(0)
    return {
        path: rng.standard_normal(leaf.shape).astype(DTYPES[name])
        for path, leaf in WAN21.networks[name].shapes(CONFIGS[name]).items()
    }


def write(path, name, layout):
    path.parent.mkdir(parents=True, exist_ok=True)
    source = LeafTensors(leaves_of(name), FOREIGN.networks[name].rules[layout](CONFIGS[name]))
    if path.suffix == ".safetensors":
        write_safetensors(path, source)
    else:
        write_torch_zip(path, source)


def write_json(path, content):
    path.write_text(json.dumps(content))


def published(folder, layout):
    for name, file in (ORIGINAL if layout == "original" else DIFFUSERS).items():
        write(folder / file, name, layout)
    if layout == "original":
        write_json(folder / "config.json", WAN_CONFIG)
        tokenizer = folder / "google" / "umt5-xxl"
    else:
        write_json(
            folder / "transformer" / "config.json", {"num_attention_heads": 2, "text_len": 6}
        )
        write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKLWan"})
        write_json(folder / "text_encoder" / "config.json", {"architectures": ["UMT5EncoderModel"]})
        tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module", params=["original", "diffusers"])
def folder(request, tmp_path_factory):
    return published(tmp_path_factory.mktemp("published"), request.param)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return published(tmp_path_factory.mktemp("original"), "original")


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    return convert_folder(original, tmp_path_factory.mktemp("converted") / "dst")


@pytest.fixture
def own_converted(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "dst")


@pytest.fixture
def own(original, tmp_path):
    return shutil.copytree(original, tmp_path / "own")


def one_line(error):
    assert "\n" not in str(error.value)


def assert_serves(folder, name):
    config, leaves = ModelFolder(folder).load(name)
    width = "bfloat16" if name == "text_encoder" else "float32"
    assert config == dataclasses.replace(CONFIGS[name], param_dtype=width)
    for path, leaf in leaves_of(name).items():
        assert leaves[path].dtype == leaf.dtype
        assert np.asarray(leaves[path]).tobytes() == leaf.tobytes(), path


def test_published_and_converted_folders_serve_the_same(folder, tmp_path):
    told = []
    dst = convert_folder(folder, str(tmp_path / "dst"), on_progress=lambda *what: told.append(what))
    for place in (folder, dst):
        assert ModelFolder(place).names == tuple(CONFIGS)
        assert (ModelFolder(place).tokenizer() / "tokenizer.json").is_file()
        for name in CONFIGS:
            assert_serves(place, name)
    for name in CONFIGS:
        done = [(d, total) for what, d, total in told if what == name]
        size = sum(leaf.nbytes for leaf in leaves_of(name).values())
        assert done[0] == (0, size) and done[-1] == (size, size)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
    assert sorted(p.name for p in dst.iterdir()) == sorted([*CONFIGS, "tokenizer", "pusa_jax.json"])


def test_dtypes_are_converted_where_asked(original, converted):
    expected = leaves_of("dit")["head/linear/kernel"].astype(ml_dtypes.bfloat16)
    for place in (original, converted):
        config, leaves = ModelFolder(place).load("dit", "bfloat16")
        assert config.param_dtype == "bfloat16"
        assert np.asarray(leaves["head/linear/kernel"]).tobytes() == expected.tobytes()


def test_leaves_are_put_on_shardings_from_both_kinds_of_folder(original, converted):
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])

    def shard(shapes):
        cut, whole = jax.NamedSharding(mesh, jax.P(None, "x")), jax.NamedSharding(mesh, jax.P())
        return {path: cut if path.startswith("blocks/") else whole for path in shapes}

    for place in (original, converted):
        _, leaves = ModelFolder(place).load("dit", shard=shard)
        for path, leaf in leaves_of("dit").items():
            assert leaves[path].sharding == shard([path])[path]
            np.testing.assert_array_equal(leaves[path], leaf)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_single_file_is_enough_for_its_network(original, tmp_path, name):
    file = original / ORIGINAL[name]
    assert ModelFolder(file).names == (name,)
    _, leaves = ModelFolder(file).load(name)
    assert leaves.keys() == leaves_of(name).keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_one_diffusers_network_is_recognised(tmp_path, name):
    folder = published(tmp_path / "all", "diffusers")
    part = folder / DIFFUSERS[name].split("/")[0]
    assert ModelFolder(part).names == (name,)
    config, _ = ModelFolder(part).load(name)
    if name == "dit":
        assert config == CONFIGS[name]


def test_a_lora_beside_the_networks_is_no_network(own):
    write_safetensors(own / "lora.safetensors", ArrayTensors({"a.lora_A.weight": np.zeros((1, 1))}))
    assert ModelFolder(own).names == tuple(CONFIGS)


def test_shards_are_read_through_their_index(own):
    file = own / ORIGINAL["dit"]
    source = LeafTensors(
        leaves_of("dit"), FOREIGN.networks["dit"].rules["original"](CONFIGS["dit"])
    )
    names, weight_map = list(source.tensors), {}
    for k, part in enumerate((names[::2], names[1::2])):
        shard = f"diffusion_pytorch_model-0000{k + 1}-of-00002.safetensors"
        write_safetensors(own / shard, source, part)
        weight_map |= dict.fromkeys(part, shard)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"one of several shards, but .*index\.json is missing"
    ):
        ModelFolder(own)
    write_json(own / INDEX, {"weight_map": weight_map})
    assert_serves(own, "dit")
    assert len(open_tensors(own / INDEX).sizes()) == 2


def test_nothing_found_says_what_was_looked_for(tmp_path):
    (tmp_path / "readme.md").write_text("")
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors({"w": np.zeros(1, np.float32)}))
    with pytest.raises(
        FileNotFoundError, match=r"no DiT, VAE or text.*there: x\.safetensors"
    ) as error:
        convert_folder(tmp_path, tmp_path / "dst")
    one_line(error)
    with pytest.raises(FileNotFoundError, match="no folder or file"):
        ModelFolder(tmp_path / "nowhere")


def test_two_candidates_for_one_network_are_named(own):
    shutil.copy(own / ORIGINAL["vae"], own / "copy.pth")
    with pytest.raises(
        ValueError, match=r"2 candidates for the vae: Wan2.1_VAE\.pth, copy\.pth"
    ) as error:
        ModelFolder(own)
    one_line(error)
    assert ModelFolder(own / "copy.pth").names == ("vae",)


def test_what_is_missing_is_said(own, tmp_path):
    (own / ORIGINAL["vae"]).unlink()
    (own / ORIGINAL["text_encoder"]).unlink()
    shutil.rmtree(own / "google")
    for place in (own, convert_folder(own, tmp_path / "dst")):
        with pytest.raises(FileNotFoundError, match=r"has no vae; it has dit\. Expected "):
            ModelFolder(place).load("vae")
        with pytest.raises(FileNotFoundError, match="no tokenizer; expected google/umt5-xxl"):
            ModelFolder(place).tokenizer()


def test_nothing_is_written_if_a_tensor_is_wrong(own, tmp_path):
    arrays = dict(LeafTensorsOf("dit"))
    arrays["extra"] = np.zeros(1, np.float32)
    del arrays["head.head.bias"]
    write_safetensors(own / ORIGINAL["dit"], ArrayTensors(arrays))
    with pytest.raises(ConversionError) as error:
        convert_folder(own, tmp_path / "dst")
    assert error.value.violations == [
        ("missing", "head.head.bias [64] for head/linear/bias"),
        ("unexpected", "extra [1]"),
    ]
    assert str(own / ORIGINAL["dit"]) in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own"]


def LeafTensorsOf(name):
    source = LeafTensors(leaves_of(name), FOREIGN.networks[name].rules["original"](CONFIGS[name]))
    return ((n, source.read(n)) for n in source.tensors)


@pytest.mark.parametrize("content", ["{", "[1]", '{"dim": 5120, "num_heads": 2}'])
def test_a_config_that_is_damaged_or_of_another_model_is_named(own, content):
    (own / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is damaged|has dim=5120)") as error:
        ModelFolder(own).load("dit")
    one_line(error)


def test_the_same_conversion_is_not_done_twice(original, converted):
    before = (converted / "pusa_jax.json").stat().st_mtime_ns
    assert convert_folder(original, converted) == converted
    assert (converted / "pusa_jax.json").stat().st_mtime_ns == before


def test_another_conversion_is_replaced_only_on_request(original, own_converted):
    dst = own_converted
    with pytest.raises(FileExistsError, match="conversion of something else") as error:
        convert_folder(original, dst, dtype="bfloat16")
    one_line(error)
    convert_folder(original, dst, dtype="bfloat16", overwrite=True)
    assert read_manifest(dst)["components"]["dit"]["dtypes"] == ["bfloat16"]
    assert ModelFolder(dst).load("dit")[0].param_dtype == "bfloat16"
    assert ModelFolder(dst).load("vae", "float32")[1]["conv1/bias"].dtype == jnp.float32


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(original, tmp_path, overwrite):
    for place in ("dst", "dst.tmp"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no conversion"):
        convert_folder(original, tmp_path / "dst", overwrite=overwrite)
    shutil.rmtree(tmp_path / "dst")
    convert_folder(original / ORIGINAL["dit"], tmp_path / "dst", overwrite=overwrite)
    assert (tmp_path / "dst.tmp" / "thesis.txt").is_file()


def test_an_interrupted_conversion_can_be_repeated(original, tmp_path):
    def interrupt(what, done, total):
        raise KeyboardInterrupt

    file = original / ORIGINAL["dit"]
    with pytest.raises(KeyboardInterrupt):
        convert_folder(file, tmp_path / "dst", on_progress=interrupt)
    assert not (tmp_path / "dst").exists()
    assert ModelFolder(convert_folder(file, tmp_path / "dst")).names == ("dit",)


def test_of_two_that_convert_at_once_one_does_the_work(original, tmp_path):
    dst, somebody_waits, workers = tmp_path / "dst", threading.Event(), set()

    def progress(what, done, total):
        if what == "dit":
            workers.add(threading.get_ident())
            assert somebody_waits.wait(60)
        else:
            somebody_waits.set()

    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(
                convert_folder,
                original / ORIGINAL["dit"],
                dst,
                overwrite=True,
                on_progress=progress,
            )
            for _ in range(2)
        ]
        assert [one.result() for one in both] == [dst, dst]
    assert len(workers) == 1
    assert [place.name for place in tmp_path.iterdir()] == ["dst"]
    assert_serves(dst, "dit")


def test_processes_that_have_joined_do_not_convert(original, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "have_joined", lambda: True)
    with pytest.raises(RuntimeError, match="before the processes join"):
        convert_folder(original, tmp_path / "dst")


def test_a_converted_folder_is_no_source(converted, tmp_path):
    with pytest.raises(ValueError, match="is converted already"):
        convert_folder(converted, tmp_path / "again")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / "pusa_jax.json").write_text(content)
    with pytest.raises(ValueError, match=r"damaged|another version"):
        ModelFolder(tmp_path).load("dit")


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_survive_json_without_how_they_run(name):
    values = json.loads(json.dumps(config_to_json(CONFIGS[name])))
    assert config_from_json(type(CONFIGS[name]), values) == CONFIGS[name]
    assert "compute_dtype" not in values
    with pytest.raises(ValueError, match="another version: 'wings' is unknown"):
        config_from_json(type(CONFIGS[name]), values | {"wings": 2})


KILLED = """
import os, signal, sys
from pusa_jax.convert.folders.converted import convert_folder

def kill(what, done, total):
    if (what, done > 0) == ("vae", True):
        os.kill(os.getpid(), signal.SIGKILL)

convert_folder(sys.argv[1], sys.argv[2], on_progress=kill)
"""


def test_a_killed_conversion_leaves_nothing_that_looks_complete(original, tmp_path):
    dst = tmp_path / "dst"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, original, dst], cwd=ROOT, timeout=100, capture_output=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    (left,) = tmp_path.glob(".dst.*.tmp")
    assert not dst.exists() and (left / "dit" / "tree.json").is_file()
    with pytest.raises(ValueError, match="unfinished conversion"):
        ModelFolder(left).load("dit")
    convert_folder(original, dst)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
    assert_serves(dst, "dit")
