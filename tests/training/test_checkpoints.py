"""Which checkpoints of a run stay, and what is said of one that does not fit."""

import jax
import numpy as np
import pytest

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
