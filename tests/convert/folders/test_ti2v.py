"""Folders of Wan2.2-TI2V-5B: one denoiser, on the latents of the autoencoder of Wan2.2."""

import json
import shutil

import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.export import export_model
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.models.wan.family import WAN21, WAN22_TI2V
from pusa_jax.testing.published import VAE22, write_published_folder, write_ti2v

LAYOUTS = ("original", "diffusers")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / request.param
    write_ti2v(folder, request.param)
    return folder


@pytest.fixture
def own(tmp_path):
    write_ti2v(tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(scope="module")
def wan21(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan21") / "model"
    write_published_folder(folder)
    return folder


def leaves(folder, name):
    return {p: np.asarray(x).tobytes() for p, x in ModelFolder(folder).load(name)[1].items()}


def test_both_layouts_are_read(folder):
    found = ModelFolder(folder)
    assert found.family is WAN22_TI2V and found.names == ("dit", "vae", "text_encoder")
    assert found.config("vae") == VAE22
    found.check()


ALONE = {
    "original": {"dit": WEIGHTS, "vae": "Wan2.2_VAE.safetensors"},
    "diffusers": {"dit": "transformer", "vae": "vae"},
}


@pytest.mark.parametrize("name", ["dit", "vae"])
def test_each_network_is_known_by_itself(folder, name):
    found = ModelFolder(folder / ALONE[folder.name][name])
    assert (found.family, found.names) == (WAN22_TI2V, (name,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conversion_and_export_keep_all_bits(folder, tmp_path, layout):
    dst = convert_folder(folder, tmp_path / "dst")
    assert ModelFolder(dst).family is WAN22_TI2V
    written = export_model(ModelFolder(dst), tmp_path / "out", layout)
    if layout == "original":
        assert tmp_path / "out" / "Wan2.2_VAE.pth" in written
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["model_type"] == "ti2v"
    else:
        index = json.loads((tmp_path / "out" / "model_index.json").read_text())
        assert index["expand_timesteps"] is True and "boundary_ratio" not in index
    back = ModelFolder(tmp_path / "out")
    assert back.family is WAN22_TI2V and back.config("vae") == VAE22
    for name in back.names:
        assert leaves(dst, name) == leaves(tmp_path / "out", name) == leaves(folder, name)


def test_the_vae_of_wan21_is_refused(own, wan21, tmp_path):
    (own / "Wan2.2_VAE.safetensors").unlink()
    shutil.copy(wan21 / "Wan2.1_VAE.safetensors", own)
    with pytest.raises(ValueError, match="networks of two models") as error:
        convert_folder(own, tmp_path / "dst")
    text = str(error.value)
    assert f"{WEIGHTS} is a dit of wan2.2-ti2v, Wan2.1_VAE.safetensors a vae of wan2.1" in text
    assert "\n" not in text and not (tmp_path / "dst").exists()


def test_the_vae_of_wan22_is_refused_for_wan21(own, wan21, tmp_path):
    mixed = shutil.copytree(wan21, tmp_path / "mixed")
    (mixed / "Wan2.1_VAE.safetensors").unlink()
    shutil.copy(own / "Wan2.2_VAE.safetensors", mixed)
    with pytest.raises(ValueError, match=r"two models: .* is a dit of wan2\.1, Wan2\.2_VAE"):
        ModelFolder(mixed)


def test_a_folder_without_denoiser_is_known_by_its_vae(own, wan21):
    (own / WEIGHTS).unlink()
    assert ModelFolder(own).family is WAN22_TI2V
    assert ModelFolder(wan21).family is WAN21


SIZE = ["--height", "64", "--width", "96", "--num_frames", "9", "--dtype", "float32"]


@pytest.mark.long
@pytest.mark.parametrize("task", ["t2v", "i2v", "extend"])
def test_tasks_of_pusa_run_on_it(folder, tmp_path, capsys, task):
    from pusa_jax.media import video

    frames = np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), np.uint8)
    video.write_png(tmp_path / "a.png", frames[0])
    video.write_video(tmp_path / "a.mp4", frames, 24)
    given = {
        "t2v": [],
        "i2v": ["--image_paths", tmp_path / "a.png"],
        "extend": ["--video_path", tmp_path / "a.mp4", "--cond_position", "0,1"],
    }[task]
    line = [task, "--model", folder, "--prompt", "a red dog", *SIZE, *given]
    few = ["--num_inference_steps", "2", "--no_compilation_cache", "--output", tmp_path / "o.mp4"]
    assert main([str(word) for word in (*line, *few)]) == 0
    record = video.read_metadata(tmp_path / "o.mp4")
    assert record["job"]["settings"]["fps"] == 24
    made, _ = video.read_video(tmp_path / "o.mp4", 9)
    assert made.shape == (9, 64, 96, 3)
    assert main([str(word) for word in (*line, "--dry_run")]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["latents"] == [1, 3, 4, 6, 48]


def test_the_defaults_are_those_of_the_model(folder, capsys):
    line = ["t2v", "--model", str(folder), "--prompt", "", "--dry_run"]
    assert main(line) == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert plan["latents"] == [1, 31, 44, 80, 48] and plan["tokens"] == 27280 and err == ""
    assert main([*line, "--preset", "official"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["solver"]) == (50, "unipc")
    assert main([*line, "--fps", "16"]) == 0
    err = capsys.readouterr().err
    assert "wan2.2-ti2v makes 24 frames a second: at 16 all will move 0.667 times as fast" in err


@pytest.mark.parametrize("flag", ["--height=720", "--width=1264"])
def test_sizes_of_wan21_are_refused_with_the_nearest(folder, capsys, flag):
    assert main(["t2v", "--model", str(folder), "--prompt", "", "--dry_run", flag]) == 2
    err = capsys.readouterr().err
    assert "must be divisible by 32, got" in err and err.count("\n") == 1
