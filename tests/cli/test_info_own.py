"""`pusa-jax info` and `rerun` know every form of clip, network and run that is written here."""

import json

import jax
import numpy as np
import pytest
from small import MeshConfig, noise_clips, settings
from test_cli_rerun import PRINT

from pusa_jax.cli.main import main
from pusa_jax.demo import shipped
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.jobs import Job
from pusa_jax.media.outputs import write_clip

FRAMES = np.arange(0, 250, 50, dtype=np.uint8).repeat(32 * 48 * 3).reshape(5, 32, 48, 3)
LATENTS = np.zeros((1, 2, 4, 6, 16), np.float32)


def record():
    job = Job(
        task="t2v", model="m", prompt="p", negative_prompt="n", settings=SamplingConfig(fps=9)
    )
    return json.loads(json.dumps({"job": job.as_record(), "latents_sha256": PRINT}))


def written(folder, name):
    write_clip(folder / name, FRAMES, LATENTS, 16, record())
    return str(folder / name)


def info(capsys, path, code=0):
    assert main(["info", str(path)]) == code
    out = capsys.readouterr()
    return out.err if code else out.out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.gif", "clip (gif, gif), 48x32, 16.67 frames a second"),
        ("a.webm", "48x32, 16 frames a second"),
        ("a.png", "picture (PNG), 240x32"),
        ("a.npz", "latents [B, F, h, w, C] of [1, 2, 4, 6, 16], float32, and settings:"),
    ],
)
def test_every_form_of_a_clip_is_told(capsys, tmp_path, name, words):
    assert words in info(capsys, written(tmp_path, name))


@pytest.mark.parametrize("name", ["a.mp4", "folder"])
def test_settings_are_shown_as_json(capsys, tmp_path, name):
    assert json.loads(info(capsys, written(tmp_path, name))) == record()


@pytest.mark.parametrize("name", ["a.npz", "folder"])
def test_latents_and_folders_are_rerun_as_videos_are(seen, capsys, tmp_path, name):
    assert main(["rerun", written(tmp_path, name)]) == 0
    assert seen.job.prompt == "p"
    assert "latents are the same to the last bit" in capsys.readouterr().out
    assert seen.prepared[-1][1] == str((tmp_path / name).with_suffix(".rerun.mp4"))


@pytest.mark.parametrize("name", ["a.gif", "a.webm", "a.png"])
def test_what_carries_no_settings_is_not_rerun(seen, capsys, tmp_path, name):
    assert main(["rerun", written(tmp_path, name)]) == 2
    assert f"{name} carries no settings; .mp4, .npz and folders" in capsys.readouterr().err


def test_broken_latents_are_told_in_a_line(capsys, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no")
    assert info(capsys, tmp_path / "a.npz", code=2).count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wan2.1_VAE.safetensors", "vae: 924,491 parameters"),
        ("models_t5_umt5-xxl-enc-bf16.safetensors", "text_encoder: 90,112 parameters"),
        ("pusa_lora.safetensors", "strength 1 is as trained and adds up @ down as it is"),
    ],
)
def test_networks_and_loras_are_told(capsys, name, words):
    assert words in info(capsys, shipped.FOLDER / name)


def test_a_run_is_told(capsys, tmp_path):
    from pusa_jax.training.loop import train

    run = settings(steps=3, mesh=MeshConfig())
    train(run, noise_clips(run), tmp_path, devices=jax.devices()[:1])
    out = info(capsys, tmp_path)
    assert f"{tmp_path}: training run, step 3 of 3; checkpoints of steps 3" in out
    assert "trains a LoRA of rank 4, alpha 8 of wan2.1, from random weights" in out
    assert "loss " in out and "at step 3" in out and "pusa-jax export --src" in out
