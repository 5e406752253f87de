"""FVDM's own ways through the shipped pipeline: labels, frames that drift, pieces, noise."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from watched import WatchedPipeline

from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.inference.settings import Configs
from pusa_jax.models.latte.config import DiTConfig, VAEConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.family import LATTE
from pusa_jax.models.latte.vae import FrameVAE
from pusa_jax.testing.compare import random_module

DIT = DiTConfig(
    dim=16, num_heads=2, num_layers=2, num_classes=3, num_frames=4, grid=(2, 2), freq_dim=16
)
VAE = VAEConfig(block_out_channels=(4,), layers_per_block=1, norm_num_groups=4)
SETTINGS = dataclasses.replace(Configs(dit=DIT, vae=VAE).fitted(LATTE), num_steps=2)


@pytest.fixture(scope="module")
def pipe():
    dit = random_module(lambda: LatteVideo(DIT, rngs=nnx.Rngs(0)))
    return WatchedPipeline(dit, random_module(lambda: FrameVAE(VAE, rngs=nnx.Rngs(0))), None, LATTE)


def sampled(pipe, label="1", conditions=(), overlap=None, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return pipe(label, conditions=conditions, settings=settings, overlap=overlap).latents


def given(index):
    frame = np.random.default_rng(index).standard_normal((1, 1, 4, 4, 4)).astype(np.float32)
    return FrameCondition(index=index, latents=jnp.asarray(frame), multiplier=0.0)


def test_size_and_length_are_those_the_model_has_positions_for():
    assert (SETTINGS.height, SETTINGS.width, SETTINGS.num_frames) == (4, 4, 4)
    assert (SETTINGS.solver, SETTINGS.guidance_scale, SETTINGS.tiled) == ("ddim", 7.0, False)
    free = Configs(dit=dataclasses.replace(DIT, num_classes=0), vae=VAE)
    assert free.fitted(LATTE).guidance_scale == 1.0


def test_labels_and_guidance_change_the_clip(pipe):
    first = sampled(pipe)
    assert np.array_equal(first, sampled(pipe))
    assert not np.array_equal(first, sampled(pipe, "2"))
    assert not np.array_equal(first, sampled(pipe, guidance_scale=1.0))
    assert np.array_equal(sampled(pipe, ""), sampled(pipe, "", guidance_scale=1.0))


@pytest.mark.parametrize(
    ("label", "message"),
    [("3", "label 3 is outside the classes of the model: use 0 to 2."), ("a cat", "got 'a cat'.")],
)
def test_a_label_that_is_none_is_refused_before_any_work(pipe, label, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        sampled(pipe, label)
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        pipe("1", negative_prompt=label, settings=SETTINGS)


def test_given_frames_drift_as_in_the_original_and_stay_if_asked(pipe):
    frame = given(2)
    drifted = sampled(pipe, conditions=[frame])[:, 2:3]
    held = sampled(pipe, conditions=[frame], original_conditions=False)[:, 2:3]
    assert not np.array_equal(drifted, frame.latents)
    assert np.array_equal(held, frame.latents)
    assert pipe.told()[:, 2].tolist() == [0, 0]
    assert pipe.told()[:, 0].tolist() == [999, 0]


def test_a_long_clip_runs_one_program_and_begins_as_a_short_one(pipe):
    pipe.clear()
    short = sampled(pipe)
    long = sampled(pipe, overlap=2, num_frames=4 + 14 * 2)
    assert long.shape == (1, 32, 4, 4, 4)
    assert len(pipe._compiled) == 1
    assert len(pipe.steps) == 15 * 2
    assert np.array_equal(long[:, :4], short)
    carried = [pipe.steps[2 * i].before for i in (1, 2)]  # noise in what is carried over differs
    assert not np.array_equal(carried[0], carried[1])


def test_frames_carried_over_enter_a_piece_noised_to_what_they_claim(pipe):
    sampled(pipe, overlap=2, num_frames=6)
    end, entered = pipe.steps[1].after[:, 2:], pipe.steps[2].before[:, :2]
    noise = (entered - np.sqrt(np.float32(0.9999)) * end) / 0.01
    assert 0.7 < noise.std() < 1.3
    sampled(pipe, overlap=2, num_frames=6, original_conditions=False)
    assert np.array_equal(pipe.steps[2].before[:, :2], pipe.steps[1].after[:, 2:])


def test_a_random_solver_draws_from_the_seed(pipe):
    one = sampled(pipe, solver="ddpm")
    assert np.array_equal(one, sampled(pipe, solver="ddpm"))
    assert not np.array_equal(one, sampled(pipe, solver="ddpm", seed=1))
    noises = [np.asarray(step.row.coefficients.noise) for step in pipe.steps]
    assert not np.array_equal(*noises)


def test_as_many_frames_as_there_are_positions(pipe):
    with pytest.raises(ValueError, match=r"5 frames, but this model has positions for 4; longer"):
        sampled(pipe, num_frames=5)


def test_prompts_are_prepared_once_for_all_pieces(pipe, monkeypatch):
    calls, own = [], pipe._prepare
    monkeypatch.setattr(pipe, "_prepare", lambda *args: calls.append(1) or own(*args))
    sampled(pipe, overlap=2, num_frames=10)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("shape", "changes", "wanted"),
    [
        ((1, 4, 8, 8, 4), {}, "[1, 4, 4, 4, 4]"),
        ((2, 4, 4, 4, 4), {}, "[1, 4, 4, 4, 4]"),
        ((1, 4, 4, 4, 4), {"solver": "ddpm"}, "[3, 4, 4, 4, 4]"),
        ((1, 4, 4, 4, 4), {"num_frames": 6}, "[2, 4, 4, 4, 4]"),
    ],
)
def test_noise_of_another_size_is_refused_in_one_line(pipe, shape, changes, wanted):
    settings = dataclasses.replace(SETTINGS, **changes)
    overlap = 2 if "num_frames" in changes else None
    with pytest.raises(ValueError) as error:
        pipe("1", settings=settings, overlap=overlap, noise=jnp.zeros(shape))
    words = f"noise must be of shape {wanted}, [draws, F, h, w, C], got {[*shape]}."
    assert str(error.value) == words


def test_every_piece_has_its_own_of_the_draws_that_are_given(pipe):
    noise = np.random.default_rng(0).standard_normal((2, 4, 4, 4, 4)).astype(np.float32)
    settings, entered = dataclasses.replace(SETTINGS, num_frames=6), []
    for draws in (noise, np.stack([noise[0], -noise[1]])):
        pipe("1", settings=settings, overlap=2, noise=jnp.asarray(draws))
        assert np.array_equal(pipe.steps[0].before[0], noise[0])
        entered.append(pipe.steps[2].before[0, 2:])
    np.testing.assert_allclose(entered[0], -entered[1], atol=1e-6)
