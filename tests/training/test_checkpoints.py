"""Which checkpoints of a run stay, and what is said of one that does not fit."""

import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.training import checksums
from pusa_jax.training.checkpoints import RunCheckpoints


def save(folder, steps, **keep):
    checkpoints = RunCheckpoints(folder, **keep)
    for step in steps:
        checkpoints.save(step, {"x": np.full(3, step, np.float32)}, {"step": step})
    checkpoints.close()
    return checkpoints


@pytest.mark.parametrize(
    ("keep", "left"), [({"keep_last": 1}, [7]), ({"keep_last": 2, "keep_every": 3}, [3, 6, 7])]
)
def test_the_newest_and_every_so_many_stay(tmp_path, keep, left):
    assert save(tmp_path / "run", range(1, 8), **keep).steps == left
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == list(map(str, left))
    again = RunCheckpoints(tmp_path / "run", keep_last=0)
    assert [again.info(step)["step"] for step in left] == left


def test_arrays_of_another_run_are_refused(tmp_path):
    checkpoints = save(tmp_path / "run", [1], keep_last=1)
    other = {"y": jax.ShapeDtypeStruct((3,), np.float32)}
    with pytest.raises(ValueError, match="holds other arrays than this run") as error:
        RunCheckpoints(tmp_path / "run", keep_last=0).restore(1, other)
    assert "\n" not in str(error.value) and checkpoints.steps == [1]


STATE = {
    "params": {"a/kernel": np.random.default_rng(0).standard_normal((3, 8, 16), np.float32)},
    "key": jax.random.key(3),
    "step": np.int32(7),
}
ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    STATE,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = RunCheckpoints(folder, keep_last=2)
    for step in (5, 10):
        checkpoints.save(step, STATE, {"step": step})
    checkpoints.close()
    return folder


def flip(file, at):
    """Changes one bit; gives back what the file held."""
    data = file.read_bytes()
    file.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    return data


def is_same(state):
    key_data = jax.random.key_data(state["key"])
    return (
        np.array_equal(state["params"]["a/kernel"], STATE["params"]["a/kernel"])
        and np.array_equal(key_data, jax.random.key_data(STATE["key"]))
        and int(state["step"]) == 7
    )


def read_everything(folder):
    checkpoints = RunCheckpoints(folder, keep_last=0)
    state, info = checkpoints.restore(10, ABSTRACT), checkpoints.info(10)
    leaves = dict(checkpoints.restore_leaves(10, "params"))
    assert info["step"] == 10 and is_same(state | {"params": leaves}) and is_same(state)


# Orbax drops coroutines when it cannot read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*was never awaited")
def test_a_flipped_byte_of_a_checkpoint_is_noticed_or_without_effect(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")
    files = [path for path in (folder / "10").rglob("*") if path.stat().st_size * path.is_file()]
    rng, noticed = np.random.default_rng(0), 0
    for number in range(45):
        file = files[number % len(files)]
        data = flip(file, int(rng.integers(file.stat().st_size)))
        try:
            read_everything(folder)
        except ValueError as error:
            noticed += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
            assert "remove that folder to go on from step 5" in str(error)
        file.write_bytes(data)
    assert noticed > 15
    read_everything(folder)


def test_a_damaged_checkpoint_names_itself_and_the_one_before(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")
    for step, remedy in ((10, "go on from step 5"), (5, "begin anew")):
        sums = RunCheckpoints(folder, keep_last=0).info(step)["sums"]
        assert sums["params/a/kernel"].startswith("float32[3,8,16] ")
        data = max((folder / str(step)).rglob("d/*"), key=lambda path: path.stat().st_size)
        for at in range(200, 900, 50):
            flip(data, at)
        with pytest.raises(ValueError, match=f"/{step} is damaged .*{remedy}"):
            RunCheckpoints(folder, keep_last=0).restore(step, ABSTRACT)


def test_a_checkpoint_without_sums_is_read_as_before(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("pusa_jax.training.checkpoints.signed", lambda info: {"step": 10})
    checkpoints = RunCheckpoints(tmp_path / "run", keep_last=1)
    checkpoints.save(10, STATE, {"step": 10})
    checkpoints.close()
    read_everything(tmp_path / "run")


ARRAYS = {
    "matrix": np.random.default_rng(1).standard_normal((8, 16, 3), np.float32),
    "narrow": np.random.default_rng(1).standard_normal((6, 5)).astype(ml_dtypes.bfloat16),
    "bytes": np.arange(200, dtype=np.uint8),
    "flags": np.array([True, False, True]),
    "number": np.float32(2.5),
    "none": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("axis", [0, 1])
def test_arrays_sum_the_same_on_every_mesh(monkeypatch, axis):
    mesh = make_mesh({"context": 8}, jax.devices())
    spec = {"matrix": P(*[None] * axis, "context")}
    placed = {
        path: jax.device_put(array, NamedSharding(mesh, spec.get(path, P())))
        for path, array in ARRAYS.items()
    }
    on_host = checksums.of_tree(ARRAYS)
    assert checksums.of_tree(placed) == on_host
    monkeypatch.setattr(checksums, "_is_on_host", lambda leaf: False)
    assert checksums.of_tree(placed) == on_host
    alone = {path: jnp.asarray(array) for path, array in ARRAYS.items()}
    assert checksums.of_tree(alone) == on_host


def test_every_changed_bit_and_every_swap_of_rows_changes_a_sum():
    rng = np.random.default_rng(2)
    for path in ("matrix", "narrow", "bytes"):
        array = ARRAYS[path]
        whole = checksums.of_array(array)
        swapped = checksums.of_array(array[::-1].copy())
        assert swapped != whole
        for _ in range(50):
            harmed = array.copy()
            bits = harmed.reshape(-1).view(np.uint8)
            bits[rng.integers(bits.size)] ^= 1 << rng.integers(8)
            assert checksums.of_array(harmed) != whole
