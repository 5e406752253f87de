"""The multistep solvers beside the schedulers of the installed diffusers, on the same levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.grids import euler_table, unipc_table
from pusa_jax.diffusion.process import SOLVERS
from pusa_jax.diffusion.sampling import rows_of, take_step
from pusa_jax.diffusion.solvers import dpmpp, unipc
from pusa_jax.models.wan.family import WAN22, WAN22_TI2V
from pusa_jax.testing.compare import relative_error

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers", reason="needs the extra [test]")

SHAPE = (1, 2, 2, 3, 4)


def velocity(x, sigma):
    """Something smooth that both array libraries can compute."""
    return 0.4 * x + 0.3 * sigma - 0.1 * x * x * sigma


def theirs(scheduler, sigmas, x):
    steps = len(sigmas) - 1
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32)
    scheduler.timesteps = torch.arange(steps, 0, -1)  # labels only
    scheduler.set_begin_index(0)
    x = torch.tensor(x)
    for sigma, label in zip(sigmas[:-1].tolist(), scheduler.timesteps, strict=True):
        x = scheduler.step(velocity(x, sigma), label, x).prev_sample
    return x.numpy()


def ours(solver, sigmas, x):
    state, rows = solver.init(jnp.asarray(x)), solver.coefficients(sigmas)
    for i, sigma in enumerate(sigmas[:-1].tolist()):
        row = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), rows)
        state = solver.step(state, velocity(state.latents, sigma), row)
    return np.asarray(state.latents)


def scheduler_of(solver):
    """The scheduler of a solver with what Wan sets of it."""
    if solver == "unipc":
        return diffusers.UniPCMultistepScheduler(
            solver_order=2, prediction_type="flow_prediction", use_flow_sigmas=True
        )
    return diffusers.DPMSolverMultistepScheduler(
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
    )


def levels(steps, seed):
    rng = np.random.default_rng(seed)
    inner = np.sort(rng.uniform(0.05, 0.99, steps))[::-1]
    return np.append(inner, 0.0).astype(np.float32), rng.standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_equals_that_of_diffusers(order, steps):
    sigmas, x = levels(steps, seed=steps)
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order, prediction_type="flow_prediction", use_flow_sigmas=True
    )
    error = relative_error(ours(unipc(order), sigmas, x), theirs(scheduler, sigmas, x))
    assert error < 2e-5  # their coefficients are float32 and random levels can lie close


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpmpp_equals_that_of_diffusers(order, variant, steps):
    sigmas, x = levels(steps, seed=steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=order,
        solver_type=variant,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
    )
    error = relative_error(ours(dpmpp(order, variant), sigmas, x), theirs(scheduler, sigmas, x))
    assert error < 2e-5


@pytest.mark.parametrize(("steps", "shift"), [(1, 3.0), (7, 1.0), (33, 12.0)])
def test_the_euler_table_equals_that_of_diffusers(steps, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    table = euler_table(steps, shift)
    assert relative_error(table.sigmas[:, 0], scheduler.sigmas.numpy()) < 2e-7
    assert relative_error(table.timesteps[:, 0], scheduler.timesteps.numpy()) < 2e-7


@pytest.mark.parametrize(("steps", "shift"), [(40, 12.0), (50, 5.0), (10, 5.0)])
def test_wans_levels_are_those_of_the_flow_schedulers_of_diffusers(steps, shift):
    """Of its DPM++, that is; levels of its UniPC end elsewhere than Wan's."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    table = unipc_table(steps, shift)
    assert relative_error(table.sigmas[:, 0], scheduler.sigmas.numpy()) < 2e-7
    assert np.abs(table.timesteps[:, 0] - scheduler.timesteps.numpy()).max() <= 1  # rounds or drops


def moved(x, told):
    """Says of every frame what all frames look like, and what it was told of its own level."""
    return 0.4 * x - 0.3 * x.mean(1, keepdims=True) + 0.2 * x * x.mean() + 0.3 * told / 1000


@pytest.mark.parametrize("held", [(), (0,)], ids=["text", "image"])
@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
@pytest.mark.parametrize("family", [WAN22, WAN22_TI2V], ids=["a14b", "ti2v"])
def test_official_runs_are_those_of_diffusers(family, solver, held):
    """A held frame is put back behind each of their steps, as the official image-to-video does."""
    settings = dataclasses.replace(family.official, solver=solver)
    x = np.random.default_rng(7).standard_normal((1, 3, 2, 3, 4)).astype(np.float32)
    multipliers = np.ones(3, np.float32)
    multipliers[[*held]] = 0
    table = family.table(settings, multipliers, is_conditioned=bool(held), compute_dtype="float32")

    ours = SOLVERS[solver].init(jnp.asarray(x))
    for row in rows_of(table, SOLVERS[solver]):
        row = jax.tree.map(jnp.asarray, row)
        ours = take_step(
            lambda x, t: moved(x, t[:, :, None, None, None]), SOLVERS[solver], ours, row
        )

    scheduler, theirs = scheduler_of(solver), torch.tensor(x)
    scheduler.set_timesteps(settings.num_steps)
    scheduler.sigmas = torch.tensor(table.sigmas[:, -1])
    scheduler.timesteps = torch.arange(settings.num_steps, 0, -1)  # labels only
    scheduler.set_begin_index(0)
    for told, label in zip(table.timesteps, scheduler.timesteps, strict=True):
        told = torch.tensor(told)[None, :, None, None, None]
        theirs = scheduler.step(moved(theirs, told), label, theirs).prev_sample
        theirs[:, [*held]] = torch.tensor(x[:, [*held]])

    assert relative_error(ours.latents, theirs.numpy()) < 2e-6
    np.testing.assert_array_equal(ours.latents[:, [*held]], x[:, [*held]])
