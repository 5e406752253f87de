"""The multistep solvers beside the schedulers of the installed diffusers, on the same levels."""

import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.diffusion.grids import euler_table
from pusa_jax.diffusion.solvers import dpmpp, unipc
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
        row = type(rows)(sigmas=jnp.asarray(rows.sigmas[i]), weights=jnp.asarray(rows.weights[i]))
        state = solver.step(state, velocity(state.latents, sigma), row)
    return np.asarray(state.latents)


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
