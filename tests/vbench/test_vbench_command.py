"""`pusa-jax vbench` checks all before it makes anything, and says what is wrong in a line."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import made_suite
import pytest
from made_suite import images, written

from pusa_jax.cli.main import main
from pusa_jax.media.outputs import read_record
from pusa_jax.vbench import suite
from pusa_jax.vbench.published import PUBLISHED
from pusa_jax.vbench.score import DIMENSIONS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vbench")
    written(folder)
    images(folder)
    return folder


def words(world, output, *more):
    return [
        "vbench",
        *("--info", str(world / "vbench2_i2v_full_info.json")),
        *("--images", str(world / "data/crop/16-9")),
        *("--output", str(output), "--height=32", "--width=64", *more),
    ]


@pytest.fixture
def short_list(tmp_path, monkeypatch):
    """A list of one prompt of each kind."""
    monkeypatch.setattr(suite, "COUNTS", dict.fromkeys(suite.COUNTS, 1))
    path = tmp_path / "list.json"
    path.write_text(json.dumps([*made_suite.rows()[:2], made_suite.rows()[-1]]))
    return path


def test_a_dry_run_checks_all_and_makes_nothing(world, short_list, tmp_path, capsys):
    given = words(world, tmp_path / "videos", "--dry_run", "--subset")
    given[2] = str(short_list)
    assert main(given) == 0
    first, *plan = capsys.readouterr().out.splitlines()
    assert first == "3 prompts, 15 videos; --ratio 16-9 for VBench"
    plan = json.loads("\n".join(plan))
    assert (plan["jobs"], plan["to make"], plan["programs"]) == (15, 15, 1)
    assert [*tmp_path.iterdir()] == [short_list]


@pytest.mark.long
def test_all_5590_are_checked_within_30_seconds(world, tmp_path):
    """In a process of its own, where no shapes are checked at every call."""
    command = [sys.executable, "-m", "pusa_jax", *words(world, tmp_path / "videos", "--dry_run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    since = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert spent.ru_utime - since.ru_utime <= 30
    assert done.stdout.startswith("1118 prompts, 5590 videos; --ratio 16-9 for VBench\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_videos_are_made_by_the_protocol_and_not_twice(world, short_list, tmp_path, capsys):
    folder = tmp_path / "videos"
    asked = ("--num_frames=5", "--num_inference_steps=1", "--seed=3")
    given = words(world, folder, *asked)
    given[2] = str(short_list)
    assert main(given) == 0
    rows = json.loads(short_list.read_text())
    names = {f"{row['prompt_en']}-{index}.mp4" for row in rows for index in range(5)}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in tmp_path.iterdir()} == {
        *("list.json", "videos", "videos.jobs.jsonl", "videos.manifest.jsonl"),
        "videos.protocol.json",
    }
    jobs = [read_record(path)["job"] for path in folder.iterdir()]
    assert {(job["crf"], *job["multipliers"]) for job in jobs} == {(10, 0.0)}
    assert len({job["settings"]["seed"] for job in jobs}) == 15
    record = json.loads((tmp_path / "videos.protocol.json").read_text())
    assert (record["ratio"], record["videos"], record["seed"]) == ("16-9", 15, 3)
    capsys.readouterr()
    assert main(given) == 0
    assert "0 made, 15 were there" in capsys.readouterr().out
    (folder / "notes.txt").touch()
    assert "holds notes.txt, no video of the list" in refused(capsys, given)[1]


def refused(capsys, arguments):
    assert main(arguments) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert last.startswith("pusa-jax: error: ")
    return lines, last


def test_missing_images_are_all_listed(world, tmp_path, capsys):
    given = words(world, tmp_path / "videos")
    given[4] = str(tmp_path / "16-9")
    lines, last = refused(capsys, given)
    assert len(lines) == 355 and lines[0].startswith("  missing: a view of place 0")
    assert f"355 of 355 images are not in {tmp_path}/16-9: a view of place 0" in last


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--height=48",), "has images of 16-9, but 64x48 is nearest to 8-5"),
        (("--height=30",), "height must be divisible by 16"),
        (("--model=nowhere",), "nowhere"),
        (("--lora_path=x.safetensors",), "x.safetensors"),
        (("--seed=-1",), "--seed must be a number, 0 or more, to go on with; got '-1'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    world, tmp_path, capsys, more, line
):
    lines, last = refused(capsys, words(world, tmp_path / "videos", *more))
    assert line in last and not lines
    assert not list(tmp_path.iterdir())


def test_what_is_needed_is_named(capsys):
    _, last = refused(capsys, ["vbench", "--images=x"])
    assert last.endswith("pusa-jax vbench needs --info, --output; see --help.")


def test_score_prints_the_table(tmp_path, capsys):
    row = PUBLISHED["Wan-I2V"][3:]
    scores = {name: [value / 100, []] for name, value in zip(DIMENSIONS, row, strict=True)}
    (tmp_path / "all_eval_results.json").write_text(json.dumps(scores))
    assert main(["vbench", "score", str(tmp_path), "--name", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| mine ") and "|   86.8" in lines[2]
    assert lines[3].startswith("| Pusa V1.0, 10 steps |   87.32 |   94.84 |   79.80 |")
    assert main(["vbench", "score", str(tmp_path / "x.json")]) == 2
