"""The command line: what it refuses, that it says so in one line and then writes nothing."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pusa_jax.cli.main import main
from pusa_jax.inference.jobs import TASKS
from pusa_jax.media import video
from pusa_jax.testing.published import write_published_folder

SIZE = ["--height", "32", "--width", "48", "--num_frames", "9"]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny published model and some media."""
    folder = tmp_path_factory.mktemp("world")
    write_published_folder(folder / "model")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, 40, 64, 3), np.uint8)
    video.write_png(folder / "image.png", frames[0])
    video.write_png(folder / "other.png", frames[1])
    video.write_video(folder / "clip.mp4", frames, 16)
    video.write_video(folder / "short.mp4", frames[:4], 16)
    (folder / "corrupt.mp4").write_bytes(b"not a video at all")
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (folder / "empty").mkdir()
    return folder


def call(capsys, *argv):
    """(exit code, stdout, stderr) of a command line."""
    try:
        code = main([str(arg) for arg in argv])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def task(world, name, *more):
    return [name, "--model", world / "model", "--prompt", "a red dog", *SIZE, *more]


REFUSED = {
    "frame count": (
        ["i2v", "image.png"],
        ["--num_frames", "10"],
        "4k+1, got 10; nearest are 9 and 13",
    ),
    "height": (["i2v", "image.png"], ["--height", "40"], "height must be divisible by 16, got 40"),
    "width": (["i2v", "image.png"], ["--width", "7"], "width must be divisible by 16, got 7"),
    "steps": (["i2v", "image.png"], ["--num_inference_steps", "0"], "at least 1, got 0"),
    "shift": (["i2v", "image.png"], ["--shift", "0"], "shift must be a positive number, got 0"),
    "position out of range": (["i2v", "image.png"], ["--cond_position", "3"], "use 0 to 2"),
    "position twice": (
        ["start-end", "image.png", "other.png"],
        ["--cond_position", "1,1"],
        "position 1 is given twice",
    ),
    "multiplier": (["i2v", "image.png"], ["--noise_multipliers", "1.5"], "1.5 is outside [0, 1]"),
    "multiplier count": (["i2v", "image.png"], ["--noise_multipliers", "0.1,0.2"], "must agree"),
    "not numbers": (
        ["i2v", "image.png"],
        ["--noise_multipliers", "0.1;0.2"],
        "numbers with commas",
    ),
    "not whole": (["i2v", "image.png"], ["--cond_position", "0.5"], "whole numbers with commas"),
    "image missing": (["i2v", "absent.png"], [], "absent.png"),
    "image corrupt": (["i2v", "corrupt.png"], [], "corrupt.png"),
    "image a folder": (["i2v", "empty"], [], "empty"),
    "image count": (["start-end", "image.png"], [], "takes two images, got 1"),
    "video missing": (["complete", "absent.mp4"], [], "absent.mp4"),
    "video corrupt": (["complete", "corrupt.mp4"], [], "corrupt.mp4"),
    "video short": (["complete", "short.mp4"], [], "has 4 frames, 9 are needed"),
    "video count": (["transition", "clip.mp4"], [], "takes two videos, got 1"),
    "position negative": (
        ["transition", "clip.mp4", "clip.mp4"],
        ["--cond_position", "-10,2"],
        "position -10 is outside the clip",
    ),
    "no room": (["transition", "clip.mp4", "clip.mp4"], [], "have no room in a clip of 3"),
    "no end": (["loop", "image.png"], ["--num_frames", "1"], "have no room in a clip of 1"),
    "result too short": (["extend", "clip.mp4"], [], "position 3 is outside the clip"),
    "nothing free": (
        ["extend", "clip.mp4"],
        ["--cond_position", "0,1,2", "--noise_multipliers", "0,0,0"],
        "nothing is left to sample",
    ),
    "video a picture": (["complete", "image.png"], [], "image.png is a picture"),
    "guidance": (["i2v", "image.png"], ["--cfg_scale", "-inf"], "must be a number, got -inf"),
    "large seed": (["i2v", "image.png"], ["--seed", str(2**64)], f"got {2**64}"),
    "prompt": (["i2v", "image.png"], ["--prompt", "a\udcff"], "the prompt must be UTF-8"),
    "seed": (["i2v", "image.png"], ["--seed", "-2"], f"seed must be 0 to {2**64 - 1}, got -2"),
    "fps": (["i2v", "image.png"], ["--fps", "0"], "fps must be 1 to 240, got 0"),
    "lora missing": (["i2v", "image.png"], ["--lora_path", "absent.safetensors"], "absent"),
    "lora count": (
        ["i2v", "image.png"],
        ["--lora_alpha", "1.0"],
        "one --lora_alpha per --lora_path",
    ),
    "lora strength": (
        ["i2v", "image.png"],
        ["--lora_path", "absent.safetensors", "--lora_alpha", "nan"],
        "must be a number, got nan",
    ),
    "model missing": (["i2v", "image.png"], ["--model", "absent"], "absent"),
    "model empty": (["i2v", "image.png"], ["--model", "empty"], "empty"),
    "unknown flag": (["i2v", "image.png"], ["--colour", "red"], "--colour"),
    "output": (["i2v", "image.png"], ["--output", "image.png/out.mp4"], "image.png"),
    "output name": (["i2v", "image.png"], ["--output", f"{'a' * 300}.mp4"], "is too long"),
    "output ending": (["i2v", "image.png"], ["--output", "out.avi"], ".mp4"),
    "mesh": (
        ["i2v", "image.png"],
        ["--mesh", "data=3"],
        "needs 3 devices, there are 8; use data=8",
    ),
    "mesh axis": (["i2v", "image.png"], ["--mesh", "rows=8"], "unknown mesh axis 'rows'"),
    "mesh and heads": (["i2v", "image.png"], ["--mesh", "tensor=8"], "does not divide the 4 heads"),
}


def command_line(world, words, more):
    name, *files = words
    flag = "--video_path" if name in ("extend", "complete", "transition") else "--image_paths"
    more = [world / m if "absent" in m or m == "empty" or "image.png/" in m else m for m in more]
    output = [] if "--output" in more else ["--output", world / "out.mp4"]
    return task(world, name, flag, *(world / f for f in files), *output, *more)


@pytest.mark.parametrize("words, more, message", REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_one_line_and_writes_nothing(world, capsys, words, more, message):
    before = sorted(p.name for p in world.rglob("*"))
    code, out, err = call(capsys, *command_line(world, words, more))
    assert code == 2 and not out
    assert message in err and err.count("\n") == 1 and "Traceback" not in err
    assert sorted(p.name for p in world.rglob("*")) == before


RIGHT = {
    "t2v": [],
    "i2v": ["--image_paths", "image.png"],
    "start-end": ["--image_paths", "image.png", "other.png"],
    "interpolate": ["--image_paths", "image.png", "other.png", "image.png"],
    "complete": ["--video_path", "clip.mp4"],
    "extend": ["--video_path", "clip.mp4", "--cond_position", "0,1"],
    "transition": ["--video_path", "clip.mp4", "clip.mp4", "--cond_position", "0,2"],
    "loop": ["--image_paths", "image.png"],
}
"""Tasks with inputs that are well, as `test_what_the_generated_lines_start_from_is_right` makes
sure."""

NO_NUMBER = st.sampled_from(["", "x", "1e", "0x10", "1,5", "None", "--", "nan", "inf", "-inf"])
NUMBERS = {
    "num_frames": NO_NUMBER | st.integers(-99, 399).filter(lambda n: n < 1 or n % 4 != 1),
    "height": NO_NUMBER | st.integers(-99, 999).filter(lambda n: n < 16 or n % 16),
    "width": NO_NUMBER | st.integers(-99, 999).filter(lambda n: n < 16 or n % 16),
    "num_inference_steps": NO_NUMBER | st.integers(-99, 0),
    "cfg_scale": NO_NUMBER,
    "shift": NO_NUMBER | st.floats(-99, 0),
    "seed": NO_NUMBER | st.integers(-99, -2) | st.integers(2**64, 2**70),
    "fps": NO_NUMBER | st.integers(-99, 0) | st.integers(241, 10**12),
    "mesh": st.sampled_from(["data=3", "rows=2", "data", "tensor=8", "data=2,data=4", "data=-1"]),
    "lora_alpha": st.floats(-2, 2),
    "lora_path": st.sampled_from(["absent.pt", "image.png", "empty", "corrupt.mp4", "model"]),
    "output": st.sampled_from(["out.avi", "out", "image.png/out.mp4", ".mp4", "empty"]),
    "dtype": st.sampled_from(["fp16", "float64", ""]),
    "model": st.sampled_from(["absent", "empty", "image.png", "clip.mp4"]),
}
"""Flag -> values that are wrong, whatever the task."""

PLACES = st.one_of(
    st.lists(st.integers(-3, 9), min_size=1, max_size=4).filter(
        lambda places: len(set(places)) < len(places) or not 0 <= min(places) <= max(places) <= 2
    ),
    st.lists(st.sampled_from(["a", "0.5", "", "1e3"]), min_size=1, max_size=3),
)
MULTIPLIERS = st.one_of(
    st.lists(st.floats(-2, -0.001) | st.floats(1.001, 9), min_size=1, max_size=4),
    st.lists(st.floats(0, 1), min_size=4, max_size=6),  # no task above is given so many frames
    st.lists(st.sampled_from(["a", "nan", "", "0:1"]), min_size=1, max_size=3),
)
FILES = st.lists(
    st.sampled_from(["corrupt.mp4", "corrupt.png", "empty", "absent"]), min_size=1, max_size=4
)
"""Neither a picture nor a video; a task takes at least one of them, or another number of files."""


def line_of(world, name, *more):
    files = [world / word if "." in word and word[0].isalpha() else word for word in RIGHT[name]]
    return task(world, name, *files, "--output", world / "out.mp4", *more)


@pytest.mark.parametrize("name", TASKS)
def test_what_the_generated_lines_start_from_is_right(world, capsys, name):
    code, _, err = call(capsys, *line_of(world, name, "--dry_run"))
    assert code == 0, err


@st.composite
def wrong_flags(draw, name):
    """One or two flags that are wrong for a task, which stand behind what is right."""
    chosen = {}
    for flag in draw(
        st.lists(st.sampled_from([*NUMBERS, "given", "given"]), min_size=1, max_size=2)
    ):
        if flag != "given":
            chosen[flag] = draw(NUMBERS[flag])
        elif name == "t2v":
            chosen["image_paths"] = draw(FILES)
        else:
            flag = draw(st.sampled_from(["cond_position", "noise_multipliers", "files"]))
            values = {"cond_position": PLACES, "noise_multipliers": MULTIPLIERS, "files": FILES}
            drawn = draw(values[flag])
            if flag == "files":
                chosen[RIGHT[name][0][2:]] = drawn
            else:
                chosen[flag] = ",".join(str(value) for value in drawn)
    return chosen


@settings(
    max_examples=240,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.sampled_from(TASKS).flatmap(lambda name: st.tuples(st.just(name), wrong_flags(name))))
def test_generated_mistakes_are_one_line_and_write_nothing(world, capsys, monkeypatch, case):
    name, wrong = case
    monkeypatch.chdir(world)
    before = sorted(p.name for p in world.rglob("*"))
    flags = [
        word
        for flag, value in wrong.items()
        for word in ([f"--{flag}", *value] if isinstance(value, list) else [f"--{flag}={value}"])
    ]
    code, out, err = call(capsys, *line_of(world, name, *flags))
    assert code == 2 and not out, (name, flags)
    assert err.startswith("pusa-jax") and err.count("\n") == 1 and "Traceback" not in err
    assert sorted(p.name for p in world.rglob("*")) == before


def test_debug_shows_where_an_error_came_from(world):
    line = line_of(world, "i2v", "--height", "40", "--debug")
    with pytest.raises(ValueError, match="divisible by 16"):
        main([str(word) for word in line])


def test_an_empty_prompt_is_a_prompt(world, capsys):
    line = ["t2v", "--model", world / "model", "--prompt", "", *SIZE, "--dry_run"]
    code, out, _ = call(capsys, *line, "--output", world / "out.mp4")
    assert code == 0 and json.loads(out)["latents"] == [1, 3, 4, 6, 16]


def test_dry_run_tells_where_given_frames_go(world, capsys):
    line = task(world, "start-end", "--image-paths", world / "image.png", world / "other.png")
    code, out, _ = call(capsys, *line, "--dry-run", "--output", world / "out.mp4")
    assert code == 0
    plan = json.loads(out)
    assert plan["given"] == {"0": 0.2, "2": 0.5}
    assert plan["mesh"] == {"data": 2, "context": 4, "tensor": 1}


def test_a_video_carries_its_settings_and_can_be_made_again(world, capsys, tmp_path):
    output = tmp_path / "out.mp4"
    line = task(world, "i2v", "--image_paths", world / "image.png", "--output", output)
    short = ["--num_inference_steps", "2", "--dtype", "float32", "--no_tiling", "--seed", "-1"]
    short += ["--no_compilation_cache"]
    assert call(capsys, *line, *short)[0] == 0
    code, out, _ = call(capsys, "info", output)
    record = json.loads(out)
    assert code == 0 and record["job"]["task"] == "i2v" and record["job"]["settings"]["seed"] >= 0
    code, out, _ = call(capsys, "rerun", output, "--no_compilation_cache")
    assert code == 0 and "the same to the last bit" in out
    assert (tmp_path / "out.rerun.mp4").is_file()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_changed_input_is_noticed_before_a_rerun(world, capsys, tmp_path):
    output, image = tmp_path / "out.mp4", tmp_path / "image.png"
    shutil.copy(world / "image.png", image)
    from pusa_jax.inference.jobs import Job

    job = Job(task="i2v", model="m", prompt="", negative_prompt="", inputs=(str(image),))
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    video.write_video(output, frames, 16, {"job": job.as_record(), "latents_sha256": ""})
    shutil.copy(world / "other.png", image)
    code, _, err = call(capsys, "rerun", output, "--no_compilation_cache")
    assert code == 2 and "has changed since" in err


@pytest.mark.parametrize("command", [*TASKS, "convert", "export", "fvd", "info", "rerun", "demo"])
def test_every_command_explains_itself(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0 and out.startswith("usage: pusa-jax")
