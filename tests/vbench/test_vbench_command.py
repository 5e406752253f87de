"""`pusa-jax vbench` checks all before it makes anything, and says what is wrong in a line."""

import json
import time

import pytest
from made_suite import images, written

from pusa_jax.cli.main import main
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


def test_a_dry_run_checks_all_5590_and_makes_nothing(world, tmp_path, capsys):
    since = time.perf_counter()
    assert main(words(world, tmp_path / "videos", "--dry_run")) == 0
    assert time.perf_counter() - since <= 30
    said = capsys.readouterr().out
    assert said == (
        "1118 prompts, 355 images, 5590 videos, 0 of them there; --ratio 16-9 for VBench\n"
    )
    assert not list(tmp_path.iterdir())


def test_the_lines_of_the_subset_are_written_beside_the_folder(world, tmp_path):
    more = ("--subset", "--seed=3", "--noise_multiplier=0.2", "--cfg_scale=1", "--crf=18")
    assert main(words(world, tmp_path / "videos", *more)) == 0
    jobs = [json.loads(line) for line in (tmp_path / "videos.jobs.jsonl").open(encoding="utf-8")]
    assert len(jobs) == 750
    asked = {"height": 32, "width": 64, "noise_multipliers": [0.2], "cfg_scale": 1.0, "crf": 18}
    own = {"id", "task", "prompt", "image_paths", "seed", "output"}
    assert {k: v for k, v in jobs[0].items() if k not in own} == asked | {"num_inference_steps": 10}
    record = json.loads((tmp_path / "videos.protocol.json").read_text())
    assert (record["videos"], record["subset"], record["seed"]) == (750, True, 3)
    assert (record["ratio"], record["first"]["settings"]["num_steps"]) == ("16-9", 10)
    assert record["first"]["multipliers"] == [0.2] and record["first"]["crf"] == 18


def test_files_for_few_steps_are_not_given_ten(world, tmp_path):
    assert main(words(world, tmp_path / "videos", "--fast", "--subset")) == 0
    record = json.loads((tmp_path / "videos.protocol.json").read_text())
    assert record["first"]["settings"]["num_steps"] == 4


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
