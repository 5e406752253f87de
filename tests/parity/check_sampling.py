"""Pusa's denoise loops with the golden files' analytic model, and whole runs with the tiny DiT."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from check_dit import load_dit
from check_vae import load_vae
from golden import Comparison, Golden

from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.guidance import guided
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.inference.step import prepare_prompts
from pusa_jax.media.pixels import to_pixels, to_uint8
from pusa_jax.models.wan.family import WAN21, velocity
from pusa_jax.models.wan.schedule import noise_table
from pusa_jax.models.wan.vae import decode, encode
from pusa_jax.testing.compare import relative_error, to_house_layout


def plan(golden: Golden, case: dict, given: dict | None = None):
    """Start latents and noise table of a recorded pipeline run, built by our own functions."""
    group = golden.meta["inputs_of"][case["name"]]
    noise = to_house_layout(golden.tensor(f"in.{group}.noise"))
    if given is None:
        recorded = to_house_layout(golden.tensor(f"in.{group}.cond_latents"))
        given = {i: recorded[:, i : i + 1] for i in range(recorded.shape[1])}
    conditions = [
        FrameCondition(index=i, latents=given[i], multiplier=m)
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
    ours = np.broadcast_to(np.asarray(table.step_sizes), steps.shape)
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


@jax.jit
def dit_steps(dit, texts, scale, latents, table):
    return denoise(guided(functools.partial(velocity, dit), texts, scale), latents, table)


def check_pipeline(golden: Golden, case: dict):
    """A whole run with the tiny DiT: start, every step, and the decoded frames where recorded."""
    name, group = case["name"], golden.meta["inputs_of"][case["name"]]
    experts = [load_dit(golden.weights("dit"), golden.config["dit"])]
    boundary = case.get("switch_DiT_boundary")
    if boundary is not None:
        experts.append(load_dit(golden.weights("dit2"), golden.config["dit2"]))
    prompts = tuple(
        jnp.asarray(golden.tensor(f"in.{group}.context_{side}")) for side in ("pos", "neg")
    )
    texts = [prepare_prompts(WAN21, dit, prompts) for dit in experts]

    vae = load_vae(golden.weights("vae"), golden.config["vae"]) if case.get("real_vae") else None
    given = encode_images(vae, golden.tensor(f"in.{name}.images"), case) if vae else None
    latents, table = plan(golden, case, given)
    yield from compare_tables(golden, case, table)

    trace = [latents]
    for i in range(table.num_steps):
        low = int(boundary is not None and table.sigmas[i].max() < boundary)
        row = table.part(i, i + 1)
        trace.append(dit_steps(experts[low], texts[low], jnp.float32(case["cfg"]), trace[-1], row))
    expected = golden.tensor(f"out.{name}.latents")
    ours = jnp.moveaxis(jnp.concatenate(trace), -1, 1)
    yield Comparison("latents", relative_error(ours, expected), 1e-4)
    if vae:
        frames = to_uint8(np.asarray(decode(vae, trace[-1]))[0])
        gap = np.abs(frames.astype(int) - golden.tensor(f"out.{name}.frames").astype(int))
        yield Comparison("frames", float(gap.max()), 1.0, "of 255")


def encode_images(vae, images, case):
    """Latents at the conditioned places: pictures one by one, or a clip in one pass."""
    places = case["cond_frame_latent_indices"]
    if case["pipeline"].endswith("v2v"):
        latents = encode(vae, jnp.asarray(to_pixels(images))[None])
        return {i: latents[:, i : i + 1] for i in places}
    encoded = (encode(vae, jnp.asarray(to_pixels(image))[None, None]) for image in images)
    return dict(zip(places, encoded, strict=True))


CHECKS["pipeline_e2e"] = check_pipeline
