"""What follows from the settings of a run, and the order of clips made of noise."""

import dataclasses

import numpy as np
import pytest
from small import DIT, VAE, MeshConfig, ModelConfig, noise_clips, recipe, settings

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.files.records import build
from pusa_jax.training.config import RunConfig, SampleConfig
from pusa_jax.training.layout import placement
from pusa_jax.training.objective import ObjectiveConfig


def test_a_run_comes_back_from_its_record():
    run = settings()
    assert build(RunConfig, run.record()) == run


@pytest.mark.parametrize(
    ("dropout", "every", "scale", "needed"),
    [(0.0, 0, 3.0, False), (0.1, 0, 3.0, True), (0.0, 5, 3.0, True), (0.0, 5, 1.0, False)],
)
def test_the_empty_prompt_is_needed_for_dropout_and_for_guided_samples(
    dropout, every, scale, needed
):
    run = settings(
        objective=ObjectiveConfig(text_dropout=dropout),
        samples=SampleConfig(every=every, guidance_scale=scale),
    )
    assert run.needs_no_text == needed


def test_the_network_computes_as_the_settings_say():
    model = ModelConfig(dit=DIT, vae=VAE, dtype="float32", numerics="wan", remat="dots")
    dit = model.networks().dit
    assert (dit.param_dtype, dit.compute_dtype) == ("float32", "float32")
    assert (dit.numerics, dit.remat) == ("wan", "dots")


def test_data_takes_the_devices_that_are_left():
    assert MeshConfig(context=2).shape(8) == {"data": 4, "context": 2, "tensor": 1}
    assert MeshConfig(context=2, tensor=2).shape(8)["data"] == 2
    assert MeshConfig(data=3).shape(8)["data"] == 3
    assert MeshConfig(context=16).shape(8)["data"] == 1


def test_a_batch_is_cut_into_parts_over_the_devices():
    with pytest.raises(ValueError, match=r"data=4 times accumulate=3, got 8"):
        placement(
            recipe(accumulate=3), make_mesh({"data": 4, "context": 2}), 8, (3, 4, 4, 4), (6, 12)
        )


def test_a_pass_over_the_clips_shows_each_once_in_an_order_of_its_own():
    clips = noise_clips(settings())
    batches = clips.batches(10, range(10), 0)
    first, second = (next(batches)["id"] + next(batches)["id"] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(clips.examples(20)["id"])
    assert first != second and next(clips.batches(10, range(10), 1))["id"] != first[:10]


def test_rows_and_positions_do_not_change_the_order():
    clips = noise_clips(settings())
    whole, part = clips.batches(8, range(8), 0), clips.batches(8, (1, 6), 0)
    for _ in range(4):
        batch = next(whole)
        assert next(part)["id"] == [batch["id"][1], batch["id"][6]]
    again = clips.batches(8, range(8), 0)
    again.restore(whole.state())
    ours, theirs = next(again), next(whole)
    assert ours["id"] == theirs["id"] and whole.state() == {"step": 5}
    assert np.array_equal(ours["latents"], theirs["latents"])


@pytest.mark.parametrize(("part", "field"), [("checkpoint", "every"), ("checkpoint", "keep_last"),
                                             ("log", "every")])  # fmt: skip
def test_counts_of_nothing_are_refused(part, field):
    none = dataclasses.replace(getattr(settings(), part), **{field: 0})
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        settings(**{part: none})
