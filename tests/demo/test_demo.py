"""The models that come along, end to end: a clip of every task, judged from its pixels.

Thresholds leave room for other processors; `pusa_jax/demo/weights/README.md` has the numbers.
"""

import json

import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.demo import demo, shipped
from pusa_jax.demo.world import render
from pusa_jax.inference.jobs import TASKS
from pusa_jax.media import video

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a demo."""
    output = tmp_path_factory.mktemp("demo")
    assert demo.run_demo(output) == 0
    return output


@pytest.mark.parametrize("task", TASKS)
def test_the_demo_shows_what_was_asked_for(made, task):
    verdict = json.loads((made / "report.json").read_text())["tasks"][task]
    assert verdict["coherent"] >= 0.75, verdict
    assert verdict["colour"] >= 0.8, verdict
    assert verdict["background"] >= 0.95, verdict


@pytest.mark.parametrize("task", ["t2v", "i2v", "start-end", "extend"])
def test_objects_go_where_the_prompt_says(made, task):
    verdict = json.loads((made / "report.json").read_text())["tasks"][task]
    assert verdict["direction"], verdict


def test_a_miss_is_called_so_in_words():
    part = demo.parts()["loop"]
    empty = np.zeros((33, 48, 48, 3), np.uint8)
    found = demo.verdict(part, empty)
    assert f"a {part.scene.shape} in only 0% of the frames made" in found["missed"]
    assert demo.in_words(found).startswith("missed: one object of the right size in only 0%")
    right = demo.verdict(part, render(part.scene))
    assert right["missed"] == [] and demo.in_words(right) == "as asked for"


def test_a_clip_is_one_stage_whatever_it_is_made_of():
    seen = []
    report = demo._as_one("loop", lambda *what: seen.append(what))
    for stage, done in (("text", 0), ("denoise", 3), ("decode", 9)):
        report(stage, done, 9)
    assert seen == [("loop", 0, 5), ("loop", 3, 5), ("loop", 4, 5)]


def test_the_sheet_has_a_row_for_every_task(made):
    sheet = video.read_image(made / "sheet.png")
    assert sheet.shape == (len(TASKS) * (16 + 8 + 48 * demo.SCALE), 9 * (8 + 48 * demo.SCALE), 3)
    assert [path.stem for path in sorted(made.glob("*.mp4"))] == sorted(TASKS)


def test_a_demo_gives_exactly_what_it_marks():
    from pusa_jax.diffusion.tasks import pixel_frames

    for task, part in demo.parts().items():
        frames = sum(len(frames) for frames in part.inputs.values())
        if task in ("i2v", "start-end", "interpolate"):
            assert frames == len(part.given)
        if task == "extend":
            assert frames == pixel_frames(len(part.given), 4)


def test_the_model_that_comes_along_is_the_default(capsys):
    code = main(["t2v", "--prompt", "a red circle moves right on black", "--dry_run"])
    plan = json.loads(capsys.readouterr().out)
    assert code == 0
    assert plan["latents"] == [1, 9, 6, 6, 16] and plan["steps"] == 10
    assert plan["lora"] == [list(shipped.LORA)]


def test_the_weights_are_small():
    size = sum(path.stat().st_size for path in shipped.FOLDER.rglob("*") if path.is_file())
    assert size <= 14 * 2**20
