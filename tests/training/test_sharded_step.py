"""The training step on meshes: losses and gradients of one device, arrays where they belong."""

import dataclasses
import functools

import jax
import pytest
from small import recipe

from experiments import train_matrix
from pusa_jax.devices.sharding import make_mesh, unused_rules
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.wan import sharding as rules
from pusa_jax.training.layout import placement, shardings_of
from pusa_jax.training.step import train_step

pytestmark = pytest.mark.long

CASES = [
    ("lora", (2, 2, 2), 1, "zero"),
    ("full", (2, 2, 2), 2, "fsdp"),
    *(
        pytest.param(trained, sizes, parts, "fsdp", marks=pytest.mark.slow)
        for trained in train_matrix.ADAPTERS
        for sizes, parts in (((8, 1, 1), 2), ((4, 2, 1), 1), ((1, 8, 1), 1), ((1, 1, 4), 4))
    ),
]
"""What is trained, sizes of data, context and tensor, parts a batch is computed in, sharding."""


@pytest.mark.parametrize(("trained", "sizes", "parts", "sharding"), CASES, ids=str)
def test_a_mesh_changes_neither_losses_nor_gradients(trained, sizes, parts, sharding):
    step = train_matrix.first_step(trained, sizes, parts, sharding)
    for what, error in train_matrix.errors(step, trained).items():
        assert error <= train_matrix.LIMIT, what
    placed = shardings_of(step.placed.state)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, step.after, placed))
    assert all(leaf.is_deleted() for leaf in step.before.params.values())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(step.frozen))


@pytest.mark.parametrize(
    ("mesh_shape", "mine", "rows"),
    [
        ({"data": 8}, [4, 5, 0, 1], (0, 1, 4, 5)),  # two rows of chips of a slice: a gap
        ({"data": 4, "context": 2}, [0, 1, 2, 3], (0, 1, 2, 3)),
        ({"context": 8}, [3], tuple(range(8))),
    ],
)
def test_a_process_provides_the_clips_of_its_devices(mesh_shape, mine, rows):
    placed = placement(recipe(), make_mesh(mesh_shape), 8, (3, 4, 4, 4), (6, 12))
    devices = placed.mesh.devices.flatten()
    assert placed.rows([devices[i] for i in mine]) == rows
    assert placed.rows() == tuple(range(8))


def test_moments_lie_where_their_weights_do():
    placed = placement(recipe(None), make_mesh({"data": 8}), 8, (3, 4, 4, 4), (6, 12))
    state = placed.state
    cut = 0
    for path, leaf in state.params.items():
        assert leaf.sharding == state.opt_state[0].mu[path].sharding
        assert leaf.sharding == state.opt_state[0].nu[path].sharding
        cut += leaf.sharding.spec != jax.P()
    assert cut >= 12
    lora = placement(recipe(), make_mesh({"data": 8}), 8, (3, 4, 4, 4), (6, 12))
    assert unused_rules((lora.state, lora.frozen), rules.DIT) == []


def test_zero_cuts_what_is_trained_and_leaves_the_base_whole():
    of = dataclasses.replace(recipe(), sharding="zero")
    mesh = make_mesh({"data": 2, "context": 2, "tensor": 2})
    zero = placement(of, mesh, 8, (3, 4, 4, 4), (6, 12))
    kernel = zero.frozen.base["blocks/self_attn/q/kernel"].sharding.spec
    assert kernel == jax.P(None, None, "tensor")
    fsdp = placement(recipe(), mesh, 8, (3, 4, 4, 4), (6, 12))
    assert shardings_of(zero.state) == shardings_of(fsdp.state)


def test_gradients_are_cut_even_where_neither_weights_nor_moments_are():
    of = recipe(AdapterConfig(rank=8, targets="blocks/ffn/up"))
    of = dataclasses.replace(of, sharding="zero")
    mesh = make_mesh({"data": 8})
    with jax.set_mesh(mesh):
        placed = placement(of, mesh, 8, (3, 4, 4, 4), (6, 12))
        on_all = jax.tree.map(lambda leaf: leaf.update(sharding=placed.everywhere), placed.state)
        step = jax.jit(functools.partial(train_step, of))
        after = step.lower(on_all, placed.frozen, placed.batch).compile().output_shardings[0]
    for path, moment in after.opt_state[0].mu.items():  # lies where its gradient does
        wanted = placed.state.params[path].sharding
        assert wanted.spec != jax.P() and moment.is_equivalent_to(wanted, 3), path
