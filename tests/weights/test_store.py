import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.weights import store, streaming
from pusa_jax.weights.finite import holds_nonfinite
from pusa_jax.weights.store import SavedTree, save_tree

RNG = np.random.default_rng(0)
LEAVES = {
    "blocks/q/kernel": RNG.standard_normal((2, 8, 4)).astype(np.float32),
    "blocks/q/bias": RNG.standard_normal((2, 4)).astype(ml_dtypes.bfloat16),
    "downsamples/3/scale": RNG.standard_normal(5).astype(np.float32),
    "gain": np.array(2.0, np.float32),
}


def limit_parts(monkeypatch, size):
    monkeypatch.setattr(store, "PART_BYTES", size)
    monkeypatch.setattr(streaming, "PIECE_BYTES", size)
    monkeypatch.setattr(streaming, "WHOLE_BYTES", size)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        assert actual[path].dtype == leaf.dtype
        assert np.asarray(actual[path]).tobytes() == np.asarray(leaf).tobytes(), path


@pytest.mark.parametrize("part_bytes", [1, 2**29])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_a_tree_comes_back_bit_for_bit(tmp_path, monkeypatch, kind, part_bytes):
    limit_parts(monkeypatch, part_bytes)
    folder = tmp_path / "tree"
    save_tree(folder, ((path, kind(leaf)) for path, leaf in LEAVES.items()), {"dim": 4})
    assert_same(SavedTree(folder).load(), LEAVES)
    assert SavedTree(folder).info == {"dim": 4}
    assert {p: s.shape for p, s in SavedTree(folder).shapes.items()} == {
        p: a.shape for p, a in LEAVES.items()
    }
    assert len([p for p in folder.iterdir() if p.is_dir()]) == (10 if part_bytes == 1 else 1)
    assert not (tmp_path / "tree.tmp").exists()


def test_leaves_are_cast_and_placed_as_asked(tmp_path):
    save_tree(tmp_path / "tree", LEAVES.items())
    sharding = jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P(None, "x", None))
    abstract = {
        p: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16, sharding=sharding if a.ndim == 3 else None)
        for p, a in LEAVES.items()
    }
    leaves = SavedTree(tmp_path / "tree").load(abstract)
    assert leaves["blocks/q/kernel"].sharding == sharding
    assert_same(leaves, {p: a.astype(ml_dtypes.bfloat16) for p, a in LEAVES.items()})


def test_leaves_are_taken_one_part_at_a_time_and_large_ones_row_by_row(tmp_path, monkeypatch):
    limit_parts(monkeypatch, 1)
    taken = []

    def leaves():
        for path, leaf in LEAVES.items():
            taken.append(len(list(tmp_path.glob("tree.tmp/[0-9]"))))
            yield path, leaf

    save_tree(tmp_path / "tree", leaves())
    assert taken == [0, 1, 3, 8]


def test_a_tree_moves_from_mesh_to_mesh(tmp_path, monkeypatch):
    limit_parts(monkeypatch, 100)
    leaves = {
        "w": np.arange(8 * 16.0, dtype=np.float32).reshape(8, 16),
        "b": np.ones(3, np.float32),
    }
    places = [(8, P("x")), (4, P(None, "x")), (1, P()), (8, P(None, "x"))]
    for step, (count, spec) in enumerate(places):
        mesh = jax.make_mesh((count,), ("x",), devices=jax.devices()[:count])
        where = {"w": NamedSharding(mesh, spec), "b": NamedSharding(mesh, P())}
        if step:
            shapes = SavedTree(tmp_path / str(step - 1)).shapes
            leaves = SavedTree(tmp_path / str(step - 1)).load(
                {
                    p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where[p])
                    for p, s in shapes.items()
                }
            )
        else:
            leaves = {path: jax.device_put(leaf, where[path]) for path, leaf in leaves.items()}
        assert {path: leaf.sharding for path, leaf in leaves.items()} == where
        save_tree(tmp_path / str(step), leaves.items())
    assert_same(
        SavedTree(tmp_path / "3").load(),
        {"w": np.arange(8 * 16.0, dtype=np.float32).reshape(8, 16), "b": np.ones(3, np.float32)},
    )


@pytest.mark.parametrize(("size", "limit"), [(8, 2**29), (6, 400), (1, 2**29)])
def test_leaves_in_blocks_move_from_mesh_to_mesh(tmp_path, monkeypatch, size, limit):
    limit_parts(monkeypatch, limit)
    leaves = {
        "layers": RNG.standard_normal((3, 24, 4)).astype(np.float32),
        "turned": RNG.standard_normal((3, 4, 24)).astype(ml_dtypes.bfloat16),
        "one": RNG.standard_normal((48, 2)).astype(np.float32),
    }
    axes = {"layers": 1, "turned": 2, "one": 0}
    save_tree(tmp_path / "host", leaves.items(), cut_axis=axes.__getitem__)
    mesh = make_mesh({"context": size}, jax.devices()[:size])
    abstract = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P(*[None] * axes[path], "context"))
        )
        for path, leaf in leaves.items()
    }
    loaded = SavedTree(tmp_path / "host").load(abstract)
    assert_same(loaded, leaves)
    assert all(loaded[path].sharding == abstract[path].sharding for path in leaves)
    save_tree(tmp_path / "mesh", loaded.items(), cut_axis=axes.__getitem__)
    assert_same(SavedTree(tmp_path / "mesh").load(), leaves)


def test_an_interrupted_save_leaves_no_tree_and_can_be_repeated(tmp_path):
    def broken():
        yield "gain", LEAVES["gain"]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        save_tree(tmp_path / "tree", broken())
    assert not (tmp_path / "tree").exists()
    save_tree(tmp_path / "tree", LEAVES.items())
    assert_same(SavedTree(tmp_path / "tree").load(), LEAVES)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "tree").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        save_tree(tmp_path / "tree", LEAVES.items())


def test_a_path_that_comes_twice_is_refused(tmp_path, monkeypatch):
    for limit in (1, 2**29):
        limit_parts(monkeypatch, limit)
        with pytest.raises(ValueError, match="leaf gain comes twice"):
            save_tree(tmp_path / "tree", [("gain", LEAVES["gain"])] * 2)


def test_a_folder_without_a_tree_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tree\.json"):
        SavedTree(tmp_path).load()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}'])
def test_a_description_that_is_not_ours_is_refused(tmp_path, text):
    (tmp_path / "tree.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged|another version"):
        SavedTree(tmp_path).load()


def test_a_file_that_is_cut_short_is_noticed(tmp_path):
    save_tree(tmp_path / "tree", LEAVES.items())
    largest = max(
        (tmp_path / "tree" / "0").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()
    )
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(ValueError, match="1 files are missing or have another size"):
        SavedTree(tmp_path / "tree").load()


def test_leaves_that_do_not_fit_the_model_are_named(tmp_path):
    save_tree(tmp_path / "tree", LEAVES.items())
    abstract = dict(SavedTree(tmp_path / "tree").shapes)
    abstract["gain"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    del abstract["downsamples/3/scale"]
    with pytest.raises(
        ValueError, match=r"2 leaves .* downsamples/3/scale is \(5,\), wanted missing"
    ):
        SavedTree(tmp_path / "tree").load(abstract)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("path", ["blocks/q/kernel", "blocks/q/bias", "gain"])
@pytest.mark.parametrize("part_bytes", [1, 2**29])
def test_a_value_that_is_no_number_is_found_as_the_leaf_is_read(
    tmp_path, monkeypatch, bad, path, part_bytes
):
    limit_parts(monkeypatch, part_bytes)
    odd = LEAVES[path].copy()
    odd.flat[-1] = bad
    save_tree(tmp_path / "tree", (LEAVES | {path: odd}).items())
    with pytest.raises(ValueError, match=f"tree: values of {path} are NaN or infinite; fetch the"):
        SavedTree(tmp_path / "tree").load()
    with pytest.raises(ValueError, match=f"tree: values of {path} are NaN or infinite; fetch the"):
        list(SavedTree(tmp_path / "tree").pieces(path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_odd_values_are_found_on_devices_as_on_the_host(bad):
    array = jnp.ones((2, 3), jnp.bfloat16)
    assert not holds_nonfinite(array)
    assert holds_nonfinite(array.at[1, 2].set(bad))
