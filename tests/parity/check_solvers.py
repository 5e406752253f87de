"""Noise tables of every scheduler, and solver traces with the golden files' analytic model."""

import jax
import jax.numpy as jnp
import numpy as np
from golden import Comparison, Golden

from pusa_jax.diffusion import grids, solvers
from pusa_jax.diffusion.flow import pusa_schedule
from pusa_jax.diffusion.timesteps import bell_weights
from pusa_jax.testing.compare import relative_error, to_house_layout

TABLE_LIMIT = 2e-6
TRACE_LIMIT = 2e-5
TABLES = {
    "unipc": grids.unipc_table,
    "dpmpp": grids.dpmpp_table,
    "euler": grids.euler_table,
}
POSITIVE, NEGATIVE = 0.05, -0.02
"""Mean of the context of the two prompts in the analytic model."""


def solver_of(name: str, kwargs: dict) -> solvers.Solver:
    """Our solver for a scheduler's own keywords; an unknown keyword raises."""
    if name == "euler" and not kwargs:
        return solvers.EULER
    words = {"solver_order": "order", "solver_type": "variant"}
    ours = {words[key]: value for key, value in kwargs.items()}
    if name == "dpmpp":
        return solvers.dpmpp(**ours)
    # UniPC's other variant, bh1, is not a number in the last step of the original.
    assert name == "unipc" and ours.pop("variant", "bh2") == "bh2", (name, kwargs)
    return solvers.unipc(**ours)


def guided_velocity(x, timestep, gains, scale: float):
    """The analytic model of the metadata, channels last; `timestep` is shared by all frames."""
    drift = 0.3 * x - 0.2 * jnp.roll(x, -1, axis=-1) + 0.1 * x.mean(1, keepdims=True)
    drift = drift + (timestep / 1000 * gains)[None, None, None, None]
    positive, negative = drift + POSITIVE, drift + NEGATIVE
    return positive if scale == 1 else negative + scale * (positive - negative)


def check_solver_trace(golden: Golden, case: dict):
    name, limit = case["name"], TRACE_LIMIT
    solver = solver_of(case["solver"], case.get("kwargs", {}))
    table = TABLES[case["solver"]](case["steps"], case["shift"])
    noise = to_house_layout(golden.tensor(f"in.{case['shape']}.noise"))
    gains = jnp.asarray(golden.tensor("in.g"))

    def step(state, row):
        timestep, coefficients = row
        velocity = guided_velocity(state.latents, timestep[0], gains, case["cfg"])
        state = solver.step(state, velocity, coefficients)
        return state, state.latents

    rows = (table.timesteps, solver.coefficients(table.sigmas))
    state, trace = jax.jit(lambda x, rows: jax.lax.scan(step, solver.init(x), rows))(noise, rows)
    trace = jnp.concatenate([noise[None], trace])[:, 0]  # the file holds one clip, without B
    expected = np.moveaxis(golden.tensor(f"out.{name}.latents"), 1, -1)
    yield Comparison("latents", relative_error(trace, expected), limit)
    yield Comparison("last latents", relative_error(state.latents[0], expected[-1]), limit)
    worst = max(map(relative_error, trace, expected))
    yield Comparison("worst step", worst, limit)
    yield Comparison(
        "timesteps",
        relative_error(table.timesteps[:, 0], golden.tensor(f"out.{name}.timesteps")),
        TABLE_LIMIT,
    )


def levels_of(case: dict) -> tuple[np.ndarray, np.ndarray]:
    """Our levels and timesteps for a row, with as many levels as the file has."""
    if case["sched"] in TABLES:
        table = TABLES[case["sched"]](case["steps"], case["shift"])
        return np.asarray(table.sigmas)[:, 0], np.asarray(table.timesteps)[:, 0]
    # Pusa's two schedulers have one table, stored without the 0 at its end.
    strength = case.get("denoising_strength", 1.0)
    sigmas = {"pusa": pusa_schedule, "pusa_v2v": pusa_schedule}[case["sched"]](
        case["steps"], case["shift"], strength
    )[:-1]
    return sigmas, sigmas * np.float32(1000)


def check_sched_tables(golden: Golden, case: dict):
    name = case["name"]
    sigmas, timesteps = levels_of(case)
    expected = golden.tensor(f"out.{name}.timesteps")
    yield Comparison(
        "sigmas", relative_error(sigmas, golden.tensor(f"out.{name}.sigmas")), TABLE_LIMIT
    )
    if np.issubdtype(expected.dtype, np.integer):
        wrong = float(np.count_nonzero(timesteps != expected))
        yield Comparison("whole timesteps that differ", wrong, 0, "count")
    yield Comparison("timesteps", relative_error(timesteps, expected), TABLE_LIMIT)
    if case.get("training"):
        weights = golden.tensor(f"out.{name}.loss_weights")
        error = relative_error(bell_weights(timesteps), weights)
        yield Comparison("loss weights", error, TABLE_LIMIT)


CHECKS = {"solver_trace": check_solver_trace, "sched_tables": check_sched_tables}
