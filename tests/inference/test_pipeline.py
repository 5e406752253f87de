import dataclasses
import inspect

import numpy as np
import pytest
from flax import nnx

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.inference.settings import Configs, latent_shape
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.models.wan.text import tokenizer
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.testing.compare import random_module
from pusa_jax.testing.tokenizer import save_tiny_tokenizer

DIT = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16)
VAE = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
TEXT = TextConfig(dim=16, dim_attn=16, dim_ffn=16, num_heads=2, num_layers=1, text_len=8)
SETTINGS = SamplingConfig(height=32, width=48, num_frames=17, num_steps=2, seed=3, tiled=False)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocab = save_tiny_tokenizer(folder, ["a", "red", "ball", "rolls"])
    text = dataclasses.replace(TEXT, vocab=vocab)
    encoder = random_module(lambda: T5Encoder(text, rngs=nnx.Rngs(0)))
    return PusaPipeline(
        family=WAN21,
        dit=random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0))),
        autoencoder=random_module(lambda: WanVAE(VAE, rngs=nnx.Rngs(0))),
        text_encoder=lambda: encoder,
        tokenizer=tokenizer(folder, TEXT.text_len),
    )


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)


def test_every_task_runs_and_shares_one_compiled_step(pipe):
    image, clip = pictures(1)[0], pictures(17)
    runs = {
        "t2v": [],
        "i2v": tasks.image_to_video(image),
        "start-end": tasks.start_end(image, image[::-1], 5),
        "complete": tasks.complete(clip, 5, 4),
        "extend": tasks.extend(clip, 4, at=(0, 1), multipliers=(0.0, 0.3)),
        "transition": tasks.transition(clip, clip, 5, 4, at=(0, 4)),
        "loop": tasks.loop(image, 5),
    }
    for i, conditions in enumerate(runs.values()):
        settings = SamplingConfig(
            **vars(SETTINGS) | {"num_steps": 1 + i % 3, "guidance_scale": 1.0 + i}
        )
        output = pipe("a red ball rolls", conditions=conditions, settings=settings)
        assert output.frames.shape == (17, 32, 48, 3) and output.frames.dtype == np.uint8
        assert np.isfinite(output.latents).all()
    assert len(pipe._compiled) == 1


def test_a_seed_decides_the_result_to_the_last_bit(pipe):
    first, second = (pipe("a ball", settings=SETTINGS) for _ in range(2))
    other = pipe("a ball", settings=SamplingConfig(**vars(SETTINGS) | {"seed": 4}))
    assert first.latents_sha256() == second.latents_sha256() != other.latents_sha256()


def test_an_exact_frame_comes_back_as_the_vae_gives_it(pipe):
    image = pictures(1)[0]
    conditions = tasks.image_to_video(image, multipliers=[0.0])
    output = pipe("", conditions=conditions, settings=SETTINGS)
    (given,) = pipe.encode_conditions(conditions, SETTINGS)
    assert np.array_equal(output.latents[:, :1], given.latents)


def test_stages_are_reported_apart(pipe):
    seen = []
    pipe(
        "a red ball",
        conditions=tasks.image_to_video(pictures(1)[0]),
        settings=SETTINGS,
        on_progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert {s for s, *_ in seen} == {"text", "encode", "compile", "denoise", "decode"}
    assert [s[1:] for s in seen if s[0] == "denoise"] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 40}, "height must be divisible by 16, got 40; nearest are 32 and 48"),
        ({"width": 8}, "width must be divisible by 16, got 8; nearest are 16 and 32"),
        ({"width": 0}, "width must be divisible by 16, got 0"),
        ({"num_frames": 18}, "nearest are 17 and 21"),
        ({"num_steps": 0}, "steps must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        pipe("", settings=SamplingConfig(**vars(SETTINGS) | change))


def test_latent_shapes_follow_the_two_networks():
    coarse = dataclasses.replace(DIT, patch_size=(1, 2, 4))
    fields = {"z_dim": 2, "latent_mean": (0.0,) * 2, "latent_std": (1.0,) * 2}
    small = VAEConfig(dim=4, dim_mult=(1, 1, 1), temporal_downsample=(True, False), **fields)
    configs = Configs(dit=coarse, vae=small)
    fits = SamplingConfig(height=24, width=48, num_frames=5)
    assert latent_shape(fits, configs) == (1, 3, 6, 12, 2)
    with pytest.raises(ValueError, match="height must be divisible by 8, got 12; nearest are 8"):
        latent_shape(SamplingConfig(height=12, width=48, num_frames=5), configs)
    with pytest.raises(ValueError, match="width must be divisible by 16, got 40; nearest are 32"):
        latent_shape(SamplingConfig(height=24, width=40, num_frames=5), configs)


def test_given_frames_of_another_size_are_refused(pipe):
    for height, width in ((32, 32), (48, 48)):
        other = np.zeros((height, width, 3), np.uint8)
        with pytest.raises(ValueError, match=r"fit them first \(pj\.fit\)"):
            pipe("", conditions=tasks.image_to_video(other), settings=SETTINGS)


IMAGE = np.zeros((32, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("prompt", "conditions", "message"),
    [
        (["a", "b"], (), r"got list: \[pipe\(prompt\) for prompt in prompts\]"),
        ("a", IMAGE, r"got ndarray: conditions=pj\.tasks\.image_to_video\(image\)"),
        ("a", [IMAGE], r"got ndarray: conditions=pj\.tasks"),
    ],
)
def test_a_call_as_of_other_libraries_is_told_the_right_one(pipe, prompt, conditions, message):
    call = inspect.unwrap(PusaPipeline.__call__)  # without the checker of annotations
    with pytest.raises(TypeError, match=message):
        call(pipe, prompt, conditions=conditions)


def test_several_clips_are_not_decoded_to_one(pipe):
    with pytest.raises(ValueError, match="one clip is decoded at a time, got 2"):
        pipe.decode(np.zeros((2, 1, 4, 6, 16), np.float32), False)


def test_a_result_shows_itself_in_short():
    output = Output(
        frames=np.zeros((5, 32, 48, 3), np.uint8),
        latents=np.zeros((1, 2, 4, 6, 16), np.float32),
        seed=7,
        settings={},
        passes=2,
        seconds={"text": 1.0, "denoise": 2.0},
    )
    assert repr(output) == "Output(5 frames of 32x48, latents [1, 2, 4, 6, 16], seed 7, 3.0 s)"
