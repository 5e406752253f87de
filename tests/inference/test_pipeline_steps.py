"""What the shipped pipeline hands to its compiled step, and what it makes of the results."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from watched import WatchedPipeline

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.inference import output, tiling
from pusa_jax.inference.output import Stopwatch
from pusa_jax.media.pixels import to_pixels, to_uint8
from pusa_jax.models.family import Tiles
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.models.wan.text import PUSA_NEGATIVE_PROMPT
from pusa_jax.testing.compare import assert_close, random_module

DIT = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16)
VAE = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
SETTINGS = SamplingConfig(height=32, width=48, num_frames=17, num_steps=3, seed=3, tiled=False)
SHAPE = (1, 5, 4, 6, 16)
IMAGES = np.random.default_rng(0).integers(0, 256, (17, 32, 48, 3), np.uint8)
I2V = tasks.image_to_video(IMAGES[0], multipliers=[0.3])


def watched(config=DIT):
    rng = np.random.default_rng(1)
    prompts = ("a ball", "a dog", PUSA_NEGATIVE_PROMPT, "")
    texts = {prompt: rng.standard_normal((8, 16), np.float32) for prompt in prompts}
    return WatchedPipeline(
        random_module(lambda: WanDiT(config, rngs=nnx.Rngs(0))),
        random_module(lambda: vae.WanVAE(VAE, rngs=nnx.Rngs(0))),
        texts | {"nothing": np.full((8, 16), np.nan, np.float32)},
    )


@pytest.fixture(scope="module")
def pipe():
    return watched()


@pytest.fixture(scope="module")
def bfloat16_pipe():
    halves = {"param_dtype": "bfloat16", "compute_dtype": "bfloat16"}
    return watched(dataclasses.replace(DIT, **halves))


def changed(**settings):
    return dataclasses.replace(SETTINGS, **settings)


def exact(settings=SETTINGS, first=1.0):
    """1000 * sigma of every step and frame; the first frame's multiplied."""
    multipliers = np.asarray([first, 1, 1, 1, 1], np.float32)
    return 1000 * pusa_schedule(settings.num_steps, settings.shift)[:-1, None] * multipliers


def test_noise_that_is_given_is_where_a_run_starts(pipe):
    noise = np.random.default_rng(2).standard_normal(SHAPE, np.float32)
    pipe("a ball", settings=SETTINGS, noise=jnp.asarray(noise))
    assert np.array_equal(pipe.steps[0].before, noise)


def test_noise_is_the_seeds_where_none_is_given(pipe):
    pipe("a ball", settings=changed(seed=7))
    assert np.array_equal(pipe.steps[0].before, jax.random.normal(jax.random.key(7), SHAPE))


def test_text_to_video_is_told_fractions(pipe):
    pipe("a ball", settings=SETTINGS)
    np.testing.assert_allclose(pipe.told(), exact(), rtol=1e-6)
    assert (pipe.told() % 1 > 0).any()


def test_with_given_frames_whole_numbers_are_told(pipe):
    pipe("a ball", conditions=I2V, settings=SETTINGS)
    assert np.array_equal(pipe.told(), np.trunc(exact(first=0.3).astype(np.float32)))


@pytest.mark.parametrize("conditions", [[], I2V], ids=["t2v", "i2v"])
def test_timesteps_unlike_the_original_are_1000_sigma(pipe, bfloat16_pipe, conditions):
    for each in (pipe, bfloat16_pipe):
        each("a ball", conditions=conditions, settings=changed(original_timesteps=False))
        np.testing.assert_allclose(each.told(), exact(first=0.3 if conditions else 1), rtol=1e-6)


def test_a_bfloat16_network_is_told_bfloat16_numbers(bfloat16_pipe):
    bfloat16_pipe("a ball", settings=SETTINGS)
    assert np.array_equal(bfloat16_pipe.told(), exact().astype(ml_dtypes.bfloat16))
    assert np.array_equal(bfloat16_pipe.told()[:, 0], [1000, 908, 716])
    sizes = np.diff(pusa_schedule(SETTINGS.num_steps, SETTINGS.shift))  # never rounded
    np.testing.assert_allclose(bfloat16_pipe.step_sizes()[:, 0], sizes, rtol=1e-6)


def test_steps_and_shift_decide_the_schedule(pipe):
    settings = changed(num_steps=2, shift=2.0)
    pipe("a ball", settings=settings)
    np.testing.assert_allclose(pipe.told()[:, 0], [1000, 1000 * 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(pipe.step_sizes()[:, 0], [-1 / 3, -2 / 3], rtol=1e-6)


def test_every_step_goes_on_from_the_one_before(pipe):
    output = pipe("a ball", settings=SETTINGS)
    assert len(pipe.steps) == 3
    for before, after in zip(pipe.steps, pipe.steps[1:], strict=False):
        assert np.array_equal(before.after, after.before)
    assert np.array_equal(output.latents, pipe.steps[-1].after)


def test_the_negative_prompt_is_asked_only_with_guidance(pipe):
    settings = changed(guidance_scale=1.0, num_steps=1)
    output = pipe("a ball", negative_prompt="nothing", settings=settings)
    assert np.isfinite(output.latents).all()
    with pytest.raises(ValueError, match="not finite"):
        pipe("a ball", negative_prompt="nothing", settings=changed(num_steps=1))
    assert not np.isfinite(pipe.steps[0].after).any()


def test_guidance_goes_from_the_negative_prompt_past_the_prompt(pipe):
    def velocity(scale, prompt="a ball"):
        settings = changed(num_steps=1, guidance_scale=scale)
        final = pipe(prompt, negative_prompt="a dog", settings=settings).latents
        assert [step.scale for step in pipe.steps] == [scale]
        return pipe.steps[0].before - final

    ball, dog = velocity(1.0), velocity(1.0, "a dog")
    assert not np.allclose(ball, dog, atol=1e-2)
    assert_close(velocity(3.0), dog + 3 * (ball - dog), 1e-5)


def test_the_negative_prompt_is_pusas_by_default(pipe):
    told, default = (
        pipe("a ball", settings=SETTINGS, **negative)
        for negative in ({"negative_prompt": PUSA_NEGATIVE_PROMPT}, {})
    )
    assert told.latents_sha256() == default.latents_sha256()
    assert default.settings == told.settings


def test_an_empty_negative_prompt_is_taken_as_it_is(pipe):
    empty, default = (
        pipe("a ball", settings=changed(num_steps=1), negative_prompt=prompt)
        for prompt in ("", None)
    )
    assert empty.settings["negative_prompt"] == ""
    assert empty.latents_sha256() != default.latents_sha256()


def test_prompts_met_before_are_not_encoded_again():
    pipe, asked = watched(), []
    encoder = pipe._text_encoder()
    pipe._text_encoder = lambda: asked.append(1) or encoder
    for prompts in (("a ball", "a dog"), ("a dog", "a ball"), ("a dog", "a dog")):
        features = pipe.encode_prompts(prompts)
        rows = [pipe._tokenizer.prompts.index(prompt) for prompt in prompts]
        for row, given in zip(rows, features, strict=True):
            assert np.array_equal(given[0], encoder.features[...][row])
    assert len(asked) == 1


def test_an_output_says_what_made_it(pipe):
    output = pipe("a ball", negative_prompt="a dog", settings=SETTINGS)
    assert output.seed == 3
    prompts = {"prompt": "a ball", "negative_prompt": "a dog"}
    assert output.settings == dataclasses.asdict(SETTINGS) | prompts
    assert list(output.seconds) == ["text", "encode", "compile", "denoise", "decode"]
    assert output.latents_sha256() == hashlib.sha256(output.latents.tobytes()).hexdigest()
    assert np.array_equal(output.frames, to_uint8(pipe.decode(output.latents, False)))


def test_chunk_by_chunk_the_vae_gives_what_it_gives_at_once(pipe):
    pixels, latents = to_pixels(IMAGES[:9])[None], np.full((1, 3, 4, 6, 16), 2, np.float32)
    latents += np.random.default_rng(3).standard_normal(latents.shape, np.float32)
    whole = jax.jit(vae.encode)(pipe.autoencoder.module, pixels)
    assert_close(pipe.encode(pixels, False), whole, 1e-5)
    decoded = np.asarray(jax.jit(vae.decode)(pipe.autoencoder.module, 3 * latents))
    assert np.abs(decoded).max() > 1
    assert_close(pipe.decode(3 * latents, False), np.clip(decoded[0], -1, 1), 1e-5)


def test_given_frames_come_from_their_place_in_the_clip_and_go_to_theirs(pipe):
    conditions = tasks.transition(IMAGES, IMAGES[::-1], 5, 4, at=(1, 3), multipliers=(0.2, 0.6))
    given = pipe.encode_conditions(conditions, SETTINGS)
    assert [(c.index, c.multiplier) for c in given] == [(1, 0.2), (3, 0.6)]
    for condition, frame in zip(conditions, given, strict=True):
        (take,) = condition.take
        encoded = pipe.encode(to_pixels(condition.frames)[None], False)
        assert np.array_equal(frame.latents, encoded[:, take : take + 1])
    extension = tasks.extend(IMAGES, 4, at=(0, 2), multipliers=(0.1, 0.4))
    given = pipe.encode_conditions(extension, SETTINGS)
    assert [(c.index, c.multiplier) for c in given] == [(0, 0.1), (2, 0.4)]


def test_latents_of_an_earlier_run_are_given_as_they_are(pipe):
    first = pipe("a ball", settings=SETTINGS).latents
    kept = FrameCondition(index=1, latents=jnp.asarray(first[:, 4:]), multiplier=0.0)
    both = [*tasks.image_to_video(IMAGES[0]), kept]
    second = pipe("a ball", conditions=both, settings=SETTINGS)
    assert np.array_equal(second.latents[:, 1], first[:, 4])
    assert not np.array_equal(second.latents[:, 2], first[:, 4])


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (5, (1, 1, 4, 6, 16), "position 5 is outside"),
        (0, (1, 1, 4, 6, 16), "position 0 is given twice"),
        (1, (1, 1, 1, 1, 16), r"must be \(1, 1, 4, 6, 16\), one frame of the clip, got \(1, 1, 1"),
    ],
)
def test_given_latents_that_do_not_fit_are_refused(pipe, index, shape, message):
    latents = FrameCondition(index=index, latents=jnp.zeros(shape), multiplier=0.2)
    with pytest.raises(ValueError, match=message):
        pipe("a ball", conditions=[*I2V, latents], settings=SETTINGS)


def test_conditions_are_refused_before_any_work():
    pipe = watched()
    pipe._text_encoder = pytest.fail
    with pytest.raises(ValueError, match="position 0 is given twice"):
        pipe("a ball", conditions=[*I2V, *I2V], settings=SETTINGS)


def stages(pipe, settings, negative_prompt="a dog"):
    seen = []
    pipe(
        "a ball",
        negative_prompt=negative_prompt,
        conditions=tasks.start_end(IMAGES[0], IMAGES[1], 5),
        settings=settings,
        on_progress=lambda *report: seen.append(report),
    )
    return seen


def test_every_stage_is_reported_from_none_to_all():
    reports = stages(watched(), changed(num_steps=2))
    counts = {"text": 2, "encode": 2, "compile": 1, "denoise": 2}
    expected = [(stage, i, n) for stage, n in counts.items() for i in range(n + 1)]
    decoding = [("decode", 0, 1), *(("decode", i, 5) for i in range(2, 6))]
    assert reports == expected + decoding


def test_a_prompt_given_twice_is_encoded_once():
    reports = stages(watched(), changed(num_steps=1), negative_prompt="a ball")
    assert reports[:2] == [("text", 0, 1), ("text", 1, 1)]


def test_velocities_are_float32_whatever_the_network_computes_in(bfloat16_pipe):
    latents, told = jnp.zeros(SHAPE), jnp.zeros(SHAPE[:2])
    text = jnp.zeros((1, 8, 16), jnp.bfloat16)

    def velocity(dit):
        return WAN21.velocity(dit, latents, told, WAN21.prepare(dit, text))

    assert jax.eval_shape(velocity, bfloat16_pipe.experts[0].dit).dtype == jnp.float32


def test_a_tiled_run_encodes_and_decodes_in_tiles(pipe, monkeypatch):
    """Tiles of 4 x 4 cells every 3 x 2 cells; the clip has 4 x 6, two tiles side by side."""
    geometry = Tiles(size=(4, 4), stride=(3, 2))
    codec = dataclasses.replace(WAN21.codec, sampling_tiles=geometry)
    monkeypatch.setattr(pipe, "family", dataclasses.replace(WAN21, codec=codec))
    kept = tasks.image_to_video(IMAGES[0], multipliers=[0.0])
    whole, tiled = (
        pipe("a ball", conditions=kept, settings=changed(tiled=tiled)) for tiled in (False, True)
    )
    pixels, runner = to_pixels(IMAGES[:1])[None], pipe.autoencoder
    encoded = tiling.encode_tiled(runner.encode, pixels, 8, geometry)
    decoded = tiling.decode_tiled(runner._decode, tiled.latents, 8, geometry)
    assert np.array_equal(tiled.latents[:, :1], encoded)
    assert np.array_equal(tiled.frames, to_uint8(decoded[0]))
    assert not np.array_equal(whole.latents[:, :1], encoded)
    assert [r for r in stages(pipe, changed(tiled=True)) if r[0] == "decode"] == [
        ("decode", 0, 1),
        ("decode", 1, 2),
        ("decode", 2, 2),
    ]


def test_tiles_are_those_of_pusas_pipelines():
    """tile_size=(30, 52), tile_stride=(15, 26) in the signatures of PusaV1/diffsynth/pipelines."""
    assert WAN21.codec.sampling_tiles == Tiles(size=(30, 52), stride=(15, 26))


def test_settings_are_those_of_pusas_scripts_by_default():
    assert dataclasses.asdict(SamplingConfig()) == {
        "height": 720,
        "width": 1280,
        "num_frames": 81,
        "fps": 16,
        "num_steps": 30,
        "guidance_scale": 3.0,
        "low_guidance_scale": None,
        "guidance_schedule": None,
        "guidance_until": 1.0,
        "rows": "even",
        "teacache": None,
        "boundary": None,
        "solver": "euler",
        "shift": 5.0,
        "seed": 0,
        "original_timesteps": True,
        "original_conditions": True,
        "levels": None,
        "tiled": True,
    }


@pytest.mark.parametrize(
    "bad",
    [{"seed": -1}, {"seed": 2**64}, {"guidance_scale": np.nan}, {"guidance_scale": np.inf}],
)
def test_seeds_and_scales_that_cannot_be_kept_are_refused(bad):
    with pytest.raises(ValueError, match=f"got {next(iter(bad.values()))}"):
        SamplingConfig(**bad)
    assert SamplingConfig(seed=2**64 - 1, guidance_scale=0.0).seed == 2**64 - 1


def test_a_stopwatch_adds_up_the_laps_of_a_stage(monkeypatch):
    times = iter([10.0, 11.5, 12.0, 14.25])
    monkeypatch.setattr(output.time, "perf_counter", lambda: next(times))
    watch = Stopwatch()
    for stage in ("text", "encode", "text"):
        watch.lap(stage)
    assert watch.seconds == {"text": 3.75, "encode": 0.5}


def test_one_device_is_the_mesh_by_default(pipe):
    assert pipe.mesh.size == 1 < jax.local_device_count()
