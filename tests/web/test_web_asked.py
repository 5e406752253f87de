"""What the page asks for is a job of the command line, and what a video says comes back."""

import json

import numpy as np
import pytest

from pusa_jax.cli.job import TASK_HELP
from pusa_jax.inference import packaged
from pusa_jax.media import video
from pusa_jax.web import timeline
from pusa_jax.web.asked import Asked
from pusa_jax.web.fields import asked_by
from pusa_jax.web.folders import Folders
from pusa_jax.web.presets import given_by_default
from pusa_jax.web.service import Service


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "results").mkdir()
    video.write_png(tmp_path / "uploads" / "a.png", np.zeros((8, 8, 3), np.uint8))
    return Folders(output=tmp_path / "results", uploads=tmp_path / "uploads")


def asked(folders, **others):
    picture = str(folders.uploads / "a.png")
    return Asked(task="i2v", prompt="a", inputs=(picture,), given=((3, 0.25),), **others)


def test_fields_become_the_job_of_the_same_flags(folders):
    settings = {"num_inference_steps": "4", "seed": 7.0, "shift": None, "solver": ""}
    job, model = asked(folders, settings=settings).job(folders)
    assert (job.task, job.at, job.multipliers) == ("i2v", (3,), (0.25,))
    assert (job.settings.num_steps, job.settings.seed, job.settings.shift) == (4, 7, 5.0)
    assert job.model == str(packaged.FOLDER) == str(model.folder.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"num_inference_steps": "four"}}, "num_inference_steps"),
        ({"settings": {"output": "/tmp/x.mp4"}}, "there is no setting 'output'"),
        ({"settings": {"solver": "magic"}}, "magic"),
        ({"model": "../x"}, "there is no model"),
        ({"lora": "/etc/passwd"}, "there is no LoRA file"),
    ],
)
def test_what_is_wrong_is_one_line(folders, change, words):
    with pytest.raises(ValueError, match=words) as caught:
        asked(folders, **change).job(folders)
    assert "\n" not in str(caught.value)


def test_a_prompt_is_never_a_flag(folders):
    job, _ = Asked(task="t2v", prompt="--model /etc --output x").job(folders)
    assert job.prompt == "--model /etc --output x" and job.model == str(packaged.FOLDER)


def test_a_task_without_its_inputs_says_what_to_drop(folders):
    with pytest.raises(ValueError, match="loop needs the image: drop it"):
        Asked(task="loop").job(folders)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": 3, "levels": {}}', None, "x" * 10**6])
def test_a_state_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="load the page anew"):
        timeline.read(text)


def test_a_state_comes_back_in_the_order_of_places():
    files = [{"path": "b", "at": 8}, {"path": "a", "at": 0}]
    text = timeline.state("start-end", 9, [(8, 0.5), (0, 0.2)], files)
    assert timeline.read(text) == (("a", "b"), ((0, 0.2), (8, 0.5)))


@pytest.mark.parametrize("task", TASK_HELP)
def test_every_task_begins_with_the_defaults_of_its_function(folders, task):
    state = json.loads(Service(folders).fresh(Asked(task=task)))
    _, model = Asked(task="t2v").job(folders)
    given = given_by_default(task, model.family, 9, 4)
    assert state["frames"] == 9 and state["levels"] == {str(at): level for at, level in given}


def test_the_table_is_that_of_the_family(folders):
    from pusa_jax.web.table import levels_of

    job, model = Asked(task="t2v", settings={"num_inference_steps": 5}).job(folders)
    levels = levels_of(job, model, ((0, 0.5),))
    free = levels_of(job, model, ())
    assert levels.shape == (6, 9)
    np.testing.assert_allclose(levels[:, 0], 0.5 * free[:, 0], atol=1e-6)
    np.testing.assert_array_equal(levels[:, 1:], free[:, 1:])


def written(folders, job, record):
    path = folders.output / "made.mp4"
    video.write_video(path, np.zeros((5, 16, 16, 3), np.uint8), 16, record)
    return path


def test_settings_come_back_from_a_video(folders):
    before = asked(folders, settings={"seed": 5, "cfg_scale": 3.5})
    job, _ = before.job(folders)
    after, strange = asked_by(written(folders, job, {"job": job.as_record()}), folders)
    assert not strange and after.inputs == job.inputs and after.given == before.given
    again, _ = after.job(folders)
    assert again == job


def test_a_video_that_names_foreign_files_makes_nobody_read_them(folders):
    job, _ = asked(folders).job(folders)
    record = job.as_record() | {"inputs": ["/etc/passwd"], "model": "/etc"}
    after, strange = asked_by(written(folders, job, {"job": record}), folders)
    assert after.inputs == () and after.model == "tiny"
    assert len(strange) == 2


def test_a_video_of_others_carries_no_job(folders):
    with pytest.raises(ValueError, match="carries no job"):
        asked_by(written(folders, None, {"other": 1}), folders)
