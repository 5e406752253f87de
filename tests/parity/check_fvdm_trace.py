"""FVDM's sampling runs with the tiny LatteVIDEO: index lists equal, latents step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from check_latte import frames_last, load_dit
from golden import Comparison, Golden

from pusa_jax.diffusion.config import SamplingConfig, Solver
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.guidance import guided
from pusa_jax.diffusion.process import VARIANCE_PRESERVING
from pusa_jax.diffusion.sampling import Row, rows_of, sample, start, take_step
from pusa_jax.models.latte.schedule import renoised, sampling_table
from pusa_jax.testing.compare import relative_error

LIMIT = 1e-5


@functools.partial(jax.jit, static_argnames="solver")
def step(dit, labels, scale, state, row: Row, *, solver: Solver):
    velocity = guided(dit, dit.prepare(labels)[:, None], scale)
    return take_step(velocity, VARIANCE_PRESERVING.solvers[solver], state, row)


def plan(golden: Golden, steps: int, given: list[int], solver: Solver) -> NoiseTable:
    multipliers = np.ones(golden.config["num_frames"], np.float32)
    multipliers[given] = 0
    return sampling_table(
        SamplingConfig(num_steps=steps, solver=solver),
        multipliers,
        is_conditioned=bool(given),
        compute_dtype="float32",
    )


def run(golden: Golden, table: NoiseTable, solver: Solver, clean, noise) -> list:
    """The states behind all steps."""
    labels = golden.tensor("in.a.y") if golden.has("in.a.y") else np.zeros(2)
    labels = jnp.asarray(labels, jnp.float32).reshape(2, 1, 1)
    scale = jnp.float32(golden.meta.get("cfg_scale", 1.0))
    kind, states = VARIANCE_PRESERVING.solvers[solver], []
    rows = rows_of(table, kind)
    fresh = frames_last(golden.tensor("in.a.ddpm_noise")[:, 0]) if kind.is_random else None

    def take(state, i):
        row = rows[i]
        if fresh is not None:
            row = row._replace(coefficients=row.coefficients._replace(noise=fresh[i][None]))
        return step(load_dit(golden), labels, scale, state, row, solver=solver)

    def keep(done, state):
        states.append(state.latents)

    sample(take, kind.init(start(clean, noise, table)), len(rows), keep)
    return states


def told(table: NoiseTable, recorded: np.ndarray) -> Comparison:
    wrong = np.count_nonzero(np.asarray(table.timesteps) != recorded)
    return Comparison("timesteps that differ", float(wrong), 0, "count")


def same(what: str, ours, recorded: np.ndarray) -> Comparison:
    return Comparison(what, relative_error(jnp.moveaxis(ours, -1, 2), recorded), LIMIT)


def check(golden: Golden, case: dict):
    if case["name"].startswith("long"):
        yield from check_long(golden, case)
        return
    name, steps = case["name"], case["steps"]
    solver = "ddpm" if name.startswith("ddpm") else "ddim"
    given = [] if name.startswith("shipped") else case.get("cond_frames", [])
    table = plan(golden, steps, given, solver)
    yield told(table, golden.tensor(f"out.{name}.t"))
    clean, noise = (frames_last(golden.tensor(f"in.a.{x}")) for x in ("clip", "z"))
    if name.startswith("shipped"):  # the given frame is where the run starts, and free
        noise = noise.at[:, case["cond_frames"]].set(clean[:, case["cond_frames"]])
    states = run(golden, table, solver, clean, noise)
    for done, recorded in zip(
        case["kept_steps"], golden.tensor(f"out.{name}.latents"), strict=True
    ):
        yield same(f"latents after step {done}", states[done - 1], recorded)


def check_long(golden: Golden, case: dict):
    """Chunks of which each carries over the last frames of the one before."""
    name, carried, steps = case["name"], case["condition_frame_num"], 10
    noise = frames_last(golden.tensor("in.a.z"))
    free = plan(golden, steps, [], "ddim")
    table = renoised(plan(golden, steps, [*range(carried)], "ddim"))
    states = run(golden, free, "ddim", jnp.zeros_like(noise), noise)
    yield told(free, golden.tensor(f"out.{name}.t1"))
    yield same("chunk 1", states[-1], golden.tensor(f"out.{name}.chunk1"))
    video = [states[-1]]
    for chunk, noise in enumerate(golden.tensor("in.a.long_noise"), 2):
        before = states[-1]
        clean = jnp.zeros_like(before).at[:, :carried].set(before[:, -carried:])
        states = run(golden, table, "ddim", clean, frames_last(noise))
        yield told(table, golden.tensor(f"out.{name}.t{chunk}"))
        if golden.has(first := f"out.{name}.chunk{chunk}_step1"):
            yield same(f"chunk {chunk} after step 1", states[0], golden.tensor(first))
        yield same(f"chunk {chunk}", states[-1], golden.tensor(f"out.{name}.chunk{chunk}"))
        video.append(states[-1][:, carried:])
    yield same("video", jnp.concatenate(video, 1), golden.tensor(f"out.{name}.video"))


CHECKS = {"fvdm_trace": check}
