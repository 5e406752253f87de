import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import sharding_matrix
from pusa_jax.devices.sharding import (
    SMALL,
    constrain,
    leaf_paths,
    make_mesh,
    parse_mesh,
    shardings,
    unused_rules,
)
from pusa_jax.diffusion.guidance import guided, guided_together
from pusa_jax.models.families import PRESETS, preset
from pusa_jax.models.t5 import T5Encoder
from pusa_jax.models.wan import sharding
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.testing.compare import assert_close
from pusa_jax.weights.leaves import leaves_of

P = jax.P

MESHES = [((2, 4, 1), 12), ((1, 8, 1), 12), ((1, 2, 4), 12), ((2, 2, 2), 40)]
"""Sizes of data, context and tensor, and heads: a part of `experiments.sharding_matrix`."""


@pytest.mark.parametrize(("sizes", "heads"), MESHES)
def test_forward_on_a_mesh_equals_one_device(sizes, heads):
    latents = (2, 3, 6, 10)
    expected = sharding_matrix.forward(
        sharding_matrix.build(heads), *sharding_matrix.inputs(latents)
    )
    mesh = make_mesh(dict(zip(("data", "context", "tensor"), sizes, strict=True)))
    assert_close(sharding_matrix.on_mesh(mesh, heads, latents), expected, 1e-5)


def test_the_matrix_has_what_it_must():
    cases = list(sharding_matrix.cases())
    assert len({case.sizes for case in cases}) >= 16
    schemes = {case.scheme for case in cases}
    assert {"Ulysses 4", "ring 4", "Ulysses 4 x ring 2"} <= schemes


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("shape", ["context=8", "data=2,context=4", "data=4,context=4,tensor=4"])
def test_published_weights_are_spread_over_all_chips(name, shape):
    sizes = parse_mesh(shape)
    mesh = abstract_mesh(sizes)
    published = preset(name)
    network = published.family.networks["dit"]
    dit = nnx.eval_shape(lambda: network.build(published.dit, rngs=nnx.Rngs(0)))
    whole, kept = 0, 0
    placed = dict(leaf_paths(shardings(dit, network.sharding, mesh)))
    for path, leaf in leaf_paths(dit):
        whole += leaf.size
        kept += np.prod(placed[path].shard_shape(leaf.shape))
        assert not path.startswith("blocks/") or placed[path].spec[:1] in ((), (None,))
    assert kept < 1.01 * whole / mesh.size + 3e7


def abstract_mesh(sizes):
    shape = tuple(sizes.get(axis, 1) for axis in ("data", "context", "tensor"))
    return jax.sharding.AbstractMesh(shape, ("data", "context", "tensor"))


def test_specs_of_parameters_and_of_what_came_out():
    mesh = make_mesh({"data": 2, "context": 2, "tensor": 2})
    dit = sharding_matrix.build(12)
    placed = leaves_of(jax.device_put(dit, shardings(dit, sharding.DIT, mesh)))
    both = ("data", "context")
    assert placed["blocks/self_attn/q/kernel"].sharding.spec == P(None, both, "tensor")
    assert placed["blocks/cross_attn/o/kernel"].sharding.spec == P(None, "tensor", both)
    assert placed["blocks/ffn/down/kernel"].sharding.spec == P(None, "tensor", both)
    assert placed["time_projection/kernel"].sharding.spec == P(both)
    assert placed["head/linear/kernel"].sharding.spec == P()
    with jax.set_mesh(mesh):
        key, _ = jax.jit(WanDiT.project_text)(dit, jnp.ones((2, 8, 24)))
    assert key.sharding.spec == P(None, "data", "context", "tensor")


def test_optimizer_state_and_averages_lie_like_their_parameters():
    dit = nnx.eval_shape(lambda: sharding_matrix.build(12))
    params = nnx.state(dit, nnx.Param)
    mesh = make_mesh({"data": 2, "context": 4})
    state = {"ema": params, "opt": jax.eval_shape(optax.adamw(1e-3).init, params)}
    placed = dict(leaf_paths(shardings(state, sharding.DIT, mesh)))
    for path, where in leaf_paths(shardings(params, sharding.DIT, mesh)):
        for prefix in ("ema", "opt/0/mu", "opt/0/nu"):
            assert placed[f"{prefix}/{path}"] == where
    assert placed["opt/0/count"].spec == P()


def test_no_rule_is_unused():
    tiny = dataclasses.replace(
        preset("wan2.1-t2v-1.3b"),
        dit=sharding_matrix.build(12).config,
    )
    dit = dict(leaf_paths(nnx.eval_shape(lambda: WanDiT(tiny.dit, rngs=nnx.Rngs(0)))))
    adapters = {"blocks/self_attn/q/lora_a": 0, "blocks/self_attn/q/lora_b": 0}
    assert unused_rules(dit | adapters, sharding.DIT) == []
    text = nnx.eval_shape(lambda: T5Encoder(tiny.text, rngs=nnx.Rngs(0)))
    assert unused_rules(text, sharding.TEXT) == []
    vae = nnx.eval_shape(lambda: WanVAE(tiny.vae, rngs=nnx.Rngs(0)))
    assert unused_rules(vae, sharding.VAE) == []


def test_an_axis_that_does_not_fit_moves_or_is_left_out():
    mesh = abstract_mesh({"data": 2, "context": 3})
    table = [("kernel", P(("data", "context"), "tensor")), ("bias", P("context"))]
    shape = jax.ShapeDtypeStruct((10, 9), jnp.float32)
    assert shardings({"kernel": shape}, table, mesh)["kernel"].spec == P("data", "context")
    assert shardings({"bias": shape}, table, mesh)["bias"].spec == P()


def test_a_large_leaf_that_nothing_divides_is_refused():
    leaf = jax.ShapeDtypeStruct((2**22 + 1, 1), jnp.float32)
    assert leaf.size > SMALL
    with pytest.raises(ValueError, match=r"w \(4194305, 1\) cannot be cut over data=2, context=4"):
        shardings({"w": leaf}, [("", P(("data", "context")))], make_mesh({"data": 2, "context": 4}))


def test_leaves_without_a_rule_are_all_named():
    tree = {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"no sharding rule for 2 leaves: a, c\."):
        shardings(tree, [("b", P())], make_mesh({"data": 8}))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            {"data": 2, "context": 2},
            r"data=2,context=2 needs 4 devices, there are 8; use data=2,con",
        ),
        ({"context": 3, "tensor": 2}, r"needs 6 devices, there are 8; use context=4,tensor=2"),
        ({"data": 3, "context": 3}, r"needs 9 devices, there are 8; use context=8"),
        ({"fsdp": 8}, r"unknown mesh axis 'fsdp'; the axes are data, context, tensor"),
        ({"data": 0}, r"mesh axis data must be at least 1, got 0"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_would(shape, message):
    with pytest.raises(ValueError, match=message) as error:
        make_mesh(shape)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["data", "data=two", "data=2,data=4", "rows=2"])
def test_a_mesh_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="mesh"):
        parse_mesh(text)


def test_a_mesh_is_read():
    assert parse_mesh("data=2, context=4") == {"data": 2, "context": 4}
    assert parse_mesh("") == {}


def test_constrain_does_nothing_without_a_mesh_and_leaves_out_what_does_not_divide():
    x = jnp.ones((3, 8))
    assert constrain(x, "data", "context") is x
    with jax.set_mesh(make_mesh({"data": 2, "context": 4})):
        cut = jax.jit(lambda x: constrain(x, "data", "context"))(x)
    assert cut.sharding.spec == P(None, "context")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_is_the_same_together_and_in_turn(scale):
    dit = sharding_matrix.build(12)
    latents, timesteps, _ = sharding_matrix.inputs((1, 3, 6, 10))
    texts = jax.random.normal(jax.random.key(5), (2, 7, 24))

    @jax.jit
    def in_turn(dit, latents, timesteps):
        key_value = (dit.project_text(text[None]) for text in texts)
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *key_value)
        return guided(dit, stacked, jnp.float32(scale))(latents, timesteps)

    @jax.jit
    def together(dit, latents, timesteps):
        velocity = guided_together(dit, dit.project_text(texts), jnp.float32(scale))
        return velocity(latents, timesteps)

    expected = in_turn(dit, latents, timesteps)
    mesh = make_mesh({"data": 2, "context": 4})
    with jax.set_mesh(mesh):
        dit = jax.device_put(dit, shardings(dit, sharding.DIT, mesh))
        assert_close(together(dit, latents, timesteps), expected, 1e-5)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip that is not there, as far as laying out a mesh looks at it."""

    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"


def test_an_axis_may_take_a_part_of_a_side_of_the_grid():
    chips = [Chip(4 * y + x, (x, y, 0)) for y in range(4) for x in range(4)]
    first, second = make_mesh({"data": 2, "context": 8}, np.array(chips)).devices[..., 0]
    assert {chip.coords[1] for chip in first} == {0, 1}
    assert {chip.coords[1] for chip in second} == {2, 3}
