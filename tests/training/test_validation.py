"""The loss on held-out clips: the same draws whatever else changes, on clips nobody learns."""

import dataclasses

import jax
import numpy as np
import pytest
from small import MeshConfig, frozen, noise_clips, recipe, settings
from small import base as base_leaves

from pusa_jax.data.batches import NoiseClips
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.training.layout import placement, shardings_of
from pusa_jax.training.loop import train
from pusa_jax.training.metrics import read_records
from pusa_jax.training.step import Frozen, first_state
from pusa_jax.training.validation import Validation, held_out

CLIPS = NoiseClips((3, 4, 4, 4), (6, 12), count=11)


def ids(clips):
    return clips.at(range(len(clips)))["id"]


@pytest.mark.parametrize(("asked", "count"), [("3", 3), ("0.25", 3), ("10", 10), ("0.1", 1)])
def test_held_out_clips_are_not_trained_on(asked, count):
    train_on, held = held_out(CLIPS, asked)
    assert len(held) == count and len(train_on) == 11 - count
    assert sorted(ids(train_on) + ids(held)) == sorted(ids(CLIPS))
    assert ids(held_out(CLIPS, asked)[1]) == ids(held)
    reader = train_on.batches(4, range(4), seed=1)
    seen = {name for _ in range(8) for name in next(reader)["id"]}
    assert seen == set(ids(train_on))


@pytest.mark.parametrize("asked", ["11", "0", "-1", "1.5", "nowhere", "0.99", "nan", "inf"])
def test_what_leaves_nothing_is_refused(asked):
    with pytest.raises(ValueError, match=r"data\.validation must be a folder, a number of clips"):
        held_out(CLIPS, asked)


def measured(sizes, batch_size, parts=1, count=11):
    mesh = make_mesh(sizes, jax.devices()[: int(np.prod(list(sizes.values()) or [1]))])
    what = recipe(accumulate=parts)
    with jax.set_mesh(mesh):
        placed = placement(what, mesh, batch_size, CLIPS.clip_shape, CLIPS.text_shape)
        leaves = base_leaves()
        params = first_state(what, leaves, jax.random.key(0)).params
        params = {  # fresh adapters add nothing
            name: jax.random.normal(jax.random.key(len(name)), leaf.shape)
            for name, leaf in params.items()
        }
        params = jax.device_put(params, shardings_of(placed.state.params))
        given = frozen(leaves)
        given = Frozen(
            base=jax.device_put(given.base, shardings_of(placed.frozen.base)),
            no_text=jax.device_put(given.no_text.astype("bfloat16"), placed.everywhere),
        )
        return Validation(what, CLIPS.part(range(count)), placed)(params, given)


def test_neither_batches_nor_devices_change_the_loss_of_a_clip():
    expected = measured({}, 2)
    assert measured({"data": 2, "context": 2}, 4, parts=2) == pytest.approx(expected, rel=2e-6)
    assert measured({}, 2, count=10) != pytest.approx(expected, rel=1e-4)


def test_a_run_records_it(tmp_path):
    run = settings(steps=3, mesh=MeshConfig())
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, validation_every=2))
    clips, held = held_out(noise_clips(run), "9")
    lines, devices = [], jax.devices()[:1]
    train(run, clips, tmp_path, devices=devices, validation=held, tell=lines.append)
    records = list(read_records(tmp_path / "metrics.jsonl"))
    found = {r["step"]: r["val_loss"] for r in records if "val_loss" in r}
    assert list(found) == [0, 2, 3] and len(set(found.values())) == 3
    assert f"step 2: val_loss {found[2]:.4f} of 9 clips held out." in lines
