"""Every command on a tiny Mochi, in both published layouts and converted."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pusa_jax.cli.main import main
from pusa_jax.media import video
from pusa_jax.testing.mochi import write_mochi

pytestmark = pytest.mark.long

SIZE = ["--height", "32", "--width", "48", "--num_frames", "25"]
FEW = [*SIZE, "--prompt", "x", "--num_inference_steps", "1", "--no_compilation_cache"]
TASKS = {
    "t2v": [],
    "i2v": ["--image_paths", "a.png", "--cond_position", "-2", "--noise_multipliers", "0.4"],
    "start-end": ["--image_paths", "a.png", "b.png"],
    "interpolate": ["--image_paths", "a.png", "b.png", "a.png"],
    "complete": ["--video_path", "a.mp4"],
    "extend": ["--video_path", "a.mp4"],
    "transition": [
        *("--video_path", "a.mp4", "b.mp4", "--joined"),
        *("--cond_position", "0,-1", "--noise_multipliers", "0.1,0.3"),
    ],
    "loop": ["--image_paths", "a.png"],
}
TRAINED = [
    *("--config.model.weights=original", "--config.data.folder=clips", "--config.steps=1"),
    *("--config.data.height=32", "--config.data.width=48", "--config.data.num_frames=25"),
    *("--config.data.batch_size=2", "--config.samples.every=0", "--quiet"),
    "--config.mesh.context=4",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model in both layouts, pictures, clips and their captions."""
    folder = tmp_path_factory.mktemp("mochi_cli")
    for layout in ("original", "diffusers"):
        write_mochi(folder / layout, layout)
    frames = np.random.default_rng(0).integers(0, 256, (37, 32, 48, 3), np.uint8)
    video.write_png(folder / "a.png", frames[0])
    video.write_png(folder / "b.png", frames[1])
    (folder / "media").mkdir()
    for name, end in (("a", 37), ("b", 25)):
        video.write_video(folder / f"{name}.mp4", frames[:end], 30)
        video.write_video(folder / "media" / f"{name}.mp4", frames[:end], 30)
        (folder / "media" / f"{name}.txt").write_text("a red dog")
    return folder


@pytest.fixture(autouse=True)
def in_its_folder(world, monkeypatch):
    monkeypatch.chdir(world)


def call(*argv):
    assert main([str(arg) for arg in argv]) == 0, argv


def test_every_task_makes_a_clip_and_one_of_them_again():
    for task, given in TASKS.items():
        call(task, "--model", "original", *FEW, *given, "--output", f"{task}.mp4")
        assert len(video.read_video(f"{task}.mp4")[0]) == 25
    call("rerun", "i2v.mp4", "--output", "again.mp4")


def test_the_latents_of_all_layouts_are_the_same():
    call("convert", "--src", "diffusers", "--dst", "converted")
    found = []
    for model in ("original", "diffusers", "converted"):
        output = f"{model}.npz"
        call("t2v", "--model", model, *FEW, "--dtype", "float32", "--output", output)
        found.append(np.load(output)["latents"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_the_originals_tiles_need_the_originals_autoencoder(capsys):
    line = ["t2v", "--prompt", "a", *SIZE, "--original_tiles", "--dry_run"]
    assert main([*line, "--model", "original"]) == 0
    assert main([*line, "--model", "diffusers"]) == 2
    assert "is Diffusers', which decodes the first frames otherwise" in capsys.readouterr().err


def test_layouts_are_written_from_each_other():
    for src, dst in (("original", "diffusers"), ("diffusers", "original")):
        call("export", "--src", src, "--dst", f"as_{dst}", "--layout", dst)
        for file in sorted(Path(dst).rglob("*.safetensors")):
            written = load_file(f"as_{dst}/{file.relative_to(dst)}")
            for name, tensor in load_file(file).items():
                np.testing.assert_array_equal(written.pop(name), tensor)
            assert not written


def test_a_comfy_file_converts_and_comes_back(tmp_path):
    tensors = load_file("original/dit.safetensors")
    prefix = "model.diffusion_model."
    save_file({prefix + n: x for n, x in tensors.items()}, tmp_path / "mochi_comfy.safetensors")
    call("convert", "--src", tmp_path / "mochi_comfy.safetensors", "--dst", tmp_path / "one")
    call("export", "--src", tmp_path / "one", "--dst", tmp_path / "back", "--layout", "original")
    written = load_file(tmp_path / "back" / "dit.safetensors")
    assert set(written) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)


def test_clips_are_encoded_trained_on_and_what_was_trained_samples(capsys):
    call("encode", "--model", "original", "--src", "media", "--dst", "clips", *SIZE)
    call("data", "inspect", "clips")
    call("train", "--config=pusa_v05_full_mochi", "--workdir=full", *TRAINED)
    call("export", "--src", "full", "--dst", "tuned", "--with_base")
    call("t2v", "--model", "tuned", *FEW, "--output", "tuned.mp4")
    call("train", "--config=mochi_lora", "--workdir=lora", "--config.adapter.rank=2", *TRAINED)
    call("export", "--src", "lora", "--dst", "genmo", "--naming", "genmo")
    merged = ["--lora_path", "genmo/pusa_lora.safetensors", "--output", "lora.mp4"]
    call("t2v", "--model", "original", *FEW, *merged)
    capsys.readouterr()
    call("info", "tuned")
    assert "mochi-1" in capsys.readouterr().out
    call("t2v", "--model", "original", *SIZE, "--prompt", "x", "--dry_run")
    assert json.loads(capsys.readouterr().out)["latents"] == [1, 5, 4, 6, 12]
