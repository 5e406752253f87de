"""Training one expert of Wan2.2 at a time, and TI2V-5B: weights, noise levels, files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from small import LORA, noise_clips, settings

from pusa_jax.convert.folders.merging import check_expert, told_experts
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.timesteps import clip_keys
from pusa_jax.files.records import rebuild
from pusa_jax.models.wan.family import WAN21, WAN22, WAN22_TI2V
from pusa_jax.testing import published
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import DataConfig, MeshConfig, ModelConfig, RunConfig
from pusa_jax.training.export import export_adapters, export_model
from pusa_jax.training.finished import read_result
from pusa_jax.training.layout import placement
from pusa_jax.training.loop import train
from pusa_jax.training.objective import ObjectiveConfig, noised_batch
from pusa_jax.training.startup import begin

FILES = {"dit": "high_noise_pusa.safetensors", "dit_low": "low_noise_pusa.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a14b") / "model"
    published.write_two_experts(folder)
    return folder


def of_expert(expert, weights, **changes):
    model = ModelConfig(
        family="wan2.2", expert=expert, dit=published.DIT, vae=published.VAE,
        weights=str(weights), dtype="float32", remat="none",
    )  # fmt: skip
    data = DataConfig(batch_size=2, height=16, width=32, num_frames=5)
    return settings(model=model, data=data, mesh=MeshConfig(data=1), steps=1, **changes)


def start(run, workdir):
    mesh = make_mesh({}, jax.devices()[:1])
    placed = placement(run.recipe, mesh, run.data.batch_size, run.clip_shape, run.text_shape)
    no_text = np.zeros(run.text_shape, np.float32)
    return begin(run, placed, RunCheckpoints(workdir, keep_last=1), no_text)


@pytest.mark.parametrize("expert", FILES)
def test_the_weights_of_the_expert_are_read(folder, expert, tmp_path):
    begun = start(of_expert(expert, folder), tmp_path)
    other = "dit_low" if expert == "dit" else "dit"
    for path, leaf in ModelFolder(folder).load(expert)[1].items():
        np.testing.assert_array_equal(begun.frozen.base[path], leaf, err_msg=path)
    unlike, path = ModelFolder(folder).load(other)[1], "patch_embedding/kernel"
    assert not np.array_equal(begun.frozen.base[path], unlike[path])


@pytest.mark.parametrize("expert", FILES)
@pytest.mark.parametrize("sampler", ["independent", "ptss", "shared"])
def test_a_batch_of_an_expert_has_only_levels_that_it_serves(expert, sampler):
    levels = dataclasses.replace(ObjectiveConfig().levels, sampler=sampler)
    run = of_expert(expert, "random", objective=ObjectiveConfig(levels=levels))
    clean, text = jnp.ones((256, 7, 1, 1, 2)), jnp.zeros((256, 2, 3))
    keys = clip_keys(jax.random.key(0), jnp.arange(256))
    batch = noised_batch(keys, clean, text, text[:1], run.recipe.objective)
    first, end = WAN22.levels_of(expert)
    for told in (batch.levels.sigmas, batch.levels.timesteps / 1000):
        assert told.min() >= first and (told.max() < end or end == 1)


def test_asked_levels_are_narrowed_and_none_may_be_left():
    levels = dataclasses.replace(ObjectiveConfig().levels, lowest=0.5, highest=0.95)
    high = of_expert("dit", "random", objective=ObjectiveConfig(levels=levels)).levels
    low = of_expert("dit_low", "random", objective=ObjectiveConfig(levels=levels)).levels
    assert (high.lowest, high.highest) == (0.875, 0.95)
    assert (low.lowest, low.highest) == (0.5, 0.875)
    levels = dataclasses.replace(levels, highest=0.8)
    with pytest.raises(ValueError, match=r"lowest=0\.875 and highest=0\.8"):
        of_expert("dit", "random", objective=ObjectiveConfig(levels=levels))


def test_a_single_denoiser_serves_every_level():
    assert WAN21.levels_of("dit") == WAN22_TI2V.levels_of("dit") == (0, 1)
    assert settings().recipe.objective == settings().objective


def test_settings_from_before_there_were_experts_are_understood():
    record = json.loads(json.dumps(settings().record()))
    del record["model"]["expert"], record["objective"]["levels"]["lowest"]
    assert rebuild(RunConfig, record) == settings()


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Workdir of one step of adapters for the low-noise expert."""
    workdir, run = tmp_path_factory.mktemp("low") / "run", of_expert("dit_low", folder)
    assert train(run, noise_clips(run), workdir, devices=jax.devices()[:1]) == 1
    return workdir


def test_adapters_are_exported_under_the_name_of_their_expert(trained, tmp_path):
    file, card = export_adapters(read_result(trained), tmp_path / "out", naming="pusa_v1")
    assert file.name == FILES["dit_low"]
    assert "--low_lora_path low_noise_pusa.safetensors --low_lora_alpha 1" in card.read_text()
    with safe_open(file, "np") as tensors:
        assert tensors.metadata()["expert"] == "low-noise expert"
    assert read_lora(file, FOREIGN["wan2.2"].lora).modules
    renamed = file.rename(tmp_path / "mine.safetensors")
    assert told_experts(WAN22, renamed) == {"dit_low": "metadata"}
    with pytest.raises(ValueError, match="LoRA of the low-noise expert by its metadata"):
        check_expert(WAN22, "dit", renamed)


def test_a_run_of_one_expert_is_not_continued_on_the_other(trained, folder, tmp_path):
    with pytest.raises(ValueError, match=r"model\.expert is 'dit_low' there and 'dit' here"):
        start(of_expert("dit", folder), trained / "checkpoints")


def test_a_trained_expert_stands_beside_the_other_as_it_was(folder, tmp_path):
    run = of_expert("dit", folder, adapter=None)
    begun = start(run, tmp_path / "checkpoints")
    checkpoints = RunCheckpoints(tmp_path / "run" / "checkpoints", keep_last=1)
    params = {path: leaf + 1 for path, leaf in begun.state.params.items()}
    state = dataclasses.replace(begun.state, params=params, ema=params)
    info = {"config": run.record(), "git_commit": "c0ffee", "step": 0}
    checkpoints.save(0, state, begun.info | info)
    checkpoints.close()
    result = read_result(tmp_path / "run")
    export_model(result, tmp_path / "out", dtype="float32", with_base=True)
    out, was = ModelFolder(tmp_path / "out"), ModelFolder(folder)
    assert out.family is WAN22 and set(out.names) == set(was.names)
    for name, added in (("dit", 1), ("dit_low", 0)):
        written = out.load(name)[1]
        for path, leaf in was.load(name)[1].items():
            np.testing.assert_array_equal(written[path], leaf + added, err_msg=path)


def test_weights_of_another_family_are_refused(folder, tmp_path):
    model = dataclasses.replace(of_expert("dit", folder).model, family="wan2.1")
    run = dataclasses.replace(of_expert("dit", folder), model=model)
    message = "is a wan2.2 model, the run trains wan2.1; set model.preset or model.family"
    with pytest.raises(ValueError, match=message):
        start(run, tmp_path)


@pytest.mark.parametrize("adapter", [LORA, None], ids=["adapters", "all weights"])
def test_ti2v_is_trained_like_any_model(adapter, tmp_path):
    published.write_ti2v(tmp_path / "model")
    model = ModelConfig(
        family="wan2.2-ti2v", dit=published.TI2V, vae=published.VAE22,
        weights=str(tmp_path / "model"), dtype="float32", remat="none",
    )  # fmt: skip
    data = DataConfig(batch_size=2, height=32, width=64, num_frames=5)
    run = settings(model=model, data=data, mesh=MeshConfig(data=1), steps=1, adapter=adapter)
    assert run.clip_shape == (2, 2, 4, 48)
    assert train(run, noise_clips(run), tmp_path / "run", devices=jax.devices()[:1]) == 1
    result = read_result(tmp_path / "run")
    if adapter:
        file, _ = export_adapters(result, tmp_path / "out")
        assert file.name == "pusa_lora.safetensors"
    else:
        export_model(result, tmp_path / "out", with_base=True, layout="diffusers")
        assert ModelFolder(tmp_path / "out").family is WAN22_TI2V
