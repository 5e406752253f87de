"""When the timesteps of a run are rounded, and what is not."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.models.wan import schedule
from pusa_jax.models.wan.schedule import noise_table, sampling_table

MULTIPLIERS = np.asarray([0.3, 1.0], np.float32)
SCHEDULE = pusa_schedule(30, 3.0)
SETTINGS = SamplingConfig(num_steps=30, shift=3.0)


def told(settings=SETTINGS, *, is_conditioned, compute_dtype):
    return sampling_table(
        settings, MULTIPLIERS, is_conditioned=is_conditioned, compute_dtype=compute_dtype
    ).timesteps


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_conditioned", [True, False])
def test_the_dtype_rounds_and_given_frames_truncate(compute_dtype, is_conditioned):
    dtype = ml_dtypes.bfloat16 if compute_dtype == "bfloat16" else np.float32
    scheduled = (SCHEDULE[:-1] * np.float32(1000)).astype(dtype)
    expected = scheduled.astype(np.float32)[:, None] * MULTIPLIERS
    expected = expected.astype(dtype).astype(np.float32)
    found = told(is_conditioned=is_conditioned, compute_dtype=compute_dtype)
    if is_conditioned:
        expected = np.trunc(expected).astype(dtype).astype(np.float32)
    assert found.dtype == np.float32 and np.array_equal(found, expected)


def test_the_four_ways_are_told_apart():
    tables = [
        told(is_conditioned=given, compute_dtype=dtype).tolist()
        for given in (True, False)
        for dtype in ("float32", "bfloat16")
    ]
    assert all(one != other for i, one in enumerate(tables) for other in tables[:i])


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_conditioned", [True, False])
def test_without_the_original_s_rounding_timesteps_are_exact(compute_dtype, is_conditioned):
    exact = SamplingConfig(num_steps=30, shift=3.0, original_timesteps=False)
    found = told(exact, is_conditioned=is_conditioned, compute_dtype=compute_dtype)
    assert np.array_equal(found, SCHEDULE[:-1, None] * np.float32(1000) * MULTIPLIERS)


def test_levels_and_sigmas_are_never_rounded():
    table = noise_table(30, 3.0, MULTIPLIERS, rounding="bfloat16", truncate=True)
    assert np.array_equal(table.levels, SCHEDULE[:-1])
    assert np.array_equal(table.sigmas, SCHEDULE[:, None] * MULTIPLIERS)
    np.testing.assert_array_equal(table.step_sizes, table.sigmas[1:] - table.sigmas[:-1])


def test_a_solver_without_a_grid_of_its_own_takes_given_frames_as_euler_does(monkeypatch):
    other = dataclasses.replace(SETTINGS, solver="unipc")
    given = {"is_conditioned": True, "compute_dtype": "bfloat16"}
    with pytest.raises(ValueError, match="a frame given with noise"):
        told(other, **given)
    monkeypatch.delitem(schedule.GRIDS, "unipc")
    assert np.array_equal(told(other, **given), told(**given))


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_solver_of_another_process_is_refused(solver):
    wrong = dataclasses.replace(SETTINGS, solver=solver)
    with pytest.raises(ValueError, match=f"with euler, ab2, unipc, dpm.., not with {solver}"):
        told(wrong, is_conditioned=False, compute_dtype="float32")


def test_a_table_is_as_it_is_told_by_default():
    plain = noise_table(30, 3.0, MULTIPLIERS)
    assert plain.timesteps[:, 1].tolist() == (1000 * SCHEDULE[:-1]).tolist()
