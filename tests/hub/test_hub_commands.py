"""Commands take names on the Hub where they take folders, and record which commit it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from served_hub import FIRST

from pusa_jax.cli.main import main
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.hub import opening
from pusa_jax.media.outputs import read_record

ROOT = Path(__file__).resolve().parents[2]
NAME = "tiny-world/tiny"
PINNED = f"{NAME}@{FIRST}"
LORA = "pusa_lora.safetensors"
SHORT = ["--num_inference_steps=1", "--num_frames=5", "--height=48", "--width=48", "--prompt="]


@pytest.mark.long
def test_a_video_records_the_commit_and_is_made_again_from_it(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["t2v", "--model", NAME, "--lora_path", f"{NAME}/{LORA}", *SHORT, "--output=a.mp4"]
    assert main(words) == 0
    told = capsys.readouterr().err
    assert f"pusa-jax: {PINNED}, 8 of 13 files, 6.9 MB, from {hub.endpoint}\n" in told
    job = read_record("a.mp4")["job"]
    assert job["model"] == PINNED
    assert job["lora"] == [[f"{PINNED}/{LORA}", 1.4]] and list(job["sha256"]) == [job["lora"][0][0]]
    opening._found.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another machine"))
    assert main(["rerun", "a.mp4"]) == 0
    assert "latents are the same to the last bit as before" in capsys.readouterr().out


@pytest.mark.long
def test_other_commands_take_names_as_well(hub, tmp_path, capsys):
    assert main(["info", NAME]) == 0
    assert "published folder" in capsys.readouterr().out
    assert main(["info", f"{NAME}/{LORA}"]) == 0
    assert "LoRA with" in capsys.readouterr().out
    dst = tmp_path / "converted"
    assert main(["convert", "--src", f"{NAME}@{FIRST}", "--dst", str(dst)]) == 0
    assert ModelFolder(dst).is_converted
    merged = tmp_path / "merged"
    words = ["export", "--src", NAME, "--lora_path", f"{NAME}/{LORA}", "--dst", str(merged)]
    assert main(words) == 0
    tuned = tmp_path / "l.safetensors"
    words = [
        "extract-lora",
        "--tuned",
        str(merged),
        "--base",
        NAME,
        "--rank=2",
        "--dst",
        str(tuned),
    ]
    assert main(words) == 0 and tuned.is_file()


def test_a_training_run_takes_weights_and_adapters_by_name(hub):
    from pusa_jax.cli.run_flags import parse
    from pusa_jax.training.startup import open_weights

    run, _ = parse(["--config=debug", f"--config.model.weights={NAME}"])
    weights = open_weights(run)
    assert weights is not None and weights.path.name == FIRST


def test_help_costs_no_library_of_the_hub_and_variables_are_honoured(hub, tmp_path):
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    program = (
        "import sys; from pusa_jax.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        f"sys.exit(main(['info', '{NAME}/{LORA}']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"pusa-jax: {PINNED}, ")
    assert "Bearer hf_secret" in hub.tokens
    cached = tmp_path / f"home/hub/models--tiny-world--tiny/snapshots/{FIRST}/{LORA}"
    assert cached.is_file()
