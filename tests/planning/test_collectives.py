"""Collectives are counted as often as they run, in every form in which XLA writes them."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pusa_jax.planning.collectives import Traffic, collectives

TEMPLATE = """HloModule jit_f, is_scheduled=true, num_partitions=8

%inner (p: f32[2]) -> f32[2] {{
  %p = f32[2]{{0}} parameter(0)
  {op}
}}

%less (p.1: (s32[], f32[2])) -> pred[] {{
  %p.1 = (s32[], f32[2]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%p.1), index=0
  %limit = s32[]{{:T(128)}} constant(7)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}}

%body (p.2: (s32[], f32[2])) -> (s32[], f32[2]) {{
  %f = f32[2]{{0}} fusion(%p.2), kind=kCustom, calls=%inner, metadata={{op_name="a"}}
}}

ENTRY %main (p.3: f32[2]) -> f32[2] {{
  %w = (s32[], f32[2]{{0}}) while(%t), condition=%less, body=%body{trips}
}}
"""


def of(op, trips=""):
    return collectives(TEMPLATE.format(op=op, trips=trips), unknown_trips=2)


def test_a_compiled_loop_counts_every_turn():
    mesh = jax.make_mesh((2, 4), ("a", "b"))

    def body(x, _):
        y = jax.lax.all_to_all(x, "b", 1, 0, tiled=True)
        y = jax.lax.all_to_all(y, "b", 0, 1, tiled=True)
        shifted = jax.lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)])
        return y + shifted + jax.lax.psum(x, ("a", "b")), None

    def loop(x):
        return jax.lax.scan(body, x, None, length=5)[0]

    spec = P(("a", "b"), None)
    looped = jax.shard_map(loop, mesh=mesh, in_specs=spec, out_specs=spec)
    x = jax.ShapeDtypeStruct((8 * 64, 32), jnp.float32, sharding=NamedSharding(mesh, spec))
    part = 64 * 32 * 4
    assert collectives(jax.jit(looped).lower(x).compile().as_text()) == {
        "all-reduce": Traffic(count=5, bytes=5 * part * 2 * 7 // 8),
        "all-to-all": Traffic(count=10, bytes=10 * part * 3 // 4),
        "collective-permute": Traffic(count=5, bytes=5 * part),
    }


def test_loops_inside_loops_multiply():
    mesh = jax.make_mesh((8,), ("a",))

    def sums(x, turns):
        return jax.lax.fori_loop(0, turns, lambda _, y: jax.lax.psum(jnp.sin(y), "a") / 8, x)

    def outer(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: sums(y, 5) + 1, x)

    f = jax.jit(jax.shard_map(outer, mesh=mesh, in_specs=P(), out_specs=P()))
    hlo = f.lower(jnp.ones(2)).compile().as_text()
    assert collectives(hlo)["all-reduce"].count == 15


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (
            "%g = (bf16[8,4]{1,0:T(8,128)}, bf16[16,4]{1,0}) all-gather-start(%p), "
            "replica_groups={{0,1},{2,3}}, dimensions={0}",
            ("all-gather", 8 * 4 * 2),
        ),
        (
            "%g = bf16[16,4]{1,0} all-gather(%p), replica_groups=[4,2]<=[8], dimensions={0}",
            ("all-gather", 8 * 4 * 2),
        ),
        (
            "%g = f32[32]{0} all-gather(%p), replica_groups=mesh['x'=2,'y'=4] {'y'}",
            ("all-gather", 24 * 4),
        ),
        (
            "%r = f32[4]{0} reduce-scatter(%p), replica_groups=[1,8]<=[8], to_apply=%add",
            ("reduce-scatter", 4 * 4 * 7),
        ),
        ("%r = f32[8]{0} all-reduce-start(%p), replica_groups={}", ("all-reduce", 2 * 28)),
        (
            "%m = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%p), "
            "source_target_pairs={{0,1},{1,0}}",
            ("collective-permute", 6 * 4 + 4),
        ),
        (
            "%a = (pred[8]{0}, pred[8]{0}) all-to-all(%p, %p), replica_groups={{0,1},{2,3}}",
            ("all-to-all", 8),
        ),
    ],
)
def test_forms_of_an_operation(op, expected):
    name, size = expected
    assert of(op) == {name: Traffic(count=7, bytes=7 * size)}


def test_stated_trip_count_goes_before_the_condition():
    op = "%r = f32[8]{0} all-reduce(%p), replica_groups={}"
    known = ', backend_config={"known_trip_count":{"n":"3"}}'
    assert of(op, known)["all-reduce"].count == 3


def test_loops_of_unknown_length_count_as_told():
    op = "%r = f32[8]{0} all-reduce(%p), replica_groups={}"
    text = TEMPLATE.format(op=op, trips="").replace("constant(7)", "get-tuple-element(%p.1)")
    assert collectives(text, unknown_trips=2)["all-reduce"].count == 2


def test_an_asynchronous_operation_counts_once():
    text = TEMPLATE.format(op="%r = f32[8]{0} all-to-all(%p), replica_groups={}", trips="")
    text = text.replace(
        "%w = (s32[], f32[2]{0}) while(%t), condition=%less, body=%body",
        "%s = ((f32[8]), f32[8]) async-start(%p), calls=%inner\n"
        "  %u = ((f32[8]), f32[8]) async-update(%s), calls=%inner\n"
        "  %d = f32[8]{0} async-done(%u), calls=%inner",
    )
    assert collectives(text) == {"all-to-all": Traffic(count=1, bytes=28)}
