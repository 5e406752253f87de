"""Every command on a tiny Wan2.2-T2V-A14B, in both published layouts and converted."""

import json
import shutil

import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import write_lora
from pusa_jax.convert.wan.foreign import WAN22
from pusa_jax.media import video
from pusa_jax.models.lora import LoRA, LowRank, Target
from pusa_jax.testing.published import DIT, write_published_folder, write_two_experts

pytestmark = pytest.mark.long

SIZE = ["--height", "32", "--width", "48", "--num_frames", "17", "--dtype", "float32"]
FEW = [*SIZE, "--num_inference_steps", "4", "--cfg_scale", "1", "--no_compilation_cache"]
LAYOUTS = ("original", "diffusers")


def write_adapter(path, seed, alpha=None, **metadata):
    rng = np.random.default_rng(seed)
    down, up = rng.standard_normal((2, DIT.dim)), rng.standard_normal((DIT.dim, 2))
    module = LowRank(down.astype(np.float32), up.astype(np.float32), alpha)
    lora = LoRA({Target("blocks/self_attn/q", i): module for i in range(DIT.num_layers)})
    write_lora(path, lora, WAN22.lora, dtype="float32", metadata=metadata or None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model in both layouts and converted, LoRA files and some media."""
    folder = tmp_path_factory.mktemp("two_experts")
    for layout in LAYOUTS:
        write_two_experts(folder / layout, layout)
    write_published_folder(folder / "one")
    assert main(["convert", "--src", str(folder / "original"), "--dst", str(folder / "conv")]) == 0
    for i, name in enumerate(("high", "low")):
        write_adapter(folder / f"{name}_noise_pusa.safetensors", i)
        (folder / "4steps").mkdir(exist_ok=True)
        write_adapter(folder / "4steps" / f"{name}_noise_model.safetensors", 2 + i)
    write_adapter(folder / "told.safetensors", 4, expert="low_noise")
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), np.uint8)
    video.write_png(folder / "a.png", frames[0])
    video.write_png(folder / "b.png", frames[1])
    video.write_video(folder / "a.mp4", frames, 16)
    return folder


def call(capsys, *argv):
    """(exit code, stdout, stderr) of a command line."""
    try:
        code = main([str(arg) for arg in argv])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def made(capsys, world, out, *more, task="t2v", model="conv"):
    """The record inside the video that a command line makes."""
    line = [task, "--model", world / model, "--prompt", "a red dog", *FEW, "--output", out]
    code, _, err = call(capsys, *line, *more)
    assert code == 0, err
    return video.read_metadata(out)


def plan(capsys, world, *more, task="t2v", model="original"):
    line = [task, "--model", world / model, "--prompt", "a red dog", *SIZE, "--dry_run", *more]
    code, out, err = call(capsys, *line)
    assert code == 0, err
    return json.loads(out), err


@pytest.mark.parametrize("model", [*LAYOUTS, "conv"])
def test_info_names_both_experts(capsys, world, model):
    code, out, _ = call(capsys, "info", world / model)
    assert code == 0
    assert f"folder {world / model}, wan2.2" in out
    assert "  dit: " in out and "  dit_low: " in out
    assert "below noise level 0.875 the expert for low noise takes over" in out


def test_export_merges_into_each_expert_its_own(capsys, world, tmp_path):
    """From each layout to each is a test of `convert/folders`."""
    model, layout = "conv", "diffusers"
    line = ["export", "--src", world / model, "--dst", tmp_path / "out", "--layout", layout]
    high = world / "high_noise_pusa.safetensors"
    code, out, err = call(capsys, *line, "--high_lora_path", high)
    assert code == 0, err
    assert len([row for row in out.splitlines() if row.endswith("config.json")]) >= 2
    changed = {
        name: {
            path
            for path, leaf in ModelFolder(tmp_path / "out").load(name)[1].items()
            if np.asarray(leaf).tobytes()
            != np.asarray(ModelFolder(world / model).load(name)[1][path]).tobytes()
        }
        for name in ("dit", "dit_low")
    }
    assert changed == {"dit": {"blocks/self_attn/q/kernel"}, "dit_low": set()}


@pytest.fixture(scope="module")
def plain(world):
    """The record of a clip made without further flags from the converted folder."""
    out = world / "plain.mp4"
    line = ["t2v", "--model", world / "conv", "--prompt", "a red dog", *FEW, "--output", out]
    assert main([str(arg) for arg in line]) == 0
    return video.read_metadata(out)


def test_all_forms_of_a_model_make_the_same_clip(capsys, world, plain, tmp_path):
    """That the original layout holds the same weights is a test of `convert/folders`."""
    other = made(capsys, world, tmp_path / "out.mp4", model="diffusers")
    assert other["latents_sha256"] == plain["latents_sha256"]


def test_a_lora_of_either_expert_changes_the_clip_and_rerun_repeats_it(
    capsys, world, plain, tmp_path
):
    high, low = (world / f"{name}_noise_pusa.safetensors" for name in ("high", "low"))
    flags = {
        "low": ["--low_lora_path", low],
        "both": ["--high_lora_path", high, "--low_lora_path", low],
    }
    records = {
        name: made(capsys, world, tmp_path / f"{name}.mp4", *more) for name, more in flags.items()
    }
    assert len({record["latents_sha256"] for record in (plain, *records.values())}) == 3
    job = records["both"]["job"]
    assert (job["lora"], job["low_lora"]) == ([[str(high), 1.5]], [[str(low), 1.4]])
    assert {str(high), str(low)} <= job["sha256"].keys()
    code, out, _ = call(capsys, "rerun", tmp_path / "both.mp4", "--no_compilation_cache")
    assert code == 0 and "the same to the last bit" in out


TASKS = {
    "i2v": (["--image_paths", "a.png"], 1),
    "start-end": (["--image_paths", "a.png", "b.png"], 2),
    "interpolate": (["--image_paths", "a.png", "b.png", "a.png"], 3),
    "complete": (["--video_path", "a.mp4"], 2),
    "extend": (["--video_path", "a.mp4"], 4),
    "transition": (["--video_path", "a.mp4", "a.mp4", "--cond_position", "0,4"], 2),
    "loop": (["--image_paths", "a.png"], 2),
}
"""Task -> its input, and how many latent frames are given."""


def given(world, task):
    return [world / arg if arg[1:] in (".png", ".mp4") else arg for arg in TASKS[task][0]]


@pytest.mark.parametrize("preset", ["pusa", "official"])
@pytest.mark.parametrize("task", TASKS)
def test_conditioned_tasks_have_defaults_that_can_be_sampled(capsys, world, task, preset):
    """The base model's solver looks back along one level: its default keeps frames exactly."""
    found, err = plan(capsys, world, *given(world, task), "--preset", preset, task=task)
    assert err == "" and len(found["given"]) == TASKS[task][1]
    assert found["solver"] == {"pusa": "euler", "official": "unipc"}[preset]
    is_exact = set(found["given"].values()) == {0.0}
    assert is_exact == (preset == "official" or task == "transition")


def test_the_official_preset_takes_as_many_multipliers_as_there_are_places(capsys, world):
    flags = ["--preset", "official", "--cond_position", "0,2,4"]
    found, _ = plan(capsys, world, *given(world, "complete"), *flags, task="complete")
    assert found["given"] == {"0": 0.0, "2": 0.0, "4": 0.0}


def test_the_official_solver_samples_with_a_given_frame(capsys, world, plain, tmp_path):
    flags = ["--preset", "official", "--num_inference_steps", "4"]
    out = tmp_path / "out.mp4"
    record = made(capsys, world, out, *given(world, "i2v"), *flags, task="i2v")
    assert (record["job"]["multipliers"], record["job"]["settings"]["solver"]) == ([0.0], "unipc")
    assert record["latents_sha256"] != plain["latents_sha256"]


def test_an_extension_has_the_multipliers_published_for_this_model(capsys, world):
    clip = ["--video_path", world / "a.mp4"]
    mine, _ = plan(capsys, world, *clip, task="extend")
    assert mine["given"] == {"0": 0.2, "1": 0.4, "2": 0.4, "3": 0.4}
    other, _ = plan(capsys, world, *clip, task="extend", model="one")
    assert other["given"] == {"0": 0.0, "1": 0.3, "2": 0.4, "3": 0.5}
    fewer, _ = plan(capsys, world, *clip, "--cond_position", "0,1", task="extend")
    assert fewer["given"] == {"0": 0.0, "1": 0.0}
    own, _ = plan(capsys, world, *clip, "--noise_multipliers", "0,0,0,.1", task="extend")
    assert own["given"] == {"0": 0.0, "1": 0.0, "2": 0.0, "3": 0.1}


@pytest.mark.parametrize(("steps", "high"), [(4, 2), (5, 3), (8, 4), (20, 9), (30, 13), (50, 21)])
def test_a_dry_run_says_which_steps_each_expert_takes(capsys, world, steps, high):
    """The table of pusa-v1.md, 3.7."""
    found, err = plan(capsys, world, "--num_inference_steps", steps, "--low_cfg_scale", "2")
    assert err == ""
    assert found["boundary"] == 0.875
    assert found["experts"] == {
        "dit": {"steps": high, "guidance": [3.0]},
        "dit_low": {"steps": steps - high, "guidance": [2.0]},
    }
    assert found["experts_on_devices"] == "all"


def test_the_boundary_is_the_folders_unless_it_is_given(capsys, world, tmp_path):
    write_two_experts(tmp_path / "model", "diffusers", boundary=0.95)
    found, _ = plan(capsys, world, "--num_inference_steps", 10, model=tmp_path / "model")
    assert (found["boundary"], found["experts"]["dit"]["steps"]) == (0.95, 3)
    found, _ = plan(capsys, world, "--num_inference_steps", 10, "--switch_DiT_boundary", 1)
    assert (found["boundary"], found["experts"]["dit"]["steps"]) == (1.0, 1)


def test_experts_may_take_turns_on_the_devices(capsys, world, plain, tmp_path):
    found, _ = plan(capsys, world, "--resident", "one")
    assert found["experts_on_devices"] == "one, the other waits in the host's memory"
    swapped = made(capsys, world, tmp_path / "swap.mp4", "--resident", "one")
    assert swapped["job"]["resident"] == "one"
    assert swapped["latents_sha256"] == plain["latents_sha256"]


def test_boundary_and_guidance_reach_the_clip(capsys, world, plain, tmp_path):
    flags = ["--cfg_scale", "2", "--low_cfg_scale", "1", "--switch_DiT_boundary", "0.5"]
    record = made(capsys, world, tmp_path / "out.mp4", *flags)
    assert record["latents_sha256"] != plain["latents_sha256"]


def test_four_steps_with_a_distillation(capsys, world, plain, tmp_path):
    flags = ["--fast", "--lightx2v", world / "4steps"]
    found, err = plan(capsys, world, *flags)
    assert err == "" and (found["steps"], found["passes_per_step"]) == (4, 1)
    files = [str(world / "4steps" / f"{n}_noise_model.safetensors") for n in ("high", "low")]
    assert found["lightx2v"] == files
    record = made(capsys, world, tmp_path / "fast.mp4", *flags)
    assert record["job"]["lightx2v"] == files
    assert record["latents_sha256"] != plain["latents_sha256"]
    _, err = plan(capsys, world, "--lightx2v", world / "4steps")
    assert err.count("\n") == 1
    assert "careful: high_noise_model.safetensors was distilled for 4 steps at guidance 1" in err


def test_frames_at_another_rate_are_said(capsys, world):
    _, err = plan(capsys, world, "--fps", "24", "--num_frames", "81")
    assert err == (
        "pusa-jax: careful: wan2.2 makes 16 frames a second: at 24 all will move 1.5 times as "
        "fast.\n"
    )


REFUSED = {
    "solver with noisy frames": (
        ["--solver", "unipc", "--image_paths", "a.png"],
        "use the Euler solver, or multipliers of 0",
    ),
    "high for low": (
        ["--low_lora_path", "high_noise_pusa.safetensors"],
        "looks like a LoRA of the high-noise expert by its name, but is given for the low-noise",
    ),
    "low for high by metadata": (
        ["--high_lora_path", "told.safetensors"],
        "looks like a LoRA of the low-noise expert by its metadata, but is given for the high-noi",
    ),
    "exchanged distillation": (
        ["--lightx2v", "4steps/low_noise_model.safetensors", "4steps/high_noise_model.safetensors"],
        "exchange them",
    ),
    "boundary": (["--switch_DiT_boundary", "-0.1"], "must be 0 to 1, got -0.1"),
    "one list for two": (
        ["--lora_path", "told.safetensors"],
        "give their LoRA files with --high_lora_path and --low_lora_path",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_in_one_line(capsys, world, tmp_path, case):
    flags, words = REFUSED[case]
    flags = [world / flag if flag.endswith((".safetensors", ".png")) else flag for flag in flags]
    out, task = tmp_path / "out.mp4", "i2v" if "--image_paths" in flags else "t2v"
    line = [task, "--model", world / "original", "--prompt", "", *FEW, "--output", out, *flags]
    code, stdout, err = call(capsys, *line)
    assert (code, stdout) == (2, "") and err.count("\n") == 1
    assert words in err and not out.exists()


@pytest.mark.parametrize(("flag", "value"), [("low_cfg_scale", 2), ("switch_DiT_boundary", 0.9)])
def test_settings_of_two_experts_are_refused_for_one(capsys, world, tmp_path, flag, value):
    out = tmp_path / "out.mp4"
    line = ["t2v", "--model", world / "one", "--prompt", "", *FEW, "--output", out]
    code, _, err = call(capsys, *line, f"--{flag}", value)
    assert code == 2 and err.count("\n") == 1 and not out.exists()
    assert f"{value} is for a model with two experts, wan2.1 has one denoiser" in err


@pytest.mark.parametrize("command", ["t2v", "convert", "export", "info"])
def test_a_missing_expert_is_said_by_every_command(capsys, world, tmp_path, command):
    half = shutil.copytree(world / "original", tmp_path / "half")
    shutil.rmtree(half / "low_noise_model")
    out = tmp_path / "out.mp4"
    rest = {
        "t2v": ["--model", half, "--prompt", "", *FEW, "--output", out],
        "info": [half],
    }.get(command, ["--src", half, "--dst", out])
    code, stdout, err = call(capsys, command, *rest)
    assert (code, stdout) == (2, "") and err.count("\n") == 1 and not out.exists()
    assert "lacks an expert of wan2.2, the dit_low: expected low_noise_model or tr" in err


def test_a_lora_is_extracted_for_one_expert(capsys, world, tmp_path):
    low = world / "low_noise_pusa.safetensors"
    line = ["export", "--src", world / "original", "--dst", tmp_path / "tuned"]
    assert call(capsys, *line, "--low_lora_path", low)[0] == 0
    line = ["extract-lora", "--tuned", tmp_path / "tuned", "--base", world / "conv", "--rank", 2]
    dst = tmp_path / "low_noise.safetensors"
    code, _, err = call(capsys, *line, "--dst", dst)
    assert code == 2 and "two experts each: say for which the LoRA is to be" in err
    code, out, err = call(capsys, *line, "--dst", dst, "--expert", "low")
    assert code == 0, err
    assert f"{DIT.num_layers} layers at rank 2 hold 100.00%" in out
    code, _, err = call(capsys, *line, "--dst", tmp_path / "x.safetensors", "--expert", "high")
    assert code == 2 and "do not differ" in err
