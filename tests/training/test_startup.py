"""Where a run begins, and which checkpoints and weights it refuses to begin from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import DIT, CheckpointConfig, ModelConfig, settings

from pusa_jax.convert.folders.export import export_folder
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.files.fingerprints import of_placed_weights as fingerprint
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.wan.family import WAN21
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.layout import placement
from pusa_jax.training.startup import begin

SMALL = dataclasses.replace(DIT, num_layers=1)
RUN = settings(
    model=dataclasses.replace(settings().model, dit=SMALL),
    adapter=AdapterConfig(rank=2, alpha=4.0, targets="blocks/ffn/up"),
)
NO_TEXT = np.full((6, 12), 3, np.float32)


@functools.cache
def placed(recipe):
    return placement(recipe, make_mesh({}, jax.devices()[:1]), 8, RUN.clip_shape, RUN.text_shape)


def start(run, checkpoints):
    return begin(run, placed(run.recipe), checkpoints, NO_TEXT)


def opened(workdir):
    return RunCheckpoints(workdir / "checkpoints", keep_last=2)


def save(workdir, run, begun, *steps, **info):
    checkpoints, said = opened(workdir), {**begun.info, "config": run.record(), **info}
    for step in steps:
        state = dataclasses.replace(begun.state, step=jnp.int32(step))
        checkpoints.save(step, state, said | {"step": step})
    checkpoints.close()


def resumed(workdir, run=RUN, **changes):
    return dataclasses.replace(run, checkpoint=CheckpointConfig(resume=str(workdir)), **changes)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return start(RUN, opened(tmp_path_factory.mktemp("fresh")))


@pytest.fixture(scope="module")
def saved(fresh, tmp_path_factory):
    """Workdir of a run with checkpoints of steps 2 and 10."""
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, RUN, fresh, 2, 10)
    return workdir


def test_a_new_run_begins_at_zero_and_notes_what_its_base_is(fresh):
    assert (fresh.step, int(fresh.state.step), fresh.source) == (0, 0, "random")
    assert fresh.info == {"base_fingerprint": int(fingerprint(fresh.frozen.base))}
    assert fresh.info["base_fingerprint"] != 0
    assert fresh.frozen.no_text.shape == (1, 6, 12) and (fresh.frozen.no_text == 3).all()
    assert set(fresh.state.params) == {f"blocks/ffn/up/lora_{x}" for x in "ab"}


def test_the_seed_of_a_run_draws_its_adapters(fresh, tmp_path):
    other = start(dataclasses.replace(RUN, seed=RUN.seed + 1), opened(tmp_path))
    name = "blocks/ffn/up/lora_a"
    assert not np.array_equal(fresh.state.params[name], other.state.params[name])


def test_a_run_goes_on_from_its_own_newest_checkpoint(saved, fresh, tmp_path):
    longer = dataclasses.replace(resumed(tmp_path / "none"), steps=99)  # its own come first
    again = start(longer, opened(saved))
    assert (again.step, int(again.state.step)) == (10, 10)
    assert again.source == "own checkpoint of step 10"
    assert again.info["base_fingerprint"] == fresh.info["base_fingerprint"]


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"objective": dataclasses.replace(RUN.objective, text_dropout=0.5)}]
)
def test_settings_that_shape_a_run_may_not_change_within_it(saved, change):
    with pytest.raises(ValueError, match="this workdir's checkpoint is of another config"):
        start(dataclasses.replace(RUN, **change), opened(saved))


def test_adapters_are_not_continued_on_another_base(saved, tmp_path):
    other = resumed(saved, seed=RUN.seed + 1)  # which draws another base
    message = r"the weights in random are not those that checkpoint of step 10 in .* trained on"
    with pytest.raises(ValueError, match=message):
        start(other, opened(tmp_path))


def test_another_run_is_taken_over_at_its_newest_step(saved, fresh, tmp_path):
    changed = dataclasses.replace(RUN.optimizer, learning_rate=1.0)
    begun = start(resumed(saved, optimizer=changed), opened(tmp_path))
    assert (begun.step, int(begun.state.step)) == (10, 10)
    assert begun.source == f"checkpoint of step 10 in {saved / 'checkpoints'}"
    for path, leaf in fresh.state.params.items():
        assert np.array_equal(begun.state.params[path], leaf)


def test_another_run_of_other_shapes_is_refused(saved, tmp_path):
    wider = dataclasses.replace(RUN.adapter, rank=3)
    with pytest.raises(ValueError, match=r"the checkpoint in .*adapter\.rank is 2 there and 3"):
        start(resumed(saved, adapter=wider), opened(tmp_path))


def test_a_run_without_checkpoints_cannot_be_taken_over(tmp_path):
    (tmp_path / "bare" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="bare/checkpoints holds no complete checkpoint"):
        start(resumed(tmp_path / "bare"), opened(tmp_path / "new"))


@pytest.fixture(scope="module")
def published(fresh, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "model"
    export_folder([("dit", SMALL, fresh.frozen.base)], folder, family=WAN21, layout="diffusers")
    return folder


def test_a_base_is_the_folders_in_the_dtype_that_is_computed_in(published, fresh, tmp_path):
    model = ModelConfig(dit=SMALL, vae=RUN.model.vae, weights=str(published), dtype="bfloat16")
    begun = start(dataclasses.replace(RUN, model=model), opened(tmp_path))
    assert begun.source == str(published)
    for path, leaf in fresh.frozen.base.items():
        assert begun.frozen.base[path].dtype == jnp.bfloat16
        assert np.array_equal(begun.frozen.base[path], leaf.astype(jnp.bfloat16))


def test_all_weights_are_trained_from_the_folders_in_float32(published, fresh, tmp_path):
    model = ModelConfig(dit=SMALL, vae=RUN.model.vae, weights=str(published), dtype="bfloat16")
    full = dataclasses.replace(RUN, model=model, adapter=None)
    begun = start(full, opened(tmp_path))
    assert begun.frozen.base == {} and begun.info == {"base_fingerprint": 0}
    for path, leaf in fresh.frozen.base.items():
        assert begun.state.params[path].dtype == np.float32
        assert np.array_equal(begun.state.params[path], leaf)


def test_a_folder_with_another_model_is_refused(published, tmp_path):
    model = dataclasses.replace(
        RUN.model, weights=str(published), dit=dataclasses.replace(SMALL, ffn_dim=64)
    )
    with pytest.raises(ValueError, match=r"another model than .*ffn_dim is 48 there and 64 here"):
        start(dataclasses.replace(RUN, model=model), opened(tmp_path))


def test_a_fingerprint_is_of_every_bit_and_of_no_mesh():
    rng = np.random.default_rng(0)
    leaves = {"a": rng.standard_normal((8, 4)), "b": rng.standard_normal((8, 4))}
    for dtype in ("float32", "bfloat16"):
        whole = {path: jnp.asarray(leaf, dtype) for path, leaf in leaves.items()}
        print_of = int(fingerprint(whole))
        mesh = make_mesh({"data": 8})
        cut = jax.device_put(whole, jax.NamedSharding(mesh, jax.P("data")))
        assert int(jax.jit(fingerprint)(cut)) == print_of
        assert int(fingerprint(dict(reversed(whole.items())))) == print_of
        assert int(fingerprint({"a": whole["b"], "b": whole["a"]})) != print_of
        kind = f"uint{8 * whole['a'].dtype.itemsize}"
        bits = np.array(whole["b"]).view(kind)
        bits[7, 3] ^= 1
        assert int(fingerprint(whole | {"b": jnp.asarray(bits.view(dtype))})) != print_of
