"""Pictures of progress: from which clips, noise, levels and weights they come."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from small import VAE, base, frozen, noise_clips, random_adapters, settings

from pusa_jax.convert.folders.export import export_folder
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.diffusion.timesteps import LevelConfig
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.inference.step import sample_at_once
from pusa_jax.media.video import read_image
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import assert_close
from pusa_jax.training.config import ModelConfig, RunConfig, SampleConfig
from pusa_jax.training.layout import placement
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.samples import Renderer, as_trained, load_vae, picture, sample, shown, tables
from pusa_jax.training.state import TrainState
from pusa_jax.training.step import first_state, network
from pusa_jax.weights.leaves import leaves_of

SAMPLES = SampleConfig(every=1, count=2, num_steps=2, guidance_scale=3.0, multiplier=0.25, strip=3)
RUN = settings(samples=SAMPLES)
RECIPE = RUN.recipe
CLIPS = noise_clips(RUN)


@pytest.fixture(scope="module")
def trained():
    """A base and adapters that change what it computes."""
    leaves = base()
    fresh = first_state(RECIPE, leaves, jax.random.key(0)).params
    return frozen(leaves), random_adapters(fresh)


def given():
    examples = CLIPS.examples(2)
    clean = jnp.asarray(examples["latents"], "float32")
    return clean, jax.random.normal(jax.random.key(0), clean.shape), jnp.asarray(examples["text"])


def plans(**levels):
    objective = ObjectiveConfig(levels=LevelConfig(**levels))
    of = dataclasses.replace(RECIPE, objective=objective)
    return tables(dataclasses.replace(SAMPLES, num_steps=30), of, 3)


def test_the_first_frame_is_given_with_its_multiplier_and_from_text_none_is():
    schedule = pusa_schedule(30, 5.0)
    for task, first in (("t2v", 1.0), ("i2v", 0.25)):
        assert np.array_equal(plans()[task].sigmas, schedule[:, None] * np.float32([first, 1, 1]))
    assert list(plans()) == ["t2v", "i2v"]


def test_levels_are_shifted_and_timesteps_rounded_as_in_training_and_never_truncated():
    assert np.array_equal(plans(shift=3.0)["t2v"].levels, pusa_schedule(30, 3.0)[:-1])
    exact = pusa_schedule(30, 5.0)[:-1, None] * np.float32(1000) * np.float32([0.25, 1, 1])
    assert np.array_equal(plans(rounding="none")["i2v"].timesteps, exact)
    rounded = np.asarray(plans()["i2v"].timesteps)
    assert np.array_equal(rounded, rounded.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert not np.array_equal(rounded, exact) and (rounded % 1 > 0).any()


def test_samples_are_guided_from_the_empty_prompt_with_what_is_trained(trained):
    frozen, params = trained
    frozen = dataclasses.replace(frozen, no_text=frozen.no_text + 0.5)
    clean, noise, text = given()
    table, scale = tables(SAMPLES, RECIPE, 3)["i2v"], jnp.float32(3)

    @jax.jit
    def both(params, frozen):
        ours = sample(RECIPE, params, frozen, clean, noise, text, table, scale)
        dit = network(RECIPE, params, frozen.base)
        empty = jnp.concatenate([frozen.no_text] * 2).astype(text.dtype)
        return ours, sample_at_once(WAN21, dit, (text, empty), clean, noise, table, scale)

    ours, expected = both(params, frozen)
    assert_close(ours, expected, 1e-6)
    for other in (both(params, dataclasses.replace(frozen, no_text=frozen.no_text * 0)),
                  both(jax.tree.map(jnp.zeros_like, params), frozen)):  # fmt: skip
        assert np.abs(np.asarray(other[0]) - ours).max() > 1e-3


class Numbered(Autoencoder):
    """Decodes a clip to frames that are their own numbers."""

    def __init__(self):
        pass

    def decode(self, latents, tiles=None, on_part=None):
        assert tiles is None and on_part is None
        frames = np.arange(4 * latents.shape[1] - 3, dtype=np.float32) / 10 - 1
        return np.broadcast_to(
            frames[None, :, None, None, None], (len(latents), len(frames), 2, 2, 3)
        )


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (2, [0, 8]), (3, [0, 4, 8]), (4, [0, 3, 5, 8]), (20, range(9))]
)
def test_frames_are_shown_evenly_from_the_first_to_the_last(count, chosen):
    frames = shown(Numbered(), np.zeros((2, 3, 1, 1, 4), np.float32), count)
    assert np.rint(10 * (frames[1, :, 0, 0, 0] + 1)).tolist() == list(chosen)


def test_a_picture_has_a_row_for_each_clip():
    frames = np.float32([-1, 0, 1, 1, -1, -1]).reshape(2, 3, 1, 1, 1)
    image = picture(np.broadcast_to(frames, (2, 3, 4, 5, 3)).copy())
    assert image.shape == (8, 15, 3)
    assert image[::4, ::5, 0].tolist() == [[0, 127, 255], [255, 0, 0]]


def test_a_random_model_has_the_random_vae_of_its_seed():
    ours, again = (leaves_of(load_vae(run).module) for run in (RUN, RUN))
    other = leaves_of(load_vae(dataclasses.replace(RUN, seed=4)).module)
    assert all(np.array_equal(ours[path], again[path]) for path in ours)
    assert not all(np.array_equal(ours[path], other[path]) for path in ours)
    assert load_vae(RUN).config == VAE


def test_a_folder_gives_its_own_vae_in_float32(tmp_path):
    leaves = {path: np.asarray(leaf) for path, leaf in leaves_of(load_vae(RUN).module).items()}
    export_folder([("vae", VAE, leaves)], tmp_path / "model", family=WAN21, layout="diffusers")
    model = dataclasses.replace(RUN.model, weights=str(tmp_path / "model"))
    loaded = load_vae(dataclasses.replace(RUN, model=model, seed=9))
    found = leaves_of(loaded.module)
    assert loaded.config == VAE and found.keys() == leaves.keys()
    assert all(np.array_equal(found[path], leaf) for path, leaf in leaves.items())


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """Folder, pictures with the average and without one, and the latents behind the first."""
    folder = tmp_path_factory.mktemp("samples")
    mesh = make_mesh({}, jax.devices()[:1])
    placed = placement(RECIPE, mesh, 8, RUN.clip_shape, RUN.text_shape)
    frozen, params = trained
    fresh = jax.tree.map(jnp.zeros_like, params)
    state = TrainState(step=7, params=fresh, opt_state=(), ema=params, key=0)
    with jax.set_mesh(mesh):
        renderer = Renderer(RUN, CLIPS, placed, folder)
        averaged = dict(renderer(7, state, frozen))
        plain = dict(renderer(8, dataclasses.replace(state, ema={}), frozen))
        direct = dict(renderer(9, dataclasses.replace(state, params=params, ema={}), frozen))
    return folder, averaged, plain, direct


def test_pictures_are_of_the_average_where_there_is_one(drawn):
    _, averaged, plain, direct = drawn
    assert list(averaged) == ["t2v", "i2v"]
    for task, image in averaged.items():
        assert np.array_equal(image, direct[task]) and not np.array_equal(image, plain[task])


def test_pictures_have_names_of_task_and_step(drawn):
    folder, averaged, *_ = drawn
    names = {f"{task}-{step:06}.png" for task in ("t2v", "i2v") for step in (7, 8, 9)}
    assert {path.name for path in folder.iterdir()} == names
    for task, image in averaged.items():
        assert np.array_equal(read_image(folder / f"{task}-000007.png"), image)


def test_pictures_are_what_the_first_clips_and_fixed_noise_give(drawn, trained):
    frozen, params = trained
    for task, table in tables(SAMPLES, RECIPE, 3).items():
        step = jax.jit(lambda *given, table=table: sample(RECIPE, *given, table, jnp.float32(3)))
        frames = shown(load_vae(RUN), np.asarray(step(params, frozen, *given())), 3)
        assert frames.shape[:2] == (2, 3)
        difference = picture(frames).astype(int) - drawn[1][task]
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("original", [True, False])
def test_given_frames_are_noised_as_in_training(original):
    run = RunConfig(
        model=ModelConfig(preset="mochi-1-preview"),
        objective=ObjectiveConfig(original_input=original),
    )
    vae = run.model.networks().vae
    given = as_trained(run, np.ones((1, 2, 2, 2, 12), np.float32))
    raw = np.asarray(vae.latent_std) + np.asarray(vae.latent_mean)
    np.testing.assert_allclose(given[0, 0, 0, 0], raw if original else np.ones(12), rtol=1e-6)
