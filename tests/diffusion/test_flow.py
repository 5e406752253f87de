import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.flow import NoiseTable, interpolate, pusa_schedule, velocity_target
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.models.wan.schedule import noise_table

KEY = jax.random.key(0)
CLEAN, NOISE = jax.random.normal(KEY, (2, 1, 5, 2, 3, 4))


def towards(clean, noise):
    return lambda latents, timesteps: velocity_target(clean, noise)


def test_ends_of_the_path_are_exact():
    sigmas = jnp.asarray([[0.0, 1, 0, 1, 0.5]])
    x = interpolate(CLEAN, NOISE, sigmas)
    assert jnp.array_equal(x[:, 0], CLEAN[:, 0])
    assert jnp.array_equal(x[:, 1], NOISE[:, 1])


def test_schedule_is_the_published_table():
    timesteps = 1000 * pusa_schedule(10, 5.0)
    published = [
        1000,
        978.261,
        952.381,
        921.053,
        882.353,
        833.333,
        769.231,
        681.818,
        555.556,
        357.143,
        0,
    ]
    np.testing.assert_allclose(timesteps, published, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 60, 100, 999])
def test_schedule_falls_from_one_to_zero_for_any_number_of_steps(steps):
    schedule = pusa_schedule(steps, 5.0)
    assert schedule[0] == 1 and schedule[-1] == 0 and (np.diff(schedule) < 0).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"num_steps": 0},
        {"shift": 0.0},
        {"shift": np.inf},
        {"shift": np.nan},
        {"strength": 0.0},
        {"strength": 1.5},
    ],
)
def test_a_schedule_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="got"):
        pusa_schedule(**{"num_steps": 4, "shift": 5.0} | bad)


def test_a_run_may_start_from_a_lower_level():
    half = pusa_schedule(4, 1.0, strength=0.5)
    np.testing.assert_allclose(half, [0.5, 0.375, 0.25, 0.125, 0])
    assert np.array_equal(pusa_schedule(4, 5.0, strength=1.0), pusa_schedule(4, 5.0))


def test_levels_are_counted_from_both_ends_as_torch_does():
    """torch.linspace counts the second half back from the end; to the last bit this shows."""
    assert pusa_schedule(5, 1.0).tolist() == np.float32([1, 0.8, 0.6, 0.4, 0.2, 0]).tolist()
    assert pusa_schedule(7, 1.0)[3] == np.float32(0.57142854)  # torch.linspace(1, 0, 8)[3]
    assert np.float32(0.57142854) != np.float32(4 / 7)


@pytest.mark.parametrize(
    ("steps", "step", "told"), [(44, 5, 974), (52, 15, 924), (54, 5, 979), (61, 45, 639)]
)
def test_levels_are_computed_in_float32(steps, step, told):
    """Truncated, the product in float64 is one more."""
    table = noise_table(steps, 5.0, np.ones(1), truncate=True)
    assert table.timesteps[step, 0] == told


TORCH_LEVELS = """
import numpy, sys, torch
for shift in (1.0, 5.0):
    for steps in range(1, 101):
        even = torch.linspace(1, 0, steps + 1)
        sys.stdout.buffer.write((shift * even / (1 + (shift - 1) * even)).numpy().tobytes())
"""


@pytest.mark.torch
def test_levels_are_those_of_torch_to_the_last_bit():
    """Of its plain loop: where torch uses fused multiply-adds some levels are a bit off ours."""
    pytest.importorskip("torch", reason="needs the extra [test]")
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", TORCH_LEVELS]
    theirs = subprocess.run(command, env=plain, capture_output=True, check=True).stdout
    ours = [pusa_schedule(n, shift).tobytes() for shift in (1.0, 5.0) for n in range(1, 101)]
    assert theirs == b"".join(ours)


def test_a_frame_told_to_be_clean_does_not_move_and_one_told_otherwise_does():
    table = noise_table(2, 1.0, np.asarray([0.003, 0.0015]), truncate=True)
    assert table.timesteps.tolist() == [[3, 1], [1, 0]]
    np.testing.assert_allclose(table.step_sizes, [[-0.0015, -0.00075], [-0.0015, 0]], rtol=1e-5)
    assert (table.sigmas[1] > 0).all()
    start_at = CLEAN[:, :2]
    moved = denoise(lambda x, t: 1000 * jnp.ones_like(x), start_at, table.part(1, 2)) - start_at
    assert np.allclose(moved[:, 0], -1.5, atol=1e-5) and not moved[:, 1].any()


def test_small_bfloat16_timesteps_keep_their_fraction_unless_truncated():
    kept, cut = (
        noise_table(50, 5.0, np.ones(1), rounding="bfloat16", truncate=truncate).timesteps[-1, 0]
        for truncate in (False, True)
    )
    assert (kept, cut) == (92.5, 92)


def test_timesteps_pass_through_bfloat16_and_truncation_as_published():
    multipliers = np.asarray([0.2, 0.7, 0.0, 1.0])
    table = noise_table(4, 5.0, multipliers, rounding="bfloat16", truncate=True)
    expected = [[200, 700, 0, 1000], [187, 656, 0, 936], [166, 584, 0, 832], [125, 436, 0, 624]]
    assert np.array_equal(table.timesteps[:, 0], np.asarray(expected)[:, 0])
    assert np.array_equal(table.timesteps, expected)


@pytest.mark.parametrize("steps", [4, 30, 100])
def test_a_constant_velocity_is_integrated_exactly(steps):
    multipliers = np.asarray([0.0, 0.2, 1, 1, 0.7])
    table = noise_table(steps, 5.0, multipliers)
    latents = denoise(towards(CLEAN, NOISE), start(CLEAN, NOISE, table), table)
    assert jnp.allclose(latents, CLEAN, atol=2e-6)


def test_zero_multiplier_freezes_a_frame_to_the_last_bit():
    table = noise_table(9, 5.0, np.asarray([0.0, 1, 1, 0, 1]))
    latents = denoise(lambda x, t: jnp.sin(x) + t.mean(), start(CLEAN, NOISE, table), table)
    for frame in (0, 3):
        assert jnp.array_equal(latents[:, frame], CLEAN[:, frame])


def test_a_run_cut_in_two_is_the_same_run():
    table = noise_table(6, 5.0, np.asarray([0.3, 1, 1, 1, 1]))
    velocity = towards(CLEAN, NOISE)
    x = start(CLEAN, NOISE, table)
    cut = denoise(velocity, denoise(velocity, x, table.part(0, 2)), table.part(2, 6))
    assert jnp.array_equal(cut, denoise(velocity, x, table))


def test_a_table_is_data_not_a_shape():
    """One compiled step serves other schedules, multipliers and step counts."""
    traces = []

    @jax.jit
    def step(x, part: NoiseTable):
        traces.append(1)
        return denoise(towards(CLEAN, NOISE), x, part)

    for steps, shift, m in ((4, 5.0, 0.2), (30, 3.0, 0.0)):
        table = noise_table(steps, shift, np.asarray([m, 1, 1, 1, 1]))
        for i in range(3):
            step(NOISE, table.part(i, i + 1))
    assert len(traces) == 1


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("multiplier", [0.0, 0.2, 0.7])
def test_a_run_starts_on_the_path_to_the_last_bit(is_compiled, multiplier):
    table = noise_table(4, 5.0, np.asarray([multiplier, 1, 1, 1, 1], np.float32))
    levels = jnp.broadcast_to(table.sigmas[0], CLEAN.shape[:2])
    on_the_path, begun = interpolate, start
    if is_compiled:
        on_the_path, begun = jax.jit(on_the_path), jax.jit(begun)
    expected = on_the_path(CLEAN, NOISE, levels)
    assert jnp.array_equal(begun(CLEAN, NOISE, table), expected)
    factors = (1 - table.sigmas[0], table.sigmas[0])
    assert jnp.array_equal(begun(CLEAN, NOISE, table._replace(entry=factors)), expected)


def test_a_run_may_start_with_factors_that_are_on_no_straight_path():
    factors = (np.float32([0.9, 0.0, 1.0, 0.5, 0.0]), np.float32([0.1, 0.99, 0.0, 0.7, 1.0]))
    table = noise_table(4, 5.0, np.ones(5))._replace(entry=factors)
    begun = start(CLEAN, NOISE, table)
    np.testing.assert_allclose(begun[:, 0], 0.9 * CLEAN[:, 0] + 0.1 * NOISE[:, 0], atol=1e-6)
    np.testing.assert_allclose(begun[:, 1], 0.99 * NOISE[:, 1], atol=1e-6)
    assert jnp.array_equal(begun[:, 2], CLEAN[:, 2]) and jnp.array_equal(begun[:, 4], NOISE[:, 4])


def test_a_part_of_a_plan_ends_where_the_next_one_begins():
    table = noise_table(6, 5.0, np.asarray([1.0, 0.5]))
    first, second = table.part(0, 2), table.part(2, 6)
    assert (table.num_steps, first.num_steps, second.num_steps) == (6, 2, 4)
    assert np.array_equal(first.sigmas[-1], second.sigmas[0])
    for name in ("timesteps", "step_sizes", "levels"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        assert np.array_equal(joined, getattr(table, name))


def test_a_part_of_a_plan_keeps_the_rows_of_its_solver():
    rows = {"factor": np.arange(6), "noise": None}
    part = noise_table(6, 5.0, np.ones(1))._replace(coefficients=rows).part(2, 5)
    assert part.coefficients["factor"].tolist() == [2, 3, 4] and part.coefficients["noise"] is None
