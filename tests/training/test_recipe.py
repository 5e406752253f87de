"""What the settings of a run say to the step, and what of them may change in its course."""

import dataclasses

import pytest
from small import DIT, LORA, VAE, settings

from pusa_jax.diffusion.timesteps import LevelConfig
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.training import config
from pusa_jax.training.config import DataConfig, MeshConfig, ModelConfig, SampleConfig
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import OptimizerConfig


def test_the_step_is_told_what_the_settings_say():
    objective = ObjectiveConfig(levels=LevelConfig(sampler="shared"), weighting="none")
    optimizer = OptimizerConfig(learning_rate=0.5, accumulate=2)
    run = settings(objective=objective, optimizer=optimizer, mesh=MeshConfig(sharding="zero"))
    recipe = run.recipe
    assert (recipe.objective, recipe.optimizer, recipe.adapter) == (objective, optimizer, LORA)
    assert (recipe.steps, recipe.sharding) == (20, "zero")
    assert recipe.dit == run.model.networks().dit
    assert settings(adapter=None).recipe.adapter is None


def test_parts_that_may_change_are_these():
    """A run goes on with others of the first; a taken-over state needs the second to agree."""
    assert config.FREE_TO_CHANGE == {"mesh", "checkpoint", "log", "samples", "steps"}
    assert config.SHAPES == {"model", "adapter"}
    assert config.HOW_IT_RUNS == {"weights", "remat", "accumulate", "validation_every"}


def test_clips_have_the_shape_of_the_vae_and_captions_that_of_the_network():
    run = settings(data=DataConfig(height=8, width=12, num_frames=5))
    assert run.clip_shape == (3, 4, 6, 4)
    assert run.text_shape == (DIT.text_len, DIT.text_dim) == (6, 12)


def test_published_clips_have_published_latents():
    run = settings(model=ModelConfig(preset="wan2.1-t2v-14b"), data=DataConfig())
    assert run.clip_shape == (21, 60, 104, 16) and run.text_shape == (512, 4096)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 6}, r"data\.height must be divisible by 4, got 6"),
        ({"width": 10}, r"data\.width must be divisible by 4, got 10"),
        ({"height": 0}, r"data\.height must be divisible by 4, got 0"),
        ({"num_frames": 4}, "got 4"),
    ],
)
def test_clips_that_cannot_be_encoded_or_cut_up_are_refused(change, message):
    run = settings(data=DataConfig(**{"height": 8, "width": 8, "num_frames": 5} | change))
    with pytest.raises(ValueError, match=message):
        _ = run.clip_shape


def test_a_patch_is_height_by_width():
    dit = dataclasses.replace(DIT, patch_size=(1, 2, 1))
    model = dataclasses.replace(settings().model, dit=dit)
    assert settings(model=model, data=DataConfig(height=8, width=6, num_frames=5)).clip_shape == (
        3, 4, 3, 4,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"data\.height must be divisible by 4, got 6"):
        _ = settings(model=model, data=DataConfig(height=6, width=8, num_frames=5)).clip_shape


def test_a_network_of_its_own_has_its_vae_or_the_familys():
    assert ModelConfig(dit=DIT, vae=VAE).networks().vae == VAE
    assert ModelConfig(dit=DIT).networks().vae == VAEConfig()


def test_defaults_of_what_is_left_out():
    """Of the parts that no published setting names."""
    found = (ModelConfig(dit=DIT), DataConfig(), MeshConfig(), config.LogConfig(), SampleConfig())
    model, data, mesh, log, samples = found
    assert (model.family, model.weights, data.folder) == ("wan2.1", "random", "random")
    assert (mesh.data, mesh.context, mesh.tensor, mesh.sharding) == (-1, 1, 1, "fsdp")
    assert (log.every, log.tensorboard, log.wandb) == (10, True, "")
    assert (data.batch_size, data.height, data.width, data.num_frames) == (8, 480, 832, 81)
    assert (data.validation, data.validation_every) == ("", 100)
    assert (samples.every, samples.count, samples.strip) == (0, 2, 8)
    assert (samples.num_steps, samples.guidance_scale, samples.multiplier) == (10, 3.0, 0.0)
    assert (config.CheckpointConfig().keep_last, config.CheckpointConfig().resume) == (2, "")
    assert settings(seed=0).seed == config.RunConfig(model=model).seed == 0


def test_a_run_has_at_least_one_step():
    assert settings(steps=1).steps == 1
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        settings(steps=0)
