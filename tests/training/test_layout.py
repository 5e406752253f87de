"""Where the arrays of a run lie, in which dtype, and which clips a process provides."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from small import DIT, recipe

from pusa_jax.devices.sharding import make_mesh, shardings
from pusa_jax.training.layout import placement, shardings_of

CLIP, TEXT = (3, 4, 4, 4), (DIT.text_len, DIT.text_dim)


def placed(batch_size=8, of=None, **mesh):
    of = recipe(dtype="bfloat16") if of is None else of
    mesh = mesh or {"data": 4, "context": 2}
    return placement(of, make_mesh(mesh), batch_size, CLIP, TEXT)


def test_clips_and_captions_are_cut_over_data_in_bfloat16():
    batch = placed().batch
    assert {name: leaf.shape for name, leaf in batch.items()} == {
        "latents": (8, *CLIP),
        "text": (8, *TEXT),
    }
    assert {leaf.sharding.spec for leaf in batch.values()} == {P("data")}
    assert {leaf.dtype for leaf in batch.values()} == {jnp.dtype(jnp.bfloat16)}


def test_the_empty_prompt_is_everywhere():
    plan = placed()
    no_text = plan.frozen.no_text
    assert (no_text.shape, no_text.dtype) == ((1, *TEXT), jnp.bfloat16)
    assert no_text.sharding == plan.everywhere and plan.everywhere.is_fully_replicated


def test_a_lora_run_holds_its_base_and_a_full_one_nothing_frozen():
    of = recipe(dtype="bfloat16")
    plan = placed(of=of)
    assert {leaf.dtype for leaf in plan.frozen.base.values()} == {jnp.dtype(jnp.bfloat16)}
    assert all("lora" in path for path in plan.state.params)
    whole = placed(of=recipe(adapter=None))
    assert whole.frozen.base == {} and whole.state.params.keys() == plan.frozen.base.keys()


def test_masters_lie_by_the_rules_of_masters_and_the_base_by_those_of_weights():
    of = dataclasses.replace(recipe(), sharding="zero")
    plan = placed(of=of)
    for tree, rules in ((plan.state, of.master_rules), (plan.frozen.base, of.weight_rules)):
        assert shardings_of(tree) == shardings(tree, rules, plan.mesh)
    assert {leaf.dtype for leaf in plan.state.params.values()} == {jnp.dtype(jnp.float32)}
    fsdp = placed(of=recipe())
    assert shardings_of(fsdp.frozen.base) != shardings_of(plan.frozen.base)


def test_rows_are_those_of_the_devices():
    plan = placed()
    grid = plan.mesh.devices.reshape(4, 2)
    assert plan.rows() == tuple(range(8))
    assert plan.rows(grid[1]) == (2, 3)
    assert plan.rows([grid[3, 0], grid[0, 1], grid[0, 0]]) == (0, 1, 6, 7)


def test_the_shares_of_all_processes_are_the_batch():
    plan = placed()
    host = {
        "latents": np.arange(8 * 192, dtype=np.float32).reshape(8, *CLIP) % 251,
        "text": np.ones((8, *TEXT), np.float32),
        "id": ["clip"] * 8,
    }
    batch = plan.global_batch(host)
    assert batch.keys() == {"latents", "text"}
    for name, leaf in batch.items():
        assert np.array_equal(leaf, host[name]) and leaf.sharding == plan.batch[name].sharding
        assert leaf.dtype == jnp.bfloat16


@pytest.mark.parametrize(("size", "parts"), [(6, 1), (0, 1), (-4, 1), (4, 2), (12, 2)])
def test_a_batch_that_no_device_share_makes_up_is_refused(size, parts):
    with pytest.raises(ValueError, match=f"data=4 times accumulate={parts}, got {size}"):
        placed(size, recipe(accumulate=parts))


@pytest.mark.parametrize(("size", "parts"), [(4, 1), (8, 1), (8, 2), (16, 2)])
def test_a_multiple_of_devices_and_parts_is_a_batch(size, parts):
    assert placed(size, recipe(accumulate=parts)).batch["latents"].shape[0] == size


def test_shapes_are_planned_without_arrays():
    leaves = jax.tree.leaves((placed().state, placed().frozen, placed().batch))
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
