import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion import config
from pusa_jax.diffusion.flow import interpolate, pusa_schedule
from pusa_jax.diffusion.grids import dpmpp_table, euler_table, unipc_table
from pusa_jax.diffusion.process import FLOW, VARIANCE_PRESERVING
from pusa_jax.diffusion.solvers import EULER, dpmpp, unipc
from pusa_jax.testing.compare import assert_close, relative_error

MULTISTEP = {
    "unipc-1": unipc(1),
    "unipc-2": unipc(2),
    "unipc-3": unipc(3),
    "dpmpp-1": dpmpp(1),
    "dpmpp-2": dpmpp(2),
    "dpmpp-2-heun": dpmpp(2, "heun"),
    "dpmpp-3": dpmpp(3),
}
SOLVERS = {"euler": EULER, **MULTISTEP}
FIRST_ORDER = ("euler", "dpmpp-1")
SHAPE = (2, 3, 2, 2, 4)
CLEAN, NOISE = jax.random.normal(jax.random.key(0), (2, *SHAPE))


@functools.partial(jax.jit, static_argnums=(0, 1))
def integrate(solver, velocity, latents, times, rows):
    """Runs a solver on velocity(x, time); the latents after every step, and the last state."""

    def step(state, row):
        time, coefficients = row
        state = solver.step(state, velocity(state.latents, time), coefficients)
        return state, state.latents

    return jax.lax.scan(step, solver.init(latents), (times, rows))


def run(solver, velocity, latents, sigmas):
    """The last latents of a run whose network is told the exact levels."""
    sigmas = np.asarray(sigmas)
    rows = solver.coefficients(sigmas)
    return integrate(solver, velocity, latents, sigmas[:-1].astype(np.float32), rows)[0].latents


def run_beside_a_held_frame(solver, velocity, levels):
    """As `run`, with the second of three frames given exactly."""
    rows = solver.coefficients(levels[:, None] * np.asarray([[1.0, 0.0, 1.0]]))
    return integrate(solver, velocity, NOISE, levels[:-1].astype(np.float32), rows)[0].latents


def wavy(x, sigma):
    """A velocity without any meaning."""
    return jnp.sin(3 * x) + sigma


def towards_clean(x, sigma):
    """The exact flow to one point: what a network predicts that knows the answer."""
    return (x - CLEAN) / sigma


def deviation(sigma):
    """Standard deviation at a level of the Gaussian that `towards_gaussian` flows to."""
    return np.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2)


SPREAD = 0.25
"""Standard deviation of the Gaussian that `towards_gaussian` flows to."""


def towards_gaussian(x, sigma):
    """The exact flow to a Gaussian: x(sigma) is proportional to its standard deviation there."""
    return x * (sigma - (1 - sigma) * SPREAD**2) / ((1 - sigma) ** 2 * SPREAD**2 + sigma**2)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_exact_where_the_answer_is_known(name):
    sigmas = unipc_table(5, 3.0).sigmas[:, 0]
    start = interpolate(CLEAN, NOISE, jnp.full(SHAPE[:2], sigmas[0]))
    assert_close(run(SOLVERS[name], towards_clean, start, sigmas), CLEAN, 1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_errors_fall_with_the_order_of_the_solver(name):
    """The first and the last step are of low order, which leaves 2 in all but the two simplest."""
    first, last = (np.hypot((1 - sigma) * SPREAD, sigma) for sigma in (0.9, 0.1))
    errors = []
    for steps in (32, 64):
        end = run(SOLVERS[name], towards_gaussian, NOISE, np.linspace(0.9, 0.1, steps + 1))
        errors.append(relative_error(end, NOISE * (last / first)))
    order = np.log2(errors[0] / errors[1])
    assert order == pytest.approx(1 if name in FIRST_ORDER else 2, abs=0.35)


STEP = 4
UNEVEN = np.asarray([0.97, 0.95, 0.9, 0.8, 0.65, 0.5, *np.linspace(0.4, 0.0, 16)])
"""Levels of a run in whose step STEP every solver has reached its full order."""


def snr(sigma):
    return np.log((1 - sigma) / sigma)


def path(power, start, end):
    """What guesses of lambda ** power add on the way from start to end, by quadrature."""
    points, shares = np.polynomial.legendre.leggauss(40)
    middle, half = (snr(end) + snr(start)) / 2, (snr(end) - snr(start)) / 2
    at = middle + half * points
    return (1 - end) * half * np.sum(shares * np.exp(at - snr(end)) * at**power)


def exact_to_degree(weights, start, end, limit=2e-6):
    """Highest degree in lambda of guesses that weights (newest first) are exact for."""
    seen = snr(UNEVEN[STEP - np.arange(len(weights))])
    right = [abs(weights @ seen**k - path(k, start, end)) < limit for k in range(6)]
    return right.index(False) - 1


@pytest.mark.parametrize(
    ("name", "degree"),
    [
        *[("dpmpp-1", 0), ("dpmpp-2", 0), ("dpmpp-2-heun", 1), ("dpmpp-3", 1)],
        *[("unipc-2", 0), ("unipc-3", 2)],
    ],
)
def test_predictors_are_exact_for_guesses_polynomial_in_log_snr(name, degree):
    """Parity: midpoint, UniPC-2 and the third order of DPM++ lose a degree, as in the originals."""
    corrected, latents = MULTISTEP[name].coefficients(UNEVEN).weights[STEP].astype(np.float64)
    added = (latents - UNEVEN[STEP + 1] / UNEVEN[STEP] * corrected)[2:]
    assert exact_to_degree(added, UNEVEN[STEP], UNEVEN[STEP + 1]) == degree


@pytest.mark.parametrize(("name", "degree"), [("unipc-1", 0), ("unipc-2", 2), ("unipc-3", 3)])
def test_correctors_gain_a_degree(name, degree):
    corrected, _ = MULTISTEP[name].coefficients(UNEVEN).weights[STEP].astype(np.float64)
    assert corrected[1] == pytest.approx(UNEVEN[STEP] / UNEVEN[STEP - 1])
    assert exact_to_degree(corrected[2:], UNEVEN[STEP - 1], UNEVEN[STEP]) == degree


TOY_START = jnp.asarray([-1.0, 0.5, 2.0]).reshape(1, 1, 1, 1, 3)
UNIPC_TOY = [
    [-1.0124756, 0.4593839, 1.9312434],
    [-1.0283983, 0.3977494, 1.8238970],
    [-1.0427809, 0.2961782, 1.6351372],
    [-1.0422597, 0.0457701, 1.1337998],
]
DPMPP_TOY = [
    [-1.0125000, 0.4593750, 1.9312500],
    [-1.0296615, 0.3962174, 1.8220963],
    [-1.0461255, 0.2920734, 1.6302722],
    [-1.0452895, 0.0419971, 1.1292837],
]
"""Latents after each of 4 steps, shift 5, of the originals on v = 0.3 x + 0.5 t / 1000."""


@pytest.mark.parametrize(
    ("solver", "table", "expected"),
    [(unipc(), unipc_table(4, 5.0), UNIPC_TOY), (dpmpp(), dpmpp_table(4, 5.0), DPMPP_TOY)],
    ids=["unipc", "dpmpp"],
)
def test_toy_runs_have_the_recorded_values(solver, table, expected):
    def velocity(x, timestep):
        return 0.3 * x + 0.5 * timestep[0] / 1000

    rows = solver.coefficients(table.sigmas)
    _, trace = integrate(solver, velocity, TOY_START, table.timesteps, rows)
    assert_close(trace.reshape(4, 3), np.asarray(expected), 2e-7)


def test_timesteps_are_the_published_ones():
    first = "999 994 989 983 978 972 965 959 952 944 937 929 920 911 902 892 882 870 859 846"
    last = "833 818 803 786 768 749 728 706 681 654 624 591 555 514 468 416 356 288 208 113"
    timesteps = unipc_table(40, 5.0).timesteps[:, 0].astype(int).tolist()
    assert timesteps == [int(t) for t in f"{first} {last}".split()]
    assert dpmpp_table(4, 5.0).timesteps[:, 0].tolist() == [1000, 937, 833, 625]
    assert euler_table(50, 5.0).sigmas[-2, 0] == pytest.approx(0.0244, abs=5e-5)


def test_runs_with_repeated_whole_timesteps_step_every_level():
    """The original looks the step up by its timestep and fails where two are equal."""
    table = unipc_table(92, 12.0)
    assert len(set(table.timesteps[:, 0])) < 92
    rows = unipc().coefficients(table.sigmas)
    assert np.isfinite(rows.weights).all()
    assert rows.weights.shape[0] == 92


@pytest.mark.parametrize("name", MULTISTEP)
def test_the_last_step_lands_on_the_guess_exactly(name):
    weights = MULTISTEP[name].coefficients(unipc_table(6, 5.0).sigmas).weights
    _, latents = weights[-1]
    assert latents[2] == 1
    assert np.count_nonzero(latents) == 1


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpmpp_starts_from_pure_noise_where_log_snr_is_infinite(order):
    weights = dpmpp(order).coefficients(pusa_schedule(8, 5.0)).weights
    assert np.isfinite(weights).all()
    # The guess made at pure noise is not extrapolated from: the second step is straight.
    assert weights[1, 1, 2:] == pytest.approx([1 - weights[1, 1, 0], 0, 0][:order], abs=1e-6)


@pytest.mark.parametrize("name", ["euler", "unipc-3", "dpmpp-3"])
def test_a_run_may_be_cut_between_any_two_steps(name):
    solver, sigmas = SOLVERS[name], unipc_table(7, 5.0).sigmas
    times, rows = sigmas[:-1, 0], solver.coefficients(sigmas)
    whole, _ = integrate(solver, towards_gaussian, NOISE, times, rows)

    state, step = solver.init(NOISE), jax.jit(solver.step)
    for i, time in enumerate(times):
        row = jax.tree.map(lambda table, i=i: jnp.asarray(table[i]), rows)
        state = step(state, towards_gaussian(state.latents, time), row)
    assert_close(state.latents, whole.latents, 1e-6)


def test_euler_moves_each_frame_by_its_own_step():
    multipliers = np.asarray([0.0, 0.2, 1.0], np.float32)
    sigmas = pusa_schedule(5, 5.0)[:, None] * multipliers
    state, _ = integrate(
        EULER, lambda x, t: jnp.ones_like(x), NOISE, sigmas[:-1], EULER.coefficients(sigmas)
    )
    moved = state.latents - NOISE
    assert bool(jnp.array_equal(state.latents[:, 0], NOISE[:, 0]))
    assert_close(
        moved[:, 1:], -np.broadcast_to(multipliers[1:, None, None, None], moved[:, 1:].shape), 1e-6
    )


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_solvers_refuse_levels_that_differ_between_frames(name):
    shared = np.repeat(unipc_table(5, 5.0).sigmas, 3, axis=1)
    assert MULTISTEP[name].coefficients(shared).sigmas.shape == (5,)
    with pytest.raises(ValueError, match="frame 1 has another than frame 0: use the Euler solver"):
        MULTISTEP[name].coefficients(shared * np.asarray([1.0, 0.5, 1.0]))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_frame_that_is_clean_throughout_stays_and_leaves_the_others_alone(name):
    """Whatever the network says of it; the others move as if it were not there."""
    solver, levels = SOLVERS[name], unipc_table(8, 5.0).sigmas[:, 0]
    free = run(solver, wavy, NOISE, levels)
    held = run_beside_a_held_frame(solver, wavy, levels)
    assert jnp.array_equal(held[:, 1], NOISE[:, 1])
    assert jnp.array_equal(held[:, ::2], free[:, ::2])


@pytest.mark.parametrize(("name", "order"), [("unipc-2", 2), ("dpmpp-2", 2)])
def test_order_of_convergence_is_kept_beside_a_frame_that_is_held(name, order):
    """Of the frames that move: half the step, an error 2^order smaller."""
    solver = MULTISTEP[name]

    def error(steps):
        levels = np.linspace(0.9, 0.1, steps + 1)
        last = run_beside_a_held_frame(solver, towards_gaussian, levels)[:, ::2]
        exact = NOISE[:, ::2] * (deviation(0.1) / deviation(0.9))
        return float(jnp.abs(last - exact).max())

    measured = np.log2(error(20) / error(40))
    assert measured > order - 0.2


@pytest.mark.parametrize("sigmas", [[0.9], [0.9, 0.9, 0.0], [0.5, 0.9], [1.1, 0.0], [0.9, -0.1]])
def test_levels_that_do_not_fall_within_their_range_are_refused(sigmas):
    with pytest.raises(ValueError, match="must fall from at most 1 to at least 0"):
        dpmpp().coefficients(np.asarray(sigmas))


def test_unipc_refuses_to_start_from_pure_noise():
    with pytest.raises(ValueError, match=r"start just below, as grids\.unipc_table does"):
        unipc().coefficients(pusa_schedule(5, 5.0))


@pytest.mark.parametrize("make", [unipc, dpmpp])
def test_orders_that_do_not_exist_are_refused(make):
    with pytest.raises(ValueError, match="orders 1, 2 and 3, got 4"):
        make(4)


def test_a_variant_that_does_not_exist_is_refused():
    # Under the import hook of the tests the annotation refuses it before the function does.
    with pytest.raises((ValueError, TypeError), match="bh2"):
        dpmpp(2, "bh2")


@pytest.mark.parametrize("table", [unipc_table, dpmpp_table, euler_table])
def test_tables_refuse_what_cannot_be_sampled(table):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        table(0, 5.0)
    with pytest.raises(ValueError, match=r"shift must be positive, got -1\.0"):
        table(4, -1.0)


def test_every_solver_that_settings_may_name_belongs_to_one_process():
    named = [*FLOW.solvers, *VARIANCE_PRESERVING.solvers]
    assert sorted(get_args(config.Solver)) == sorted(named)


def test_state_is_float32_whatever_the_latents():
    solver, sigmas = dpmpp(), pusa_schedule(2, 5.0)
    rows = jax.tree.map(lambda table: jnp.asarray(table[0]), solver.coefficients(sigmas))
    x = NOISE.astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        state = solver.step(solver.init(x), x, rows)
        assert EULER.step(EULER.init(NOISE), NOISE, jnp.ones(1)).latents.dtype == jnp.float32
    assert state.latents.dtype == state.clean.dtype == jnp.float32


def test_euler_keeps_the_dtype_of_the_latents():
    x = NOISE.astype(jnp.bfloat16)
    moved = EULER.step(EULER.init(x), x, -jnp.ones(1)).latents
    assert moved.dtype == jnp.bfloat16 and not moved.any()


@pytest.mark.parametrize("make", [unipc, dpmpp])
def test_the_default_order_is_2_as_wan_samples(make):
    levels = unipc_table(20, 5.0).sigmas
    default, second = (solver.coefficients(levels).weights for solver in (make(), make(2)))
    assert np.array_equal(default, second)


def test_the_default_variant_of_dpmpp_is_midpoint():
    levels = unipc_table(20, 5.0).sigmas
    default, heun = (s.coefficients(levels).weights for s in (dpmpp(2), dpmpp(2, "heun")))
    assert np.array_equal(default, dpmpp(2, "midpoint").coefficients(levels).weights)
    assert not np.array_equal(default, heun)


@pytest.mark.parametrize("make", [unipc, dpmpp])
@pytest.mark.parametrize("order", [-1, 0])
def test_orders_below_1_are_refused(make, order):
    with pytest.raises(ValueError, match=f"orders 1, 2 and 3, got {order}"):
        make(order)


@pytest.mark.parametrize(("steps", "last_but_one", "one_before"), [(14, 2, 3), (15, 3, 3)])
def test_dpmpp_lowers_its_order_at_the_end_of_runs_shorter_than_15_steps(
    steps, last_but_one, one_before
):
    weights = dpmpp(3).coefficients(unipc_table(steps, 5.0).sigmas).weights[:, 1, 2:]
    used = np.count_nonzero(weights, axis=1).tolist()
    assert used == [1, 2, *[3] * (steps - 5), one_before, last_but_one, 1]


def test_unipc_raises_its_order_at_the_start_and_lowers_it_at_the_end():
    weights = unipc(3).coefficients(unipc_table(8, 5.0).sigmas).weights
    # A prediction of order p and the correction in it use p guesses or one more.
    corrected = np.count_nonzero(weights[:, 0, 2:], axis=1).tolist()
    assert corrected == [0, 2, 3, 4, 4, 4, 4, 3]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_multistep_solvers_remember_no_more_than_they_use(order):
    assert len(unipc(order).init(NOISE).clean) == order
    assert len(dpmpp(order).init(NOISE).clean) == order - 1


def test_the_first_frame_that_differs_is_named():
    levels = np.repeat(unipc_table(5, 5.0).sigmas, 4, axis=1) * np.asarray([1, 1, 0.5, 0.5])
    with pytest.raises(ValueError, match="frame 2 has another than frame 0"):
        unipc().coefficients(levels)


@pytest.mark.parametrize("table", [unipc_table, dpmpp_table, euler_table])
def test_tables_take_one_step_and_any_positive_shift(table):
    assert table(1, 5.0).timesteps.shape == (1, 1)
    assert table(1, 5.0).timesteps[0, 0] == (999 if table is unipc_table else 1000)
    assert np.isfinite(table(4, 0.5).sigmas).all()
    for shift in (0.0, float("nan")):
        with pytest.raises(ValueError, match=f"shift must be positive, got {shift}"):
            table(4, shift)
    with pytest.raises(ValueError, match="at least 1, got -1"):
        table(-1, 5.0)


def test_the_third_order_of_dpmpp_is_that_of_the_paper_over_uneven_steps():
    """arXiv 2211.01095, multistep of order 3, term by term as published."""
    start, end = UNEVEN[STEP], UNEVEN[STEP + 1]
    lambdas = snr(UNEVEN[STEP - 2 : STEP + 2])
    before, last, h = np.diff(lambdas)
    r0, r1 = last / h, before / h
    newest, older, oldest = np.eye(3)
    first, second = (newest - older) / r0, (older - oldest) / r1
    slope = first + r0 / (r0 + r1) * (first - second)
    curve = (first - second) / (r0 + r1)
    decay, alpha = np.expm1(-h), 1 - end
    expected = -alpha * decay * newest + alpha * (decay / h + 1) * slope
    expected -= alpha * ((decay + h) / h**2 - 0.5) * curve
    weights = dpmpp(3).coefficients(UNEVEN).weights[STEP, 1]
    assert weights[0] == pytest.approx(end / start)
    np.testing.assert_allclose(weights[2:], expected, rtol=1e-5)


def test_unipc_starts_from_the_float32_next_to_0_999():
    """Which keeps the whole timesteps of an unshifted run from falling just below a number."""
    assert unipc_table(3, 1.0).timesteps[:, 0].tolist() == [999, 666, 333]


@pytest.mark.parametrize("name", ["dpmpp-1", "dpmpp-2", "dpmpp-3"])
def test_dpmpp_remembers_the_sample_as_it_was(name):
    solver, sigmas = SOLVERS[name], unipc_table(3, 5.0).sigmas
    row = jax.tree.map(lambda table: jnp.asarray(table[0]), solver.coefficients(sigmas))
    state = solver.step(solver.init(NOISE), NOISE, row)
    assert np.array_equal(state.corrected, NOISE)
