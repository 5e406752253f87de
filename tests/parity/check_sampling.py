"""Pusa's denoise loops with the golden files' analytic model, and whole runs with the tiny DiT."""

import jax
import jax.numpy as jnp
import numpy as np
from golden import Comparison, Golden

from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.guidance import guided
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.models.wan.schedule import noise_table
from pusa_jax.testing import relative_error, to_house_layout


def plan(golden: Golden, case: dict):
    """Start latents and noise table of a recorded pipeline run, built by our own functions."""
    group = golden.meta["inputs_of"][case["name"]]
    noise = to_house_layout(golden.tensor(f"in.{group}.noise"))
    given = to_house_layout(golden.tensor(f"in.{group}.cond_latents"))
    conditions = [
        FrameCondition(index=i, latents=given[:, i : i + 1], multiplier=m)
        for i, m in zip(case["cond_frame_latent_indices"], case["noise_multipliers"], strict=True)
    ]
    clean, multipliers = place(conditions, noise)
    table = noise_table(
        case["steps"],
        case["shift"],
        multipliers,
        rounding="bfloat16" if case.get("torch_dtype") == "bfloat16" else "none",
        truncate=not case["pipeline"].endswith("t2v"),
    )
    return start(clean, noise, table), table


def latents_after_each_step(velocity, latents, table):
    out = [latents]
    one = jax.jit(lambda x, row: denoise(velocity, x, row))
    for i in range(table.num_steps):
        out.append(one(out[-1], table.part(i, i + 1)))
    return jnp.moveaxis(jnp.concatenate(out), -1, 1)


def compare_tables(golden, case, table):
    name = case["name"]
    told = golden.tensor(f"out.{name}.timesteps").astype(np.float64)
    whole = table.timesteps.shape == told.shape and not case["pipeline"].endswith("t2v")
    gap = np.abs(np.broadcast_to(np.asarray(table.timesteps, np.float64), told.shape) - told)
    if whole or case.get("torch_dtype") == "bfloat16":
        yield Comparison("timesteps", float(gap.max()), 0.0, "units")
    else:
        yield Comparison("timesteps", float(np.linalg.norm(gap) / np.linalg.norm(told)), 2e-6)
    steps = golden.tensor(f"out.{name}.dsigma")
    ours = np.broadcast_to(np.asarray(table.step_sizes()), steps.shape)
    yield Comparison("step sizes", relative_error(ours, steps), 2e-6)


def analytic_velocity(golden: Golden):
    """The model of the trace files: linear in latents, timestep and the prompt's mean."""
    gain = jnp.asarray(golden.tensor("in.g"))

    def velocity(x, timesteps, prompt):
        neighbour = jnp.roll(x, -1, axis=-1)
        told = (timesteps / 1000)[:, :, None, None, None] * gain[None, None, None, None]
        return 0.3 * x - 0.2 * neighbour + 0.1 * x.mean(1, keepdims=True) + told + prompt

    return velocity


def check_trace(golden: Golden, case: dict):
    latents, table = plan(golden, case)
    yield from compare_tables(golden, case, table)
    if case.get("torch_dtype") == "bfloat16":
        return  # the recorded latents mix bfloat16 and float32
    prompts, scale = jnp.asarray([0.05, -0.02]), jnp.float32(case["cfg"])
    velocity = guided(analytic_velocity(golden), prompts, scale)
    ours = latents_after_each_step(velocity, latents, table)
    expected = golden.tensor(f"out.{case['name']}.latents")
    yield Comparison("latents", relative_error(ours, expected), 1e-5)


CHECKS = {"sched_trace_pipeline": check_trace}
