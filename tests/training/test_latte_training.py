"""The step with a network that predicts noise and variance, and knows classes in place of text."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.train_matrix import first_moments
from pusa_jax.data.batches import NoiseClips
from pusa_jax.devices.sharding import AXES, make_mesh
from pusa_jax.diffusion.timesteps import LevelConfig, Sampler, clip_keys
from pusa_jax.diffusion.variance_bound import variance_bound
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.latte.config import ATTENTION_LINEARS, DiTConfig, VAEConfig
from pusa_jax.models.latte.family import LATTE, build_dit
from pusa_jax.progress import PusaWarning
from pusa_jax.testing.compare import assert_close, random_module
from pusa_jax.training.config import (
    DataConfig,
    LogConfig,
    ModelConfig,
    RunConfig,
    SampleConfig,
)
from pusa_jax.training.layout import placement, shardings_of
from pusa_jax.training.loop import check_clips, jit_step, train
from pusa_jax.training.metrics import read_records
from pusa_jax.training.objective import ObjectiveConfig, noised_batch
from pusa_jax.training.samples import tables
from pusa_jax.training.state import OptimizerConfig, fresh_state
from pusa_jax.training.step import Frozen, Recipe, first_state, loss_of, network, train_step
from pusa_jax.training.validation import Validation
from pusa_jax.weights.leaves import leaves_of

DIT = DiTConfig(dim=16, num_heads=2, num_layers=2, num_classes=3, num_frames=3, grid=(2, 2),
                freq_dim=8)  # fmt: skip
VAE = VAEConfig(block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2)
ADAPTER = AdapterConfig(rank=2, alpha=4.0, targets=ATTENTION_LINEARS)
FROZEN = Frozen(base={}, no_text=jnp.full((1, 1, 1), -1.0))
STEP_KEY = jax.random.key(11)


def recipe(sampler: Sampler = "ptss", probability=0.5, dropout=0.0, **optimizer) -> Recipe:
    levels = LevelConfig(sampler=sampler, probability=probability, schedule="linear_betas")
    return Recipe(
        family=LATTE,
        dit=DIT,
        adapter=None,
        objective=ObjectiveConfig(levels=levels, weighting="none", text_dropout=dropout),
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, **optimizer),
        steps=20,
    )


@functools.cache
def leaves():
    drawn = leaves_of(random_module(lambda: build_dit(DIT)))
    return {path: jnp.asarray(leaf) for path, leaf in drawn.items()}


def batch(count=8):
    labels = jnp.arange(count, dtype="float32") % DIT.num_classes
    latents = jax.random.normal(jax.random.key(1), (count, 3, 4, 4, 4))
    return {"latents": latents, "text": labels.reshape(-1, 1, 1)}


def noised(of: Recipe, count=8, step_key=STEP_KEY):
    given, keys = batch(count), clip_keys(step_key, jnp.arange(count))
    return noised_batch(
        keys, given["latents"], given["text"], FROZEN.no_text, of.objective,
        process=LATTE.process, step_key=step_key,
    )  # fmt: skip


@functools.cache
def stepped(parts: int):
    """State and metrics of the first step, after which two more were taken."""
    of = recipe("ptss_per_batch", ema_decay=0.9, accumulate=parts)
    step, state = jax.jit(functools.partial(train_step, of)), first_state(of, leaves(), STEP_KEY)
    state, metrics = step(state, FROZEN, batch())
    for _ in range(2):
        state, _ = step(state, FROZEN, batch())
    return state, metrics


@functools.cache
def learned():
    """A batch, what the network says of it, and what the step makes of that."""
    of, task = recipe(), noised(recipe())

    @jax.jit
    def run(params):
        dit = network(of, params, {})
        prepared = LATTE.prepare(dit, task.text)
        predicted = LATTE.velocity(dit, task.noised, task.levels.timesteps, prepared)
        return predicted, loss_of(of, params, {}, task)[1]

    predicted, details = run(leaves())
    squared = np.square(predicted[..., :4] - task.target).mean(axis=(2, 3, 4))  # [B, F]
    return task, predicted, squared, details


def test_a_clip_learns_the_noise_and_where_its_variance_lies():
    task, predicted, squared, details = learned()
    assert predicted.shape[-1] == 8
    bound = variance_bound(predicted, task.clean, task.noised, task.levels)
    assert (bound.mean(axis=1) > 0.01 * squared.mean(axis=1)).any()
    assert_close(details["losses"], (squared + bound).mean(axis=1), 1e-6)


def test_records_of_the_error_by_level_leave_the_bound_out():
    _, _, squared, details = learned()
    assert_close(details["error_sums"].sum(), squared.sum(), 1e-6)


def test_the_noise_is_what_the_clips_were_noised_with():
    task, share = learned()[0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    kept = share[np.asarray(task.levels.timesteps, int)][..., None, None, None]
    assert np.array_equal(task.clean, batch()["latents"])
    made = np.sqrt(kept) * task.clean + np.sqrt(1 - kept) * task.target
    np.testing.assert_allclose(task.noised, made, atol=1e-5)
    assert abs(float(task.target.std()) - 1) < 0.05


def test_a_dropped_label_is_that_of_no_class():
    task = noised(recipe(dropout=0.5))
    is_dropped = np.asarray(task.text != batch()["text"]).ravel()
    assert 0 < is_dropped.sum() < 8 and (task.text[is_dropped] == -1).all()
    dit = network(recipe(), leaves(), {})
    no_class = leaves()["label_embedding"][DIT.num_classes]
    assert_close(LATTE.prepare(dit, task.text)[is_dropped][0], no_class, 1e-6)


def own(task):
    """Whether the frames of each clip have levels of their own."""
    drawn = np.asarray(task.levels.timesteps)
    return (drawn != drawn[:, :1]).any(axis=1)


def test_the_coin_of_a_batch_is_the_steps():
    keys = [jax.random.fold_in(STEP_KEY, i) for i in range(10)]
    coins = np.asarray([own(noised(recipe("ptss_per_batch"), 4, key)) for key in keys])
    assert (coins == coins[:, :1]).all() and 0 < coins[:, 0].sum() < 10


def test_a_batch_in_parts_has_one_coin():
    (_, whole), (_, parts) = stepped(1), stepped(4)
    assert_close(parts["losses"], whole["losses"], 1e-6)
    assert_close(parts["grad_norm"], whole["grad_norm"], 1e-5)


def test_tables_of_positions_are_no_part_of_what_is_learned():
    state, _ = stepped(1)
    for path in ("pos_embed", "temp_embed"):
        assert np.array_equal(state.params[path], leaves()[path])
        assert_close(state.ema[path], leaves()[path], 1e-6)
    moved = [p for p, leaf in state.params.items() if not np.array_equal(leaf, leaves()[p])]
    assert len(moved) == len(state.params) - 2


def test_a_clip_held_out_has_a_coin_of_its_own():
    """The draws of "ptss_per_batch" would else hang on the clips beside it."""
    clips, mesh = NoiseClips((3, 4, 4, 4), (1, 1), count=6), make_mesh({}, jax.devices()[:1])

    def measured(sampler, size):
        of = recipe(sampler)
        with jax.set_mesh(mesh):
            placed = placement(of, mesh, size, clips.clip_shape, clips.text_shape)
            frozen = Frozen(base={}, no_text=FROZEN.no_text.astype("bfloat16"))
            return Validation(of, clips, placed)(leaves(), frozen)

    assert measured("ptss_per_batch", 3) == pytest.approx(measured("ptss", 2), rel=1e-6)


def test_pictures_are_made_with_the_solver_of_the_process():
    plans = tables(SampleConfig(num_steps=4), recipe(), 3)
    assert plans["t2v"].coefficients is not None
    assert plans["i2v"].timesteps[:, 0].tolist() == [0] * 4


def named(captions, **changes) -> tuple[RunConfig, NoiseClips]:
    """A run with the classes of `DIT`, and clips of which some have such captions."""
    model = ModelConfig(family="latte", dit=DIT, vae=VAE, dtype="float32")
    data = DataConfig(**{"folder": "clips", "height": 8, "width": 8, "num_frames": 3} | changes)
    clips = NoiseClips((3, 4, 4, 4), (1, 1))
    clips.captions = lambda: captions
    return RunConfig(model=model, data=data), clips


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (["0", "3"], "clips has clips of other classes: label 3 is outside the classes"),
        (["a cat"], "the label must be the number of a class, 0 to 2, got 'a cat'."),
    ],
)
def test_captions_that_name_no_class_are_refused(captions, words):
    check_clips(*named(["", "0", "2"]), None)
    with pytest.raises(ValueError, match=words):
        check_clips(*named(captions), None)


def test_labels_that_a_model_without_classes_does_not_look_at_are_a_warning(recwarn):
    run, clips = named(["0", "17"])
    dit = dataclasses.replace(DIT, num_classes=0)
    free = dataclasses.replace(run, model=dataclasses.replace(run.model, dit=dit))
    clips.captions = lambda: [""]
    check_clips(free, clips, None)
    assert not recwarn
    clips.captions = lambda: ["0", "17"]
    with pytest.warns(PusaWarning, match="clips has labels, .*: the model has no classes"):
        check_clips(free, clips, None)


def test_clips_that_the_network_has_no_positions_for_are_refused():
    for changes, words in (
        ({"num_frames": 4}, "4 frames, but this model has positions for 3;"),
        ({"width": 16}, "pixels, height x width, but this model has positions for"),
    ):
        with pytest.raises(ValueError, match=words):
            _ = named((), **changes)[0].clip_shape


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(2, 1, 1), (2, 2, 1), (1, 2, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["full", "lora"])
def test_a_mesh_learns_what_one_device_learns(adapter, sizes):
    alone, cut = (first_step_on(adapter, each) for each in ((1, 1, 1), sizes))
    for what, expected in alone.items():
        assert_close(cut[what], expected, 1e-5)


@functools.cache
def first_step_on(adapter, sizes):
    """Losses, gradient norm and gradients of the first step on a mesh."""
    of = dataclasses.replace(recipe("ptss_per_batch"), adapter=adapter)
    mesh = make_mesh(dict(zip(AXES, sizes, strict=True)), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        placed = placement(of, mesh, 8, (3, 4, 4, 4), (1, 1))
        shapes, rng = placed.state.params, np.random.default_rng(1)
        drawn = {p: 0.3 * rng.standard_normal(leaf.shape, np.float32) for p, leaf in shapes.items()}
        params = jax.device_get(leaves()) if adapter is None else drawn
        state = fresh_state(
            jax.tree.map(jnp.array, params), of.optimizer, of.steps, jax.random.key(11)
        )
        frozen = Frozen(base={} if adapter is None else leaves(), no_text=FROZEN.no_text)
        state = jax.device_put(state, shardings_of(placed.state))
        frozen = jax.device_put(frozen, shardings_of(placed.frozen))
        after, metrics = jit_step(of, placed)(state, frozen, placed.global_batch(batch()))
        moments = first_moments(after.opt_state)
        gradients = np.concatenate([np.ravel(moments[path]) for path in sorted(moments)])
    return {name: np.asarray(metrics[name]) for name in ("losses", "grad_norm")} | {
        "gradients": gradients
    }


@pytest.mark.long
def test_a_run_learns_and_shows_pictures(tmp_path):
    objective = ObjectiveConfig(levels=LevelConfig(sampler="ptss_per_batch"), weighting="none")
    run = RunConfig(
        model=ModelConfig(family="latte", dit=DIT, vae=VAE, dtype="float32", remat="none"),
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=0.99, clip_norm=1.0, clip_from=2),
        data=DataConfig(batch_size=2, height=8, width=8, num_frames=3),
        log=LogConfig(every=1, tensorboard=False),
        samples=SampleConfig(every=3, count=2, num_steps=2, guidance_scale=2.0),
        steps=3,
    )
    clips = NoiseClips(run.clip_shape, run.text_shape, count=4)
    assert train(run, clips, tmp_path, devices=jax.devices()[:1]) == 3
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "i2v-000003.png",
        "t2v-000003.png",
    ]
