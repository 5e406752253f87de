"""From a command line to a job and from a result to an exit code; nothing is sampled here.

Defaults are a table of `test_published_defaults.py`, mistakes are in `test_cli.py`.
"""

import argparse
import dataclasses
import json
import warnings

import pytest

from pusa_jax.cli import job as job_flags
from pusa_jax.cli import main as cli
from pusa_jax.cli import together
from pusa_jax.cli.job import INPUT_FLAGS, TASK_HELP
from pusa_jax.cli.main import main
from pusa_jax.demo import demo
from pusa_jax.devices import compile_cache, peers, processes
from pusa_jax.diffusion.config import SamplingConfig, TeaCache
from pusa_jax.inference import jobs
from pusa_jax.models.wan.text import WAN_NEGATIVE_PROMPT
from pusa_jax.progress import PusaWarning

FLAGS = {
    ("--model", "m"): {"model": "m"},
    ("--prompt", "q"): {"prompt": "q"},
    ("--negative_prompt", "bad"): {"negative_prompt": "bad"},
    ("--negative-prompt=",): {"negative_prompt": ""},
    ("--cond_position", "0,2"): {"at": (0, 2)},
    ("--noise-multipliers", "0.5,1"): {"multipliers": (0.5, 1.0)},
    ("--fit", "stretch"): {"fit": "stretch"},
    ("--fit", "letterbox"): {"fit": "letterbox"},
    ("--clip_start", "7"): {"clip_start": 7},
    ("--clip_start", "-9"): {"clip_start": -9},
    ("--lora_path", "a", "--lora_alpha", "2"): {"lora": (("a", 2.0),)},
    ("--lora_path", "a", "--lora_alpha", "-.5"): {"lora": (("a", -0.5),)},
    ("--lora_path", "a", "--lora_path", "b", "--lora_alpha", "1", "--lora_alpha", "2"): {
        "lora": (("a", 1.0), ("b", 2.0))
    },
    ("--dtype", "float32"): {"dtype": "float32"},
    ("--fps", "24"): {"fps": 24},
    ("--mesh", "data=2,context=4"): {"mesh": {"data": 2, "context": 4}},
    ("--num_inference_steps", "4"): {"num_steps": 4},
    ("--cfg_scale", "1"): {"guidance_scale": 1.0},
    ("--cfg-scale=-1.5",): {"guidance_scale": -1.5},
    ("--cfg-scale", "0"): {"guidance_scale": 0.0},
    ("--shift", "3"): {"shift": 3.0},
    ("--solver", "unipc"): {"solver": "unipc"},
    ("--solver=dpm++",): {"solver": "dpm++"},
    ("--low_cfg_scale", "2"): {"low_guidance_scale": 2.0},
    ("--switch-DiT-boundary", ".9"): {"boundary": 0.9},
    ("--preset", "official"): {
        "multipliers": (0.0,) * 4,
        "num_steps": 50,
        "guidance_scale": 5.0,
        "solver": "unipc",
        "tiled": False,
        "negative_prompt": WAN_NEGATIVE_PROMPT,
    },
    ("--fast",): {"num_steps": 4, "guidance_scale": 1.0},
    ("--fast", "--num_inference_steps", "6"): {"num_steps": 6, "guidance_scale": 1.0},
    ("--fast", "--preset", "official", "--cfg_scale", "2"): {
        "multipliers": (0.0,) * 4,
        "num_steps": 4,
        "guidance_scale": 2.0,
        "tiled": False,
        "negative_prompt": WAN_NEGATIVE_PROMPT,
    },
    ("--lightx2v", "a"): {"lightx2v": ("a",)},
    ("--ignore-differences",): {"add_differences": False},
    ("--height", "480"): {"height": 480},
    ("--width", "832"): {"width": 832},
    ("--num_frames", "17"): {"num_frames": 17},
    ("--seed", "5"): {"seed": 5},
    ("--exact_timesteps",): {"original_timesteps": False},
    ("--no-tiling",): {"tiled": False},
    ("--original_tiles",): {"tiled": "original"},
    ("--normalised-conditions",): {"original_conditions": False},
}
"""Words on the command line -> what becomes different in the job; settings included."""


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: " ".join(flags))
def test_every_flag_reaches_its_field_and_no_other(seen, flags):
    line = ["extend", "--video_path", "a.mp4", "--model", "n", "--prompt", "p", "--dry_run"]
    assert main(line) == 0
    plain = seen.job
    assert main([*line, *flags]) == 0
    changes = dict(FLAGS[flags])
    inside = {f.name for f in dataclasses.fields(SamplingConfig)} & changes.keys()
    settings = {name: changes.pop(name) for name in inside}
    changed = dataclasses.replace(plain, settings=dataclasses.replace(plain.settings, **settings))
    assert seen.job == dataclasses.replace(changed, **changes)
    assert all(type(place) is int for place in seen.job.at or ())


TWO = {
    ("--high_lora_path", "a", "--low_lora_path", "b"): {
        "lora": (("a", 1.5),),
        "low_lora": (("b", 1.4),),
    },
    ("--high-lora-path", "a", "--high-lora-path", "b", "--high_lora_alpha", "1",
     "--high_lora_alpha=2"): {"lora": (("a", 1.0), ("b", 2.0))},
    ("--resident", "one"): {"resident": "one"},
    ("--low_lora_path", "a", "--low_lora_alpha", "-1"): {"low_lora": (("a", -1.0),)},
    ("--lightx2v", "a", "b"): {"lightx2v": ("a", "b")},
    ("--preset", "official", "--low_cfg_scale", "2"): {
        "num_steps": 40,
        "guidance_scale": 4.0,
        "low_guidance_scale": 2.0,
        "shift": 12.0,
        "solver": "unipc",
        "tiled": False,
        "negative_prompt": WAN_NEGATIVE_PROMPT,
    },
    ("--preset", "official", "--cfg_scale", "2", "--shift", "9", "--solver", "euler"): {
        "num_steps": 40,
        "guidance_scale": 2.0,
        "shift": 9.0,
        "tiled": False,
        "negative_prompt": WAN_NEGATIVE_PROMPT,
    },
}  # fmt: skip
"""The same for a model with two experts."""


@pytest.mark.parametrize("flags", TWO, ids=lambda flags: " ".join(flags))
def test_flags_of_two_experts_reach_their_fields(seen, flags):
    line = ["t2v", "--model", "two", "--prompt", "p", "--dry_run"]
    assert main(line) == 0
    plain, changes = seen.job, dict(TWO[flags])
    assert main([*line, *flags]) == 0
    inside = {f.name for f in dataclasses.fields(SamplingConfig)} & changes.keys()
    settings = {name: changes.pop(name) for name in inside}
    changed = dataclasses.replace(plain, settings=dataclasses.replace(plain.settings, **settings))
    assert seen.job == dataclasses.replace(changed, **changes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--model", "two", "--lora_path", "a"], "give their LoRA files with --high_lora_path and"),
        (["--model", "m", "--high_lora_path", "a"], "--high_lora_path: the model has one denoiser"),
        (["--model", "m", "--low_lora_path", "a"], "--low_lora_path: the model has one denoiser"),
        (
            ["--model", "two", "--low_lora_path", "a", "--high_lora_alpha", "1"],
            "one --high_lora_alpha per --high_lora_path is needed, got 1 for 0 files",
        ),
        (["--model", "two", "--lightx2v", "a"], "wan2.2 needs 2 LightX2V files, one for each"),
        (["--model", "m", "--lightx2v", "a", "b"], "wan2.1 needs 1 LightX2V file, one for each"),
        (["--model", "two", "--switch_DiT_boundary", "1.5"], "must be 0 to 1, got 1.5"),
    ],
)
def test_flags_of_another_model_are_refused_in_one_line(seen, capsys, line, words):
    assert main(["t2v", "--prompt", "", *line]) == cli.USAGE_ERROR
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not seen.prepared


def test_what_looks_like_a_mistake_is_said_once_and_not_refused(seen, monkeypatch, capsys):
    seen.cautions = ("this is odd.", "that as well.")
    line = ["t2v", "--model", "m", "--prompt", "", "--dry_run"]
    assert main(line) == 0
    said = "pusa-jax: careful: this is odd.\npusa-jax: careful: that as well.\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(together, "is_first", lambda: False)
    assert main(line) == 0
    assert capsys.readouterr().err == ""


def test_four_steps_without_a_lora_for_them_are_said(seen, capsys):
    line = ["t2v", "--model", "m", "--prompt", "", "--dry_run", "--fast"]
    assert main(line) == 0
    assert "careful: --fast is for a LoRA for 4 steps, and none is given" in capsys.readouterr().err
    for flag, path in (("--lightx2v", "a"), ("--lora_path", "Wan21_lightx2v_rank64.safetensors")):
        assert main([*line, flag, path]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", TASK_HELP)
def test_every_task_takes_the_files_of_its_own_kind(seen, capsys, task):
    given = [] if task == "t2v" else [INPUT_FLAGS[task][0], "b", "a"]
    assert main([task, "--prompt", "", *given, "--dry-run"]) == 0
    assert (seen.job.task, seen.job.inputs) == (task, ("b", "a") if given else ())
    assert json.loads(capsys.readouterr().out) == {"task": task}
    with pytest.raises(SystemExit) as stop:
        main([task, "--prompt", "", *(["--image_paths", "x"] if task == "t2v" else [])])
    assert stop.value.code == 2


def test_tasks_that_read_videos_have_a_flag_of_that_name():
    for_video = {task for task, (flag, _) in INPUT_FLAGS.items() if flag == "--video_path"}
    assert for_video == {"complete", "extend", "transition"}


def test_only_an_extension_has_a_start(seen, capsys):
    with pytest.raises(SystemExit):
        main(["complete", "--video_path", "a", "--prompt", "", "--clip_start", "3", "--dry_run"])
    assert "there is no flag --clip_start" in capsys.readouterr().err


def test_the_tiny_model_s_own_lora_gives_way_to_one_that_is_named(seen):
    main(["t2v", "--prompt", "", "--dry_run", "--lora_path", "a"])
    assert seen.job.lora == (("a", 1.4),)
    main(["t2v", "--prompt", "", "--dry_run", "--model", "m"])
    assert seen.job.lora == ()


def test_a_drawn_seed_is_the_first_process_s_and_is_told(seen, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(processes, "agree_on", lambda number: drawn.append(number) or 77)
    line = ["t2v", "--prompt", "", "--seed", "-1", "--no_compilation_cache"]
    assert main(line) == 0 and main(line) == 0
    assert seen.job.settings.seed == 77 and drawn[0] != drawn[1]
    assert ", seed 77;" in capsys.readouterr().out


def test_processes_are_joined_before_a_job_is_made(seen, monkeypatch, tmp_path):
    order = []

    def join(on_end, *, saves_on_sigterm):
        assert not saves_on_sigterm
        order.append(("joined", len(seen.prepared)))

    monkeypatch.setattr(processes, "is_one_of_several", lambda environment: True)
    monkeypatch.setattr(peers, "join", join)
    monkeypatch.setattr(together, "_joined", False)
    monkeypatch.setattr(together, "agree_on_job", lambda *job: order.append("agreed"))
    main(["t2v", "--prompt", "", "--dry_run"])
    main(["rerun", str(tmp_path / "absent.mp4")])
    assert order == [("joined", 0), "agreed", ("joined", 1)]


def test_a_dry_run_prints_once_and_makes_nothing(seen, monkeypatch, capsys):
    assert main(["t2v", "--prompt", "", "--dry_run"]) == 0
    assert capsys.readouterr().out.count("task") == 1 and not seen.progress
    monkeypatch.setattr(processes, "is_first", lambda: False)
    assert main(["t2v", "--prompt", "", "--dry_run"]) == 0
    assert capsys.readouterr().out == ""


def test_the_result_is_told_in_one_line(seen, capsys):
    line = ["t2v", "--prompt", "", "--seed", "3", "--output", "x/y.mp4", "--no-compilation-cache"]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert out == "x/y.mp4: 5 frames, seed 3; text 1.0 s, denoise 2.0 s\n"
    assert seen.prepared[-1][1] == "x/y.mp4" and seen.progress[0].__class__.__name__ == "Console"


def test_where_passes_are_saved_their_number_is_told(seen, capsys):
    line = ["t2v", "--prompt", "", "--no-compilation-cache", "--rows", "0,1,2,4,8,16,30,49"]
    assert main([*line, "--guidance_until", "0.5", "--solver", "ab2"]) == 0
    assert ", passes: 20 (full table: 100); " in capsys.readouterr().out
    settings = seen.job.settings
    assert (settings.num_steps, settings.rows) == (8, (0, 1, 2, 4, 8, 16, 30, 49))
    assert (settings.guidance_until, settings.solver) == (0.5, "ab2")
    assert main([*line[:-2], "--rows", "front", "--num_inference_steps", "24"]) == 0
    assert (seen.job.settings.rows, seen.job.settings.num_steps) == ("front", 24)


def test_a_cache_needs_its_threshold(seen, capsys):
    line = ["t2v", "--prompt", "", "--model", "m", "--dry_run"]
    given = ["--teacache", "0.2", "--teacache_polynomial", "14B", "--original_teacache"]
    assert main([*line, *given]) == 0
    cache = TeaCache(threshold=0.2, polynomial="14B", original=True)
    assert seen.job.settings.teacache == cache
    assert main([*line, *given[2:]]) != 0
    assert "there is no cache without a threshold" in capsys.readouterr().err


def test_rows_and_another_number_of_steps_are_refused(seen, capsys):
    line = ["t2v", "--prompt", "", "--rows", "0,1,2", "--num_inference_steps", "4"]
    assert main(line) != 0
    assert "3 rows make a run of 3 steps, not of 4" in capsys.readouterr().err


def test_another_process_keeps_quiet(seen, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(together, "is_first", lambda: False)
    assert main(["t2v", "--prompt", ""]) == 0
    assert capsys.readouterr() == ("", "")
    seen.progress[0]("load", 0, 1)
    assert capsys.readouterr() == ("", "") and len(seen.kept) == 1


def test_programs_that_cannot_be_kept_stop_nothing(seen, monkeypatch, capsys):
    def refuse(folder, on_damage):
        raise PermissionError("no room")

    monkeypatch.setattr(compile_cache, "keep_compiled", refuse)
    assert main(["t2v", "--prompt", ""]) == 0
    assert "compiled programs are not kept: no room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "pusa-jax: interrupted.\n"),
        (ValueError("two\n  lines"), 2, "pusa-jax: error: two lines\n"),
        (ImportError("no flax"), 2, "pusa-jax: error: no flax\n"),
        (MemoryError(), 2, "pusa-jax: error: MemoryError\n"),
        (OSError("full"), 2, "pusa-jax: error: full\n"),
        (KeyError("a\nb"), 2, "pusa-jax: KeyError: 'a\\nb' (--debug shows where)\n"),
        (RuntimeError("a\nb"), 2, "pusa-jax: RuntimeError: a b (--debug shows where)\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_is_one_line_and_a_code(monkeypatch, capsys, error, code, line):
    def fail(output, on_progress):
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert main(["demo"]) == code
    assert capsys.readouterr().err == line
    if code == 2:
        with pytest.raises(type(error)):
            main(["demo", "--debug"])


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_s_code_is_the_exit_code(monkeypatch, code):
    monkeypatch.setattr(demo, "run_demo", lambda output, on_progress: code)
    assert main(["demo"]) == code


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--num-frames", "9"], ["--num_frames", "9"]),
        (["--a-b=c-d=e-f"], ["--a_b=c-d=e-f"]),
        (["--seed", "-1"], ["--seed=-1"]),
        (["--shift", "-.5"], ["--shift=-.5"]),
        (["--cfg-scale", "-inf"], ["--cfg_scale=-inf"]),
        (["--cond_position", "-1,2"], ["--cond_position=-1,2"]),
        (["a-b.mp4", "-1"], ["a-b.mp4", "-1"]),
        (["-1", "--x"], ["-1", "--x"]),
        (["--seed=3", "-1"], ["--seed=3", "-1"]),
        (["-h"], ["-h"]),
    ],
)
def test_words_are_brought_to_one_spelling(words, expected):
    assert cli._normalised(words) == expected


def test_the_flags_of_a_training_run_are_handed_on(monkeypatch):
    from pusa_jax.cli import train

    seen = []
    monkeypatch.setattr(train, "train_main", lambda flags, _: seen.append(("train", flags)) or 0)
    monkeypatch.setattr(train, "plan_main", lambda flags: seen.append(("plan", flags)) or 0)
    assert main(["train", "--config=x", "--debug", "--config.steps=3"]) == 0
    assert main(["plan", "train", "--config=x", "--debug"]) == 0
    assert seen == [("train", ["--config=x", "--config.steps=3"]), ("plan", ["--config=x"])]


@pytest.mark.parametrize("command", [["train"], ["plan", "train"]])
@pytest.mark.parametrize("flags", [[], ["--debug"]])
def test_debug_shows_errors_of_training_too(monkeypatch, command, flags):
    from pusa_jax.cli import train

    def fail(flags, console=None):
        raise ValueError("no")

    monkeypatch.setattr(train, "train_main", fail)
    monkeypatch.setattr(train, "plan_main", fail)
    if not flags:
        assert main(command) == 2
    else:
        with pytest.raises(ValueError, match="no"):
            main([*command, *flags])


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [(job_flags._integers, "0,20", (0, 20)), (job_flags._numbers, "0.2,1", (0.2, 1.0))],
)
def test_lists_are_read_in_order(read, text, value):
    assert read(text) == value
    with pytest.raises(argparse.ArgumentTypeError, match="with commas between, as in"):
        read(text.replace(",", ";"))


@pytest.mark.parametrize(
    ("text", "rate"),
    [("24", 24), ("23.976", 23.976), ("24000/1001", 24000 / 1001), ("29.97", 29.97)],
)
def test_a_frame_rate_may_be_a_fraction(seen, text, rate):
    assert main(["t2v", "--prompt", "", "--fps", text]) == 0
    assert seen.job.settings.fps == rate and type(seen.job.settings.fps) is type(rate)


@pytest.mark.parametrize("text", ["1e400", "1e9999999", "24/0", "24/1/1", "nan", ""])
def test_a_frame_rate_that_is_none_is_told_at_once(seen, capsys, text):
    with pytest.raises(SystemExit):
        main(["t2v", "--prompt", "", f"--fps={text}"])
    assert "as in 24, 23.976 or 24000/1001" in capsys.readouterr().err and not seen.prepared


def test_only_warnings_of_the_package_are_shown_and_the_hook_is_put_back(seen, capsys, monkeypatch):
    others = []

    def warn(*given, **named):
        warnings.warn("yours\nand mine", PusaWarning, stacklevel=1)
        warnings.warn("of a library", UserWarning, stacklevel=1)
        raise ValueError("x.")

    monkeypatch.setattr(jobs, "prepare", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = before = lambda *given: others.append(str(given[0]))
        assert main(["t2v", "--prompt", ""]) == 2
        assert warnings.showwarning is before and not others
    assert capsys.readouterr().err == "pusa-jax: yours and mine\npusa-jax: error: x.\n"
