"""`pusa-jax batch` with the tiny model: what it makes, keeps, refuses and writes down."""

import json
import shutil

import numpy as np
import pytest

from pusa_jax.batch import run, shares
from pusa_jax.batch.manifest import Manifest
from pusa_jax.cli import batch
from pusa_jax.cli.main import main
from pusa_jax.media import video

SMALL = ["--num_inference_steps", "1", "--num_frames", "5", "--no_compilation_cache", "--quiet"]
JOBS = [
    {"prompt": "a red circle moves right on black", "seed": 1},
    {"id": "b", "prompt": "a blue square moves up on white", "seed": 2},
    {"id": "c", "task": "i2v", "prompt": "a green circle", "image_paths": "a.png", "cfg_scale": 1},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A list, the folder made of it and what was printed."""
    folder = tmp_path_factory.mktemp("batch")
    picture = np.zeros((48, 48, 3), np.uint8)
    _png(folder / "a.png", picture)
    (folder / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in JOBS))
    assert main(command(folder)) == 0
    return folder


def _png(path, picture):
    from PIL import Image

    Image.fromarray(picture).save(path)


def command(folder, *more):
    return ["batch", str(folder / "jobs.jsonl"), "--output", str(folder / "out"), *SMALL, *more]


def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def entries(folder):
    return Manifest(folder / "out" / "manifest.jsonl").entries


def lines(folder):
    return (folder / "out" / "manifest.jsonl").read_text().splitlines()


def test_every_job_is_the_one_of_its_own_command_line(made, tmp_path):
    assert sorted(p.name for p in (made / "out").iterdir()) == [
        "00001.mp4",
        "b.mp4",
        "c.mp4",
        "manifest.jsonl",
    ]
    alone = tmp_path / "alone.mp4"
    words = ["--prompt", JOBS[1]["prompt"], "--seed", "2", "--output", str(alone)]
    assert main(["t2v", *words, *SMALL]) == 0
    told, found = (video.read_metadata(path) for path in (made / "out" / "b.mp4", alone))
    assert told["latents_sha256"] == found["latents_sha256"] == entries(made)["b"]["latents_sha256"]
    assert told["job"] == found["job"]
    assert entries(made)["b"]["output"] == "b.mp4"
    given = video.read_metadata(made / "out" / "c.mp4")["job"]
    assert given["settings"]["guidance_scale"] == 1 and given["inputs"] == [str(made / "a.png")]


def test_what_is_there_is_not_made_again(made, tmp_path, capsys):
    folder = copied(made, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (folder / "out").iterdir()}
    shutil.copy(made / "a.png", folder / "a.png")
    assert main(_elsewhere(made, folder)) == 0
    assert "0 made, 3 were there" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "out").iterdir()}


def _elsewhere(made, folder, *more):
    """The same list, whose inputs lie where they lay, with the folder of the copy."""
    return ["batch", str(made / "jobs.jsonl"), "--output", str(folder / "out"), *SMALL, *more]


def test_what_was_made_just_before_a_kill_is_written_down_and_not_made_again(
    made, tmp_path, capsys
):
    folder = copied(made, tmp_path)
    listed = folder / "out" / "manifest.jsonl"
    listed.write_text("\n".join(lines(folder)[:2]) + "\n")
    assert main(_elsewhere(made, folder)) == 0
    assert "0 made, 3 were there" in capsys.readouterr().out
    assert len(lines(folder)) == 3


def test_a_video_that_is_gone_is_made_again(made, tmp_path, capsys):
    folder = copied(made, tmp_path)
    before = entries(folder)["b"]["latents_sha256"]
    (folder / "out" / "b.mp4").unlink()
    assert main(_elsewhere(made, folder)) == 0
    assert "1 made, 2 were there" in capsys.readouterr().out
    assert video.read_metadata(folder / "out" / "b.mp4")["latents_sha256"] == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--cfg_scale", "7"], "jobs that have changed since"),
        (["--shift", "3"], "00001, b, c"),
    ],
)
def test_another_batch_s_folder_is_left_alone(made, tmp_path, capsys, change, words):
    folder = copied(made, tmp_path)
    assert main(_elsewhere(made, folder, *change)) == 2
    assert words in capsys.readouterr().err and len(lines(folder)) == 3


def test_foreign_files_are_not_replaced(made, tmp_path, capsys):
    out = tmp_path / "new"
    out.mkdir()
    (out / "b.mp4").write_bytes(b"mine")
    line = ["batch", str(made / "jobs.jsonl"), "--output", str(out), *SMALL]
    assert main(line) == 2
    assert "files that this batch did not make: b.mp4" in capsys.readouterr().err
    assert (out / "b.mp4").read_bytes() == b"mine" and [*out.iterdir()] == [out / "b.mp4"]


def test_a_list_with_other_jobs_is_another_batch(made, tmp_path, capsys):
    folder = copied(made, tmp_path)
    (folder / "one.jsonl").write_text(json.dumps(JOBS[0]) + "\n")
    line = ["batch", str(folder / "one.jsonl"), "--output", str(folder / "out"), *SMALL]
    assert main(line) == 2
    assert "is of another batch, whose jobs are not in this list: b, c" in capsys.readouterr().err


@pytest.mark.long
def test_a_job_that_fails_is_written_down_and_the_rest_goes_on(tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    jobs = [
        {"id": "bad", "task": "i2v", "prompt": "a", "image_paths": ["bad.png"]},
        {"id": "good", "prompt": "a red circle moves right on black"},
    ]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    assert main(command(tmp_path)) == 1
    assert "1 made, 1 failed" in capsys.readouterr().out
    found = entries(tmp_path)
    assert "bad.png" in found["bad"]["error"] and "error" not in found["good"]
    _png(tmp_path / "bad.png", np.zeros((48, 48, 3), np.uint8))
    assert main(command(tmp_path)) == 0
    assert "error" not in entries(tmp_path)["bad"]


@pytest.mark.long
def test_what_another_process_leaves_unmade_is_taken_over(made, tmp_path, monkeypatch, capsys):
    """It is waited for, as it may have died."""
    monkeypatch.setattr(run, "PATIENCE", 0.05)
    folder = copied(made, tmp_path)
    (folder / "out" / "b.mp4").unlink()
    claim = shares.claimed(folder / "out", "b")
    assert claim.__enter__()
    looked = []

    def sleep(seconds):
        looked.append(seconds)
        if len(looked) == 2:
            claim.__exit__(None, None, None)

    monkeypatch.setattr(run.time, "sleep", sleep)
    assert main(_elsewhere(made, folder)) == 0
    assert "1 made, 2 were there" in capsys.readouterr().out
    assert looked == [0.05, 0.05] and (folder / "out" / "b.mp4").exists()


def test_what_another_process_makes_meanwhile_is_not_made_again(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run, "PATIENCE", 0.05)
    folder = copied(made, tmp_path)
    whole, path = (folder / "out" / "b.mp4").read_bytes(), folder / "out" / "b.mp4"
    path.unlink()
    claim = shares.claimed(folder / "out", "b")
    assert claim.__enter__()
    monkeypatch.setattr(run.time, "sleep", lambda seconds: path.write_bytes(whole))
    assert main(_elsewhere(made, folder)) == 0
    assert "0 made, 2 were there, 1 made by others" in capsys.readouterr().out
    assert len(lines(folder)) == 3
    claim.__exit__(None, None, None)


@pytest.mark.long
def test_a_clip_that_cannot_be_written_is_a_failed_job(made, tmp_path, monkeypatch, capsys):
    def finish(prepared, output):
        raise OSError(28, "No space left on device", "x.mp4")

    monkeypatch.setattr(run.jobs, "finish", finish)
    line = ["batch", str(made / "jobs.jsonl"), "--output", str(tmp_path / "out"), *SMALL]
    assert main([*line, "--shard", "2/3", "--batch_size", "2"]) == 1
    assert "No space left" in entries(tmp_path)["b"]["error"]
    assert len(lines(tmp_path)) == 1


@pytest.mark.long
def test_a_share_is_made_alone(made, tmp_path, capsys):
    line = ["batch", str(made / "jobs.jsonl"), "--output", str(tmp_path / "out"), *SMALL]
    assert main([*line, "--shard", "2/3"]) == 0
    assert [*entries(tmp_path)] == ["b"]
    assert main([*line, "--shard", "4/3"]) == 2
    assert "written as 1/4" in capsys.readouterr().err


def test_a_dry_run_counts_and_makes_nothing(made, tmp_path, capsys):
    line = ["batch", str(made / "jobs.jsonl"), "--output", str(tmp_path / "out"), *SMALL]
    assert main([*line, "--dry_run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["jobs"], plan["to make"], plan["models"], plan["programs"]) == (3, 3, 1, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"prompt": "a", "promt": "b"}, "line 1: there is no field promt; nearest are prompt"),
        ({"task": "x2v"}, "line 1: task is one of t2v, i2v"),
        ({"prompt": "a", "num_frames": 6}, "line 1: "),
        ({"prompt": "a", "seed": "x"}, "line 1: argument --seed: invalid int value"),
        ({"prompt": "a", "seed": -1}, "line 1: a batch goes on with the same seeds"),
        ({"task": "i2v", "prompt": "a", "image_paths": ["x.png", "y.png"]}, "x.png"),
        ({"prompt": "a", "model": "nowhere"}, "line 1: "),
        ({"prompt": "a", "overlap": 1}, ""),
    ],
)
def test_a_line_that_is_no_job_ends_all_before_anything_is_made(tmp_path, capsys, job, words):
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job) + "\n")
    code = main(command(tmp_path))
    said = capsys.readouterr().err
    assert code != 0 and words in said
    assert not [*(tmp_path / "out").glob("*.mp4")]


def test_an_error_of_any_kind_is_told_with_its_line(tmp_path, monkeypatch, capsys):
    """Some errors cannot be made anew from a message alone."""

    def job_of(args, opened):
        b"\xff".decode()

    monkeypatch.setattr(batch, "job_of", job_of)
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a"}\n')
    assert main(command(tmp_path)) == 2
    assert "line 1: 'utf-8' codec can't decode" in capsys.readouterr().err


def test_all_missing_inputs_are_named_at_once(tmp_path, capsys):
    jobs = [{"task": "i2v", "prompt": "a", "image_paths": [f"{name}.png"]} for name in "xyz"]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    assert main(command(tmp_path)) == 2
    said = capsys.readouterr().err
    assert all(f"{name}.png" in said for name in "xyz") and "3 input files" in said


def test_flags_of_all_lines_give_way_to_those_of_a_line(tmp_path, monkeypatch):
    """A flag that may be repeated is taken as often as it is given."""
    seen = []

    def job_of(args, opened):
        seen.append(args)
        raise ValueError("enough")

    monkeypatch.setattr(batch, "job_of", job_of)
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a", "seed": 2, "mesh": null}\n')
    line = command(tmp_path, "--seed", "1", "--lora_path", "x", "--lora_path", "y", "--shift", "3")
    assert main([*line, "--exact_timesteps", "--overlap", "4", "--image_paths", "p.png"]) == 2
    assert (seen[0].seed, seen[0].lora_path, seen[0].shift) == (2, ["x", "y"], 3.0)
    assert seen[0].exact_timesteps and seen[0].overlap == 4 and seen[0].task == "t2v"
    (tmp_path / "jobs.jsonl").write_text(
        '{"task": "interpolate", "prompt": "a", "image_paths": ["a", "b"], '
        '"cond_position": [0, 4], "noise_multipliers": [0.5, 0.2], "lora_path": "z"}\n'
    )
    assert main(line) == 2
    assert (seen[1].image_paths, seen[1].cond_position) == (["a", "b"], (0, 4))
    assert (seen[1].noise_multipliers, seen[1].lora_path) == ((0.5, 0.2), ["z"])


def test_one_list_is_given(tmp_path, capsys):
    assert main(["batch", "--output", str(tmp_path)]) == 2
    assert "give one list" in capsys.readouterr().err


@pytest.mark.long
def test_clips_of_one_program_are_those_of_programs_of_their_own(made, tmp_path):
    """Sums over more rows may be taken in another order."""
    jobs = [
        {"id": f"{seed}", "prompt": JOBS[seed % 2]["prompt"], "seed": seed} for seed in range(3)
    ]
    path = tmp_path / "jobs.jsonl"
    path.write_text(
        "".join(json.dumps(job | {"output": f"{job['id']}.npz"}) + "\n" for job in jobs)
    )
    for size in ("1", "2"):
        line = ["batch", str(path), "--output", str(tmp_path / size), *SMALL, "--batch_size", size]
        assert main(line) == 0
    for job in jobs:
        one, two = (np.load(tmp_path / size / f"{job['id']}.npz")["latents"] for size in ("1", "2"))
        assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()
