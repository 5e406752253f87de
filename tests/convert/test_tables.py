import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.tables import (
    DROP_FIRST,
    LINEAR,
    SAME,
    LeafTensors,
    Rule,
    Transform,
    bind,
    dump,
    load,
    shape_of,
)
from pusa_jax.convert.violations import SHOWN, ConversionError

FLAT = Transform(lambda w: w.reshape(len(w), -1).T, lambda k: k.T.reshape(-1, 2, len(k) // 2))
"""(out, 2, n) <-> [2 n, out]: a transform without an index form."""

RULES = [
    Rule("blocks.{i}.q.weight", "blocks/q/kernel", LINEAR),
    Rule("blocks.{i}.q.bias", "blocks/q/bias"),
    Rule("blocks.{i}.table", "blocks/table", DROP_FIRST),
    Rule("patch.weight", "patch/kernel", FLAT),
    Rule("scale", "scale"),
]
SHAPES = {
    "blocks/q/kernel": (3, 4, 5),
    "blocks/q/bias": (3, 5),
    "blocks/table": (3, 6, 5),
    "patch/kernel": (8, 5),
    "scale": (),
}
ABSTRACT = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in SHAPES.items()}


def random_leaves(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        p: np.asarray(rng.standard_normal(s), np.float32).astype(dtype) for p, s in SHAPES.items()
    }


def checkpoint(dtype=np.float32, **changes):
    arrays = dict(dump(random_leaves(dtype), RULES)) | changes
    return ArrayTensors({name: a for name, a in arrays.items() if a is not None})


def violations(source, rules=RULES, **options):
    with pytest.raises(ConversionError) as error:
        bind(source, rules, ABSTRACT, **options)
    return error.value.violations


def test_layers_are_stacked_in_order_and_transposed():
    source = checkpoint()
    leaves = load(source, RULES, ABSTRACT)
    assert {p: a.shape for p, a in leaves.items()} == SHAPES
    for i in range(3):
        np.testing.assert_array_equal(
            leaves["blocks/q/kernel"][i], source.read(f"blocks.{i}.q.weight").T
        )


@given(
    sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3),
    dtype=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
    bits=st.integers(0, 2**32 - 1),
)
@example(sizes=[2, 1, 3], dtype=ml_dtypes.bfloat16, bits=6076931)  # NaNs that are not the usual one
@settings(max_examples=25, deadline=None)
def test_dump_undoes_load_bit_for_bit(sizes, dtype, bits):
    layers, rows, columns = sizes
    raw = np.random.default_rng(bits).bytes(layers * rows * columns * np.dtype(dtype).itemsize)
    stack = np.frombuffer(raw, dtype).reshape(sizes)  # any bits: NaNs and subnormals as well
    rules = [Rule("w.{i}", "w", LINEAR), Rule("b", "b", SAME)]
    leaves = {"w": stack, "b": stack[0, 0]}
    dumped = {n: a.tobytes() for n, a in dump(leaves, rules)}
    placed = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    assert {n: a.tobytes() for n, a in dump(placed, rules)} == dumped
    abstract = {p: jax.ShapeDtypeStruct(a.shape, jnp.float32) for p, a in leaves.items()}
    if np.isfinite(stack.astype(np.float32)).all():
        again = dict(dump(load(LeafTensors(leaves, rules), rules, abstract), rules))
        assert {n: a.tobytes() for n, a in again.items()} == dumped


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_value_that_is_no_number_is_found_while_it_is_read(tmp_path, bad, dtype):
    arrays = {f"w.{i}": np.ones((3, 4), dtype) for i in range(3)}
    arrays["w.1"][2, 1] = bad
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(arrays))
    source = open_tensors(tmp_path / "x.safetensors")
    abstract = {"w": jax.ShapeDtypeStruct((3, 4, 3), jnp.float32)}
    (leaf,) = bind(source, [Rule("w.{i}", "w", LINEAR)], abstract, dtype="bfloat16")
    leaf.read((slice(0, 1), slice(None), slice(None)))
    with pytest.raises(ValueError, match=r"x\.safetensors: 1 of 12 values of w\.1 are NaN or inf"):
        leaf.read()


def test_a_message_names_some_of_many_tensors_and_how_many_there_are():
    source = ArrayTensors({f"layer.{i}.weight": np.zeros(1, np.float32) for i in range(5000)})
    with pytest.raises(ConversionError) as error:
        bind(source, [], {})
    text = str(error.value)
    assert (
        text.count("unexpected:") == SHOWN and "5000 unexpected" in text and "and 4980 more" in text
    )
    assert len(error.value.violations) == 5000


def test_large_matrices_are_transposed_exactly():
    kernel = np.arange(700 * 300, dtype=np.float32).reshape(1, 700, 300)
    rules = [Rule("w.{i}", "w", LINEAR)]
    ((_, tensor),) = dump({"w": kernel}, rules)
    np.testing.assert_array_equal(tensor, kernel[0].T)
    abstract = {"w": jax.ShapeDtypeStruct((1, 700, 300), jnp.float32)}
    np.testing.assert_array_equal(load(ArrayTensors({"w.0": tensor}), rules, abstract)["w"], kernel)


def test_dtype_is_kept_unless_one_is_asked_for():
    source = checkpoint(np.float16)
    assert {a.dtype.name for a in load(source, RULES, ABSTRACT).values()} == {"float16"}
    leaves = load(source, RULES, ABSTRACT, dtype="bfloat16")
    assert {a.dtype.name for a in leaves.values()} == {"bfloat16"}


def test_a_leaf_is_read_in_parts():
    source = checkpoint()
    for leaf in bind(source, RULES, ABSTRACT):
        whole = leaf.read()
        index = tuple(slice(1, None) for _ in leaf.shape)
        np.testing.assert_array_equal(leaf.read(index), whole[index], err_msg=leaf.path)


def test_a_part_of_a_leaf_reads_only_its_layers_and_bytes():
    @dataclasses.dataclass(frozen=True)
    class Recorder(ArrayTensors):
        seen: list = dataclasses.field(default_factory=list)

        def read(self, name, index=None):
            self.seen.append((name, index))
            return super().read(name, index)

    source = Recorder(checkpoint().arrays)
    kernel = bind(source, RULES, ABSTRACT)[0]
    kernel.read((slice(2, 3), slice(0, 4), slice(1, 2)))
    assert source.seen == [("blocks.2.q.weight", (slice(1, 2), slice(0, 4)))]


def test_leaves_go_straight_to_a_sharding():
    rules, shape = [Rule("w.{i}", "w", LINEAR)], (2, 16, 4)
    source = LeafTensors({"w": np.arange(128, dtype=np.float32).reshape(shape)}, rules)
    sharding = jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P(None, "x", None))
    leaves = load(
        source,
        rules,
        {"w": jax.ShapeDtypeStruct(shape, jnp.float32)},
        place=lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, leaf.read),
    )
    assert leaves["w"].sharding == sharding
    np.testing.assert_array_equal(leaves["w"], source.leaves["w"])


def test_all_violations_are_reported_together_in_layer_order():
    source = checkpoint(
        **{
            "blocks.1.q.bias": None,
            "blocks.2.q.weight": np.zeros((4, 5), np.float32),
            "blocks.10.q.bias": np.zeros(5, np.float32),
            "blocks.9.q.bias": np.zeros(5, np.float32),
            "scale": np.zeros((), np.int64),
        }
    )
    assert violations(source) == [
        ("missing", "blocks.1.q.bias [5] for blocks/q/bias"),
        ("unexpected", "blocks.9.q.bias [5]"),
        ("unexpected", "blocks.10.q.bias [5]"),
        ("wrong dtype", "scale is int64, must be a floating type"),
        ("wrong shape", "blocks.2.q.weight is [4, 5], must be [5, 4]"),
    ]


def test_the_message_is_one_line_that_names_all():
    with pytest.raises(ConversionError) as error:
        bind(ArrayTensors({"odd\nname": np.zeros(2, np.float32)}), RULES, ABSTRACT)
    message = str(error.value)
    assert "\n" not in message and "11 missing, 1 unexpected" in message
    assert len(error.value.violations) == 12
    assert all(f"{kind}: {what}" in message for kind, what in error.value.violations)


def test_ignored_tensors_may_be_there_or_not():
    extra = checkpoint(**{"tied": np.zeros(1), "blocks.7.mask": np.zeros(1)})
    ignored = {"tied": "a second name of scale", "blocks.{i}.mask": "made at run time"}
    for source in (extra, checkpoint()):
        assert len(bind(source, RULES, ABSTRACT, ignored=ignored)) == len(RULES)
    assert violations(extra, ignored={"tied": "…"}) == [("unexpected", "blocks.7.mask [1]")]
    near = checkpoint(**{name: np.zeros(1) for name in ("tied.2", "a.tied", "blocks.x.mask")})
    assert [what.split()[0] for _, what in violations(near, ignored=ignored)] == [
        "a.tied",
        "blocks.x.mask",
        "tied.2",
    ]
    assert len(load(extra, RULES, ABSTRACT, ignored=ignored)) == len(RULES)
    many = checkpoint(**{"blocks.12.mask": np.zeros(1)})
    assert len(bind(many, RULES, ABSTRACT, ignored=ignored)) == len(RULES)


def test_mixed_and_wide_dtypes_need_a_choice():
    source = checkpoint(
        **{
            "blocks.0.q.bias": np.zeros(5, np.float16),
            "scale": np.zeros((), np.float64),
        }
    )
    kinds = [what for kind, what in violations(source) if kind == "wrong dtype"]
    assert "stored as float16 and float32" in kinds[0] and "scale is float64" in kinds[1]
    assert len(bind(source, RULES, ABSTRACT, dtype="float32")) == len(RULES)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (RULES[:-1], "leaf scale has no rule"),
        ([*RULES, Rule("blocks.0.q.bias", "scale2")], "the model has no leaf scale2"),
        ([*RULES, Rule("scale", "blocks/table")], "leaf blocks/table has 2 rules"),
        ([*RULES[1:], Rule("blocks.1.q.bias", "blocks/q/kernel")], "tensor blocks.1.q.bias has 2"),
    ],
)
def test_a_table_that_is_no_bijection_is_refused_both_ways(rules, problem):
    assert any(
        kind == "table" and problem in what for kind, what in violations(checkpoint(), rules)
    )
    with pytest.raises(ConversionError, match=problem):
        list(dump(random_leaves(), rules))


def test_shapes_have_names_and_no_values():
    source = LeafTensors(ABSTRACT, RULES)
    assert source.tensors["blocks.2.q.weight"].shape == (5, 4)
    with pytest.raises(TypeError, match=r"blocks/q/bias is a shape without values; blocks\.0\.q"):
        source.read("blocks.0.q.bias")


def test_a_tensor_is_read_in_parts_on_the_way_back():
    source = LeafTensors(random_leaves(), RULES)
    part = source.read("blocks.1.q.weight", (slice(1, 3), slice(0, 2)))
    np.testing.assert_array_equal(part, source.read("blocks.1.q.weight")[1:3, :2])


def test_values_of_one_byte_need_a_choice_as_well():
    source = checkpoint(**{"scale": np.zeros((), ml_dtypes.float8_e4m3fn)})
    ((kind, what),) = violations(source)
    assert kind == "wrong dtype" and "scale is float8_e4m3fn; convert with dtype" in what


@pytest.mark.parametrize("shape", [(0, 4), (4,)])
def test_a_size_is_read_off_no_empty_tensor_and_off_none_of_another_rank(shape):
    with pytest.raises(ValueError, match=r"w must be there with 2 axes, got \["):
        shape_of(ArrayTensors({"w": np.zeros(shape)}), "w", 2)


ALTERNATING = [
    Rule("even.{i}.w", "even", LINEAR, others=(Rule("layers.{2i}.w", "even", LINEAR),)),
    Rule("odd.{i}.w", "odd", LINEAR, others=(Rule("layers.{2i+1}.w", "odd", LINEAR),)),
]


def test_a_tensor_of_another_name_is_read_and_written_back_under_the_first():
    named = {f"{kind}.{i}.w": np.full((3, 2), 2 * i + (kind == "odd"), np.float32)
             for kind in ("even", "odd") for i in range(2)}  # fmt: skip
    older = {f"layers.{int(x[0, 0])}.w": x for x in named.values()}
    shapes = dict.fromkeys(("even", "odd"), jax.ShapeDtypeStruct((2, 2, 3), jnp.float32))
    for arrays in (named, older):
        leaves = load(ArrayTensors(arrays), ALTERNATING, shapes)
        assert leaves["odd"][:, 0, 0].tolist() == [1, 3]
        assert {n: x.tolist() for n, x in dump(leaves, ALTERNATING)} == {
            n: x.tolist() for n, x in named.items()
        }
    with pytest.raises(ConversionError, match=r"missing: layers\.2\.w \[3, 2\] for even"):
        bind(ArrayTensors({n: x for n, x in older.items() if "2" not in n}), ALTERNATING, shapes)
    with pytest.raises(ConversionError, match=r"4 missing.*missing: even\.0\.w"):
        bind(ArrayTensors({}), ALTERNATING, shapes)


def test_of_two_shapes_that_one_name_may_have_the_one_that_is_there_is_read():
    point = Transform(lambda w: w[:, :, 0].T, lambda k: k.T[:, :, None])
    table = [Rule("w", "w", LINEAR, others=(Rule("w", "w", point),))]
    shapes = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    for stored in (values, values[:, :, None]):
        leaves = load(ArrayTensors({"w": stored}), table, shapes)
        np.testing.assert_array_equal(leaves["w"], values.T)
    with pytest.raises(ConversionError, match=r"wrong shape: w is \[2, 2\], must be \[3, 2\]"):
        bind(ArrayTensors({"w": values[:2]}), table, shapes)
