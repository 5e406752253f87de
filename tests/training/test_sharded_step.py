"""The training step on meshes: loss and gradients of one device, arrays where they belong."""

import jax
import numpy as np
import pytest
from small import base, batch, frozen, random_adapters, recipe

from pusa_jax.models.wan import rules
from pusa_jax.sharding import make_mesh, unused_rules
from pusa_jax.testing import assert_close
from pusa_jax.training.loop import jit_step
from pusa_jax.training.placement import placement, shardings_of
from pusa_jax.training.state import fresh_state

MESHES = [
    {"data": 2, "context": 2, "tensor": 2},
    *(
        pytest.param(mesh, marks=pytest.mark.slow)
        for mesh in ({"data": 8}, {"data": 4, "context": 2}, {"context": 8}, {"tensor": 4})
    ),
]


def one_step(adapter, mesh_shape, count=8):
    """Gradients (ten times the first moment) and metrics of the first step."""
    of = recipe(adapter)
    devices = jax.devices()[: int(np.prod(list(mesh_shape.values())))]
    mesh = make_mesh(mesh_shape, devices)
    given = batch(count)
    shapes = given["latents"].shape[1:], given["text"].shape[1:]
    with jax.set_mesh(mesh):
        placed = placement(of, mesh, count, *shapes)
        leaves = base()
        params = leaves if adapter is None else random_adapters(placed.state.params)
        state = fresh_state(params, of.optimizer, of.steps, jax.random.key(1))
        state = jax.device_put(state, shardings_of(placed.state))
        fixed = frozen({} if adapter is None else leaves)
        fixed = jax.device_put(fixed, shardings_of(placed.frozen))
        given = placed.global_batch({k: np.asarray(v) for k, v in given.items()})
        new, metrics = jit_step(of, placed)(state, fixed, given)
    return placed, state, fixed, new, metrics


@pytest.fixture(scope="module", params=["lora", "full"])
def single(request):
    from small import LORA

    adapter = LORA if request.param == "lora" else None
    return adapter, *one_step(adapter, {"data": 1})[-2:]


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_a_mesh_changes_neither_loss_nor_gradients(single, mesh_shape):
    adapter, alone, expected = single
    placed, old, fixed, new, metrics = one_step(adapter, mesh_shape)
    for name in ("loss", "losses", "grad_norm", "error_sums"):
        assert_close(metrics[name], expected[name], 1e-5, name)
    moments = [
        np.concatenate([np.ravel(m) for m in s.opt_state[0].mu.values()]) for s in (new, alone)
    ]
    assert_close(*moments, 1e-5, "gradients")
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, new, shardings_of(placed.state)))
    assert all(leaf.is_deleted() for leaf in old.params.values())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(fixed))


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
