"""What a model card says, and which requests for files are refused."""

import dataclasses
import json

import jax
import pytest
from small import settings

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.progress import PusaWarning
from pusa_jax.training import export
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import CheckpointConfig, ModelConfig
from pusa_jax.training.finished import Result, read_result
from pusa_jax.training.state import TrainState
from pusa_jax.training.step import first_state, model_shapes


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Result:
    """Of a run that trained adapters, at step 3."""
    return written(tmp_path_factory.mktemp("run"), settings())


def written(workdir, run) -> Result:
    """Of a run that ended at step 3 with zeros."""
    shapes = jax.eval_shape(
        lambda base: first_state(run.recipe, base, jax.random.key(0)), model_shapes(run.recipe)
    )
    params = {path: jax.numpy.zeros(leaf.shape) for path, leaf in shapes.params.items()}
    checkpoints = RunCheckpoints(workdir / "checkpoints", keep_last=1)
    state = TrainState(step=3, params=params, opt_state=(), ema={}, key=0)
    checkpoints.save(3, state, {"config": run.record(), "git_commit": "c0ffee", "step": 3})
    checkpoints.close()
    return read_result(workdir)


def card(result, **changes):
    """The header as a table, and the rest, of a card."""
    text = export.model_card(dataclasses.replace(result, run=settings(**changes)))
    _, header, rest = text.split("---\n", 2)
    lines = (line.partition(": ") for line in header.splitlines())
    return {name: json.loads(value) for name, _, value in lines}, rest


HUB = ModelConfig(preset="wan2.1-t2v-14b", weights="/data/Wan2.1-T2V-14B")


def test_a_lora_says_that_it_is_one_and_how_it_is_used(result):
    header, rest = card(result, model=HUB)
    assert header == {
        "base_model": "Wan-AI/Wan2.1-T2V-14B",
        "base_model_relation": "adapter",
        "library_name": "pusa-jax",
        "pipeline_tag": "image-to-video",
        "tags": ["pusa", "video", "lora"],
    }
    assert rest.startswith("\nLow-rank adapters of a wan2.1 text-to-video model")
    assert "trained for 3 steps" in rest
    use = "pusa-jax i2v --model BASE --lora_path pusa_lora.safetensors --lora_alpha 1 --image"
    assert use in rest


def test_a_whole_model_says_so(result):
    header, rest = card(result, adapter=None)
    assert header == {
        "base_model_relation": "finetune",
        "library_name": "pusa-jax",
        "pipeline_tag": "image-to-video",
        "tags": ["pusa", "video"],
    }
    assert rest.startswith("\nAll weights of a wan2.1 text-to-video model")
    assert "pusa-jax i2v --model THIS_FOLDER --image_paths" in rest


def test_a_card_has_all_settings_with_folders_by_their_names(result):
    checkpoint = CheckpointConfig(resume="/home/me/before")
    data = dataclasses.replace(settings().data, folder="/home/me/clips")
    _, rest = card(result, model=HUB, data=data, checkpoint=checkpoint)
    said = json.loads(rest.split("```json\n")[1].split("```")[0])
    expected = settings(model=HUB, data=data, checkpoint=checkpoint).record()
    expected["model"]["weights"], expected["data"]["folder"] = "Wan2.1-T2V-14B", "clips"
    expected["checkpoint"]["resume"] = "before"
    assert said == expected and "/home" not in rest


def test_adapters_need_an_empty_folder(result, tmp_path):
    file = tmp_path / "file"
    file.write_text("here")
    for taken in (tmp_path, file):
        with pytest.raises(FileExistsError, match="exists already; choose another folder"):
            export.export_adapters(result, taken)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert [path.name for path in export.export_adapters(result, empty)] == [
        "pusa_lora.safetensors",
        "README.md",
    ]
    assert (empty / "README.md").read_text("utf-8") == export.model_card(result)


def test_a_run_of_adapters_is_no_model(result, tmp_path):
    with pytest.raises(ValueError, match="this run trained adapters; export them"):
        export.export_model(result, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_random_start_has_no_base_and_what_was_trained_is_written(tmp_path):
    whole = written(tmp_path / "run", settings(adapter=None))
    with pytest.warns(PusaWarning, match=r"no VAE comes along; put the one .* at .*Wan2.1_VAE"):
        files = export.export_model(whole, tmp_path / "out", with_base=True)
    assert files and all(file.is_file() for file in files)
    assert ModelFolder(tmp_path / "out").names == ("dit",)
