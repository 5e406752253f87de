"""What is kept for the backward pass: where attention's results are, it is not computed again."""

import jax
import jax.numpy as jnp
import pytest

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.models.attention import kernels
from pusa_jax.models.attention.attention import self_attention
from pusa_jax.models.remat import rematerialised


def loops_of_gradient(remat, heads):
    """Loops in the gradient of two blocks of attention, whose kernel is made of loops."""
    x = jnp.ones((1, 2, 4, heads, 4))

    def block(x, weight):
        y = x * weight
        return x + jnp.tanh(self_attention(y, y, y)), None

    def loss(weights):
        return jax.lax.scan(rematerialised(block, remat), x, weights)[0].sum()

    return str(jax.make_jaxpr(jax.grad(loss))(jnp.ones(2))).count(" scan[")


@pytest.mark.parametrize(
    ("mesh_shape", "heads"),
    [({"data": 1}, 2), ({"context": 4}, 4), ({"context": 4}, 3), ({"context": 4}, 2)],
    ids=["one device", "Ulysses", "ring", "both"],
)
def test_attention_whose_results_are_kept_is_not_computed_again(monkeypatch, mesh_shape, heads):
    monkeypatch.setattr(kernels, "PLAIN_SCORES_LIMIT", 0)
    count = max(mesh_shape.values())
    with jax.set_mesh(make_mesh(mesh_shape, jax.devices()[:count])):
        loops = {r: loops_of_gradient(r, heads) for r in ("none", "dots", "attention", "full")}
    assert loops["none"] == loops["dots"] == loops["attention"] < loops["full"]
