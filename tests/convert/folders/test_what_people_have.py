"""Files as programs repack them, and folders with strangers in them."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.folders.summary import summary
from pusa_jax.convert.tables import LeafTensors
from pusa_jax.convert.wan.foreign import WAN21 as FOREIGN
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21

CONFIGS = {
    "dit": DiTConfig(
        dim=128, ffn_dim=8, num_heads=1, num_layers=2, text_dim=8, text_len=512, freq_dim=16
    ),
    "vae": VAEConfig(dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,)),
    "text_encoder": TextConfig(
        vocab=10, dim=8, dim_attn=8, dim_ffn=12, num_heads=2, num_layers=2, num_buckets=8,
        text_len=512,
    ),
}  # fmt: skip
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def leaves(name):
    rng = np.random.default_rng(0)
    shapes = WAN21.networks[name].shapes(CONFIGS[name])
    return {
        path: rng.standard_normal(leaf.shape).astype(np.float32) for path, leaf in shapes.items()
    }


LEAVES = {name: leaves(name) for name in CONFIGS}


def tensors(name, layout="original", prefix=""):
    source = LeafTensors(LEAVES[name], FOREIGN.networks[name].rules[layout](CONFIGS[name]))
    return {prefix + key: source.read(key) for key in source.tensors}


def write(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".safetensors", ".sft"):
        write_safetensors(path, ArrayTensors(arrays))
    else:
        write_torch_zip(path, ArrayTensors(arrays))
    return path


def assert_holds(folder, names=tuple(CONFIGS)):
    assert set(folder.names) == set(names)
    for name in names:
        _, found = folder.load(name, "float32")
        assert {p: np.asarray(x).tobytes() for p, x in found.items()} == {
            p: x.tobytes() for p, x in LEAVES[name].items()
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write(folder / "diffusion_pytorch_model.safetensors", tensors("dit"))
    write(folder / "Wan2.1_VAE.pth", tensors("vae"))
    write(folder / "models_t5_umt5-xxl-enc-bf16.pth", tensors("text_encoder"))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "net.", "pipe.dit.", "transformer.", "model.",
     "model.diffusion_model."],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_prefixes_of_a_model_are_dropped(tmp_path, prefix, layout):
    path = write(tmp_path / "x.safetensors", tensors("dit", layout, prefix))
    assert_holds(ModelFolder(path), ["dit"])


@pytest.mark.parametrize("ending", ["ckpt", "bin", "sft", "pt", "PTH"])
@pytest.mark.parametrize("name", CONFIGS)
def test_endings_of_other_programs_are_read(tmp_path, ending, name):
    path = write(tmp_path / f"x.{ending}", tensors(name))
    assert_holds(ModelFolder(path), [name])


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_text_encoder_of_comfyui_has_its_tokenizer_inside(tmp_path, layout):
    arrays = tensors("text_encoder", layout) | {"spiece_model": np.zeros(9, np.uint8)}
    path = write(tmp_path / "umt5_xxl_fp16.safetensors", arrays)
    assert_holds(ModelFolder(path), ["text_encoder"])


@pytest.mark.parametrize(
    ("name", "layout", "prefix"),
    [("vae", "original", "first_stage_model."), ("vae", "original", "vae."),
     ("text_encoder", "diffusers", "text_encoders.umt5xxl.transformer.")],
)  # fmt: skip
def test_a_part_of_one_file_alone_is_read_as_well(tmp_path, name, layout, prefix):
    path = write(tmp_path / "x.safetensors", tensors(name, layout, prefix))
    assert_holds(ModelFolder(path), [name])


DIT_PARTS = ("model.diffusion_model.", "diffusion_model.")
VAE_PARTS = ("first_stage_model.", "vae.")
TEXT_PARTS = ("text_encoders.umt5xxl.transformer.", "text_encoders.umt5xxl.")


@pytest.mark.parametrize("dit", DIT_PARTS)
@pytest.mark.parametrize("vae", VAE_PARTS)
@pytest.mark.parametrize("text", TEXT_PARTS)
def test_one_file_of_all_networks_is_cut_up(tmp_path, dit, vae, text):
    arrays = tensors("dit", prefix=dit) | tensors("vae", prefix=vae)
    arrays |= tensors("text_encoder", "diffusers", text)
    arrays |= {f"{text}spiece_model": np.zeros(9, np.uint8), f"{text}logit_scale": np.ones(1)}
    path = write(tmp_path / "wan_all_in_one.safetensors", arrays)
    assert_holds(ModelFolder(path))
    assert_holds(ModelFolder(convert_folder(path, tmp_path / "out")))
    assert "dit: " in summary(path) and "vae: " in summary(path)


def test_scaled_parts_of_one_file_are_multiplied_out(tmp_path):
    arrays = tensors("dit", prefix="model.diffusion_model.") | tensors("vae", prefix="vae.")
    name = "model.diffusion_model.blocks.0.ffn.0"
    arrays[f"{name}.weight"] = arrays[f"{name}.weight"].astype(ml_dtypes.float8_e4m3fn)
    arrays[f"{name}.scale_weight"] = np.float32([0.5])
    arrays["model.diffusion_model.scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    folder = ModelFolder(write(tmp_path / "x.safetensors", arrays))
    _, found = folder.load("dit", "float32")
    expected = 0.5 * arrays[f"{name}.weight"].astype(np.float32).T
    assert np.array_equal(found["blocks/ffn/up/kernel"][0], expected)


def test_a_leftover_of_one_file_is_reported(tmp_path):
    arrays = tensors("dit", prefix="model.diffusion_model.") | tensors("vae", prefix="vae.")
    path = write(tmp_path / "x.safetensors", arrays | {"strange": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match=r"1 unexpected \(unexpected: strange"):
        ModelFolder(path).check()


STRANGERS = {
    "optimizer.pt": b"damaged",
    "optimizer.bin": b"damaged",
    "rng_state.pth": b"PK\3\4 damaged",
    "rng_state_0.pth": b"",
    "scheduler.pt": b"x",
    "training_args.bin": b"x",
    "random_states_0.pkl": b"x",
    "._diffusion_pytorch_model.safetensors": b"\0\5\26\7",
    "._Wan2.1_VAE.pth": b"\0\5\26\7",
    ".DS_Store": b"x",
    "readme.safetensors": b"not one",
    "embeddings.pt": b"not one",
    "other.safetensors.index.json": b"{}",
    "lost-00001-of-00002.safetensors": b"x",
}


def test_strangers_beside_a_whole_model_do_not_matter(folder):
    for name, content in STRANGERS.items():
        (folder / name).write_bytes(content)
    (folder / "folder.safetensors").mkdir()
    assert_holds(ModelFolder(folder))


@pytest.mark.parametrize(
    "name", [n for n in STRANGERS if n[:3] in ("opt", "rng", "sch", "tra", "._d")]
)
def test_what_trainers_leave_beside_one_network_does_not_matter(folder, name):
    (folder / "Wan2.1_VAE.pth").unlink()
    (folder / name).write_bytes(STRANGERS[name])
    assert_holds(ModelFolder(folder), ["dit", "text_encoder"])


def test_a_damaged_file_that_may_be_the_missing_network_is_named(folder):
    (folder / "Wan2.1_VAE.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"Wan2\.1_VAE\.pth is damaged"):
        ModelFolder(folder)


def test_shards_with_odd_names_count_as_their_index(folder):
    whole = folder / "diffusion_pytorch_model.safetensors"
    whole.unlink()
    weight_map = {}
    for name, array in tensors("dit").items():
        shard = (
            f"{'block_' + name.split('.')[1] if name[:6] == 'blocks' else 'non_block'}.safetensors"
        )
        weight_map.setdefault(shard, {})[name] = array
    for shard, arrays in weight_map.items():
        write(folder / shard, arrays)
    assert_holds(ModelFolder(folder))  # without an index, as LightX2V names them
    names = {name: shard for shard, arrays in weight_map.items() for name in arrays}
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    assert len(weight_map) == 3
    assert_holds(ModelFolder(folder))


def test_pickled_shards_are_read_through_their_index(tmp_path):
    parts = list(tensors("dit").items())
    write(tmp_path / "pytorch_model-00001-of-00002.bin", dict(parts[:9]))
    write(tmp_path / "pytorch_model-00002-of-00002.bin", dict(parts[9:]))
    names = {n: f"pytorch_model-0000{1 + (i > 8)}-of-00002.bin" for i, (n, _) in enumerate(parts)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    assert_holds(ModelFolder(tmp_path), ["dit"])


def test_two_true_candidates_are_refused_by_name(folder):
    write(folder / "ema.sft", tensors("dit"))
    with pytest.raises(ValueError, match=r"2 candidates for the dit: .*ema\.sft"):
        ModelFolder(folder)


def test_a_folder_of_the_cache_stands_for_its_snapshot(folder, tmp_path):
    root = tmp_path / "models--Wan-AI--Wan2.1-T2V-14B"
    (root / "blobs").mkdir(parents=True)
    shutil.copytree(folder, root / "snapshots" / "abc")
    assert_holds(ModelFolder(root))
    (root / "snapshots" / "def").mkdir()
    with pytest.raises(ValueError, match="2 snapshots; give one: abc, def"):
        ModelFolder(root)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    assert_holds(ModelFolder(root))


@pytest.mark.parametrize("place", ["", "hub"])
def test_the_root_of_a_cache_names_the_models_in_it(tmp_path, place):
    (tmp_path / place / "models--Wan-AI--Wan2.1-T2V-14B").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"cache of Hugging Face; give .*Wan2\.1-T2V-14B"):
        ModelFolder(tmp_path)


def test_a_pointer_of_git_lfs_is_named(folder):
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name in ("diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth"):
        (folder / name).write_bytes(text)
    with pytest.raises(ValueError, match="is a Git-LFS pointer, not the file itself: run git lfs"):
        ModelFolder(folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_info_says_what_a_file_of_weights_is(tmp_path, name):
    path = write(tmp_path / "x.safetensors", tensors(name))
    assert f"{name}: " in summary(path) and "float32" in summary(path)


def test_info_of_a_file_that_is_neither_names_some_of_its_tensors(tmp_path):
    path = write(tmp_path / "x.safetensors", {f"w.{i}": np.ones(1, np.float32) for i in range(999)})
    with pytest.raises(ValueError, match=r"neither .*999 tensors.*w\.0") as error:
        summary(path)
    assert len(str(error.value)) < 1000


def test_a_tokenizer_packed_into_the_text_encoder_says_what_to_do(folder, tmp_path):
    file = folder / "models_t5_umt5-xxl-enc-bf16.pth"
    file.unlink()
    arrays = tensors("text_encoder") | {"spiece_model": np.zeros(9, np.uint8)}
    write(folder / "umt5_xxl_fp16.safetensors", arrays)
    message = r"packed into umt5_xxl_fp16\.safetensors as spiece_model.*expected google/umt5-xxl"
    with pytest.raises(FileNotFoundError, match=message):
        ModelFolder(folder).tokenizer()
    (folder / "umt5_xxl_fp16.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer; expected google/umt5-xxl"):
        ModelFolder(folder).tokenizer()
    path = write(tmp_path / "x.safetensors", tensors("dit"))
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors has no tokenizer; put it into a"):
        ModelFolder(path).tokenizer()
