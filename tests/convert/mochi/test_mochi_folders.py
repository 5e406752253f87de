"""A tiny Mochi in its published layouts: opened, converted, exported, sampled."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pusa_jax.cli.main import main
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.export import export_model
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.media.video import write_png
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.testing.mochi import VAE, write_mochi
from pusa_jax.testing.published import write_published_folder

LAYOUTS = ("original", "diffusers")
SETTINGS = SamplingConfig(
    height=32, width=48, num_frames=13, num_steps=3, guidance_scale=3.0, tiled=False
)
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mochi")
    for layout in LAYOUTS:
        write_mochi(root / layout, layout)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_folder_is_found_to_be_mochi(folders, layout):
    folder = ModelFolder(folders / layout)
    assert folder.family is MOCHI
    assert set(folder.names) == {"dit", "vae", "text_encoder"}
    assert folder.config("text_encoder").text_len == folder.config("dit").text_len
    folder.check()


@pytest.mark.parametrize("src", LAYOUTS)
@pytest.mark.parametrize("dst", LAYOUTS)
def test_a_converted_folder_is_written_back_bit_for_bit(folders, tmp_path, src, dst):
    converted = convert_folder(folders / src, tmp_path / "converted")
    export_model(ModelFolder(converted), tmp_path / "back", dst)
    for file in sorted((folders / dst).rglob("*.safetensors")):
        written = load_file(tmp_path / "back" / file.relative_to(folders / dst))
        expected = load_file(file)
        assert set(written) == set(expected), file
        for name, tensor in expected.items():
            np.testing.assert_array_equal(written[name], tensor, err_msg=name)
    for file in (folders / dst).rglob("*.json"):
        back = tmp_path / "back" / file.relative_to(folders / dst)
        if file.name in ("config.json", "model_index.json"):
            assert json.loads(back.read_text()) == json.loads(file.read_text()), file


def test_one_piece_of_the_autoencoder_alone_is_refused(folders, tmp_path):
    for file in ("dit.safetensors", "encoder.safetensors"):
        (tmp_path / file).symlink_to(folders / "original" / file)
    with pytest.raises(ValueError, match=r"must have one decoder\.safetensors, it has none"):
        ModelFolder(tmp_path)


def test_networks_of_two_families_in_one_folder_are_named(folders, tmp_path):
    write_published_folder(tmp_path / "both")
    for file in ("dit.safetensors", "encoder.safetensors", "decoder.safetensors"):
        (tmp_path / "both" / file).symlink_to(folders / "original" / file)
    with pytest.raises(ValueError, match="holds networks of two models"):
        ModelFolder(tmp_path / "both")


@pytest.fixture(scope="module")
def pipe(folders):
    return PusaPipeline.from_pretrained(folders / "original", dtype="float32")


@pytest.mark.long
def test_it_is_sampled_by_the_pipeline_of_every_family(pipe):
    given = tasks.image_to_video(IMAGE, (0,), (0.0,))
    result = pipe("a red dog", conditions=given, settings=SETTINGS)
    assert result.frames.shape == (13, 32, 48, 3)
    clean = pipe.encode((IMAGE.astype(np.float32) * (2 / 255) - 1)[None, None], False)
    mean, std = np.asarray([VAE.latent_mean, VAE.latent_std], np.float32)
    np.testing.assert_array_equal(result.latents[:, 0], (clean * std + mean)[:, 0])
    settings = dataclasses.replace(SETTINGS, original_conditions=False)
    result = pipe("a red dog", conditions=given, settings=settings)
    np.testing.assert_array_equal(result.latents[:, 0], clean[:, 0])


@pytest.mark.long
def test_both_layouts_give_the_same_clip(pipe, folders):
    other = PusaPipeline.from_pretrained(folders / "diffusers", dtype="float32")
    ours, theirs = (p("a red dog", settings=SETTINGS).latents for p in (pipe, other))
    np.testing.assert_array_equal(ours, theirs)


def test_the_empty_negative_prompt_has_no_token(pipe):
    (features,) = pipe.encode_prompts([""])
    assert not np.asarray(features).any()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--num_frames", "14"],
            "frames must be 6k+1, got 14; nearest are 13 and 19",
        ),
        (["--height", "40"], "height must be divisible by 16, got 40"),
        (["--solver", "unipc"], "mochi-1 is sampled with euler or ab2, not with unipc"),
    ],
)
def test_what_it_cannot_sample_is_one_line(folders, tmp_path, capsys, args, message):
    base = ["t2v", "--model", str(folders / "original"), "--prompt", "a dog", "--dry_run"]
    sizes = ["--height", "32", "--width", "48", "--num_frames", "13"]
    assert main([*base, *sizes, "--output", str(tmp_path / "x.mp4"), *args]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_dry_run_has_the_defaults_of_pusa_v05(folders, tmp_path, capsys):
    output = str(tmp_path / "x.mp4")
    base = ["t2v", "--model", str(folders / "original"), "--prompt", "a dog", "--output", output]
    assert main([*base, "--dry_run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["latents"] == [1, 28, 60, 106, 12]
    assert plan["tokens"] == 28 * 30 * 53
    assert (plan["steps"], plan["passes_per_step"]) == (30, 2)


@pytest.mark.long
def test_of_both_layouts_in_one_folder_the_original_is_taken(tmp_path):
    """As in genmo's own repository."""
    write_mochi(tmp_path, "diffusers", seed=5)
    write_mochi(tmp_path, "original")
    with pytest.warns(UserWarning, match=r"both layouts; the original is taken, not transf.*vae/"):
        found = ModelFolder(tmp_path)
    assert found.names == ("dit", "vae", "text_encoder")
    write_mochi(tmp_path / "alone", "original")
    for name in ("dit", "vae"):
        _, expected = ModelFolder(tmp_path / "alone").load(name)
        for path, leaf in found.load(name)[1].items():
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_pusas_dit_is_taken_where_it_lies_beside_that_of_mochi(folders, tmp_path):
    shutil.copytree(folders / "original", tmp_path / "model")
    write_mochi(tmp_path / "tuned", seed=5)
    (tmp_path / "tuned" / "dit.safetensors").rename(tmp_path / "model" / "pusa_v0_dit.safetensors")
    with pytest.warns(UserWarning, match=r"pusa_v0_dit.* and dit.safetensors; the former is taken"):
        found = ModelFolder(tmp_path / "model")
    (tmp_path / "model" / "dit.safetensors").unlink()
    expected = ModelFolder(tmp_path / "model").load("dit")[1]
    for name, leaf in found.load("dit")[1].items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


def all_in_one(original, file):
    """What ComfyUI calls a checkpoint: three networks with their prefixes in one file."""
    tensors = {}
    for part, prefix in {
        "dit": "model.diffusion_model.",
        "encoder": "vae.encoder.",
        "decoder": "vae.decoder.",
        "text_encoder/model": "text_encoders.t5xxl.transformer.",
    }.items():
        found = load_file(original / f"{part}.safetensors")
        tensors |= {prefix + name: tensor for name, tensor in found.items()}
    file.parent.mkdir()
    save_file(tensors, file)
    shutil.copytree(original / "tokenizer", file.with_name("tokenizer"))


def test_one_file_of_all_networks_is_the_same_model(folders, tmp_path):
    all_in_one(folders / "original", tmp_path / "comfy" / "mochi_all_in_one.safetensors")
    found, expected = ModelFolder(tmp_path / "comfy"), ModelFolder(folders / "original")
    assert found.family is MOCHI and set(found.names) == set(expected.names)
    found.check()
    for name in expected.names:
        assert found.config(name) == expected.config(name)
        leaves = found.load(name)[1]
        for path, leaf in expected.load(name)[1].items():
            np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)


def test_the_originals_tiles_are_a_setting(pipe):
    """Halves without overlap: each is decoded as a clip of its own."""
    latents = np.random.default_rng(0).standard_normal((1, 2, 4, 6, 12)).astype(np.float32)
    tiled = pipe.decode(latents, "original")
    corner = pipe.decode(latents[:, :, 2:, :3], False)
    np.testing.assert_allclose(tiled[:, 16:, :24], corner, atol=1e-5)
    assert np.abs(tiled - pipe.decode(latents, False)).max() > 0.1
    pixels = np.zeros((1, 1, 32, 48, 3), np.float32)
    np.testing.assert_array_equal(pipe.encode(pixels, "original"), pipe.encode(pixels, False))


TINY = ("--height", "32", "--width", "48", "--num_frames", "19", "--prompt", "x", "--dry_run")


def test_the_fast_preset_is_genmos(folders, capsys):
    assert main(["t2v", "--model", str(folders / "original"), *TINY, "--fast"]) == 0
    told = capsys.readouterr()
    plan = json.loads(told.out)
    assert plan["steps"] == 8 and plan["passes_per_step"] == 2 and "careful" not in told.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shift", "3"], "the noise schedule of mochi-1 has no shift"),
        (["--solver", "unipc"], "sampled with euler or ab2"),
        (["--num_frames", "20"], "must be 6k+1, got 20; nearest are 19 and 25"),
        (["--height", "40"], "height must be divisible by 16, got 40"),
    ],
)
def test_what_mochi_has_not_is_refused_in_a_line(folders, tmp_path, flags, words, capsys):
    output = ["--output", str(tmp_path / "x.mp4")]
    assert main(["t2v", "--model", str(folders / "original"), *TINY, *flags, *output]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.err.count("error:") == 1 and not told.out
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("at", ["4", "-5", "3,-1"])
def test_places_outside_or_twice_are_refused(folders, tmp_path, at, capsys):
    frame = tmp_path / "p.png"
    write_png(frame, IMAGE)
    places = ["--cond_position", at, "--image_paths", *[str(frame)] * len(at.split(","))]
    task = "i2v" if "," not in at else "start-end"
    output = ["--output", str(tmp_path / "x.mp4")]
    assert main([task, "--model", str(folders / "original"), *TINY, *places, *output]) == 2
    assert ("twice" if "," in at else "use 0 to 3") in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()
