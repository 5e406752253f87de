"""Pusa's pipelines, run by the shipped `PusaPipeline`: with an analytic model, with the tiny DiT.

Noise and text features are the recorded ones. Given frames are pixels where the recording has a
VAE, else recorded latents.
"""

import jax.numpy as jnp
import numpy as np
from check_dit import load_dit
from check_vae import load_vae
from flax import nnx
from golden import Comparison, Golden, remembered
from watched import WatchedPipeline

from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.pipeline import Expert, Output
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.testing.compare import random_module, relative_error, to_house_layout
from pusa_jax.typing import Precision

SIDES = ("pos", "neg")
ANALYTIC_PROMPTS = {"pos": 0.05, "neg": -0.02}
VAE = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)


def any_vae() -> WanVAE:
    """Decodes what is not compared."""
    return random_module(lambda: WanVAE(VAE, rngs=nnx.Rngs(0)))


def run(pipe: WatchedPipeline, golden: Golden, case: dict, prompts: tuple[str, str]) -> Output:
    """A recorded run, done by the pipeline."""
    group = golden.meta["inputs_of"][case["name"]]
    noise = to_house_layout(golden.tensor(f"in.{group}.noise"))
    _, f, h, w, _ = noise.shape
    stride = pipe.autoencoder.config.temporal_stride
    settings = SamplingConfig(
        height=h * pipe.autoencoder.config.spatial_stride,
        width=w * pipe.autoencoder.config.spatial_stride,
        num_frames=tasks.pixel_frames(f, stride),
        num_steps=case["steps"],
        guidance_scale=case["cfg"],
        shift=case["shift"],
        tiled=False,
    )
    if case.get("real_vae"):
        given = given_pixels(golden.tensor(f"in.{case['name']}.images"), case, stride)
    else:
        given = given_latents(golden, case)
    prompt, negative = prompts
    return pipe(prompt, conditions=given, negative_prompt=negative, settings=settings, noise=noise)


def given_latents(golden: Golden, case: dict) -> list[FrameCondition]:
    """The recorded latents at the conditioned places.

    Pusa's multi-frame pipeline truncates timesteps even if it is given nothing. A frame given at
    multiplier 1 is nothing but noise, so that is the same run of ours.
    """
    group = golden.meta["inputs_of"][case["name"]]
    places, multipliers = case["cond_frame_latent_indices"], case["noise_multipliers"]
    if not places and not case["pipeline"].endswith("t2v"):
        places, multipliers = [0], [1.0]
    recorded = to_house_layout(golden.tensor(f"in.{group}.cond_latents"))
    return [
        FrameCondition(index=i, latents=recorded[:, i : i + 1], multiplier=m)
        for i, m in zip(places, multipliers, strict=True)
    ]


def given_pixels(images: np.ndarray, case: dict, stride: int) -> list[tasks.Condition]:
    """Pictures one by one, or a clip in one pass."""
    wanted = case["cond_frame_latent_indices"], case["noise_multipliers"]
    if case["pipeline"].endswith("v2v"):
        return tasks.video_at(images, *wanted, stride)
    return tasks.images_at([*images], *wanted)


def compare(golden: Golden, case: dict, told, step_sizes, trace, limit: float):
    """What the network was told, how far each frame was moved and where it lay after each step."""
    name = case["name"]
    recorded = golden.tensor(f"out.{name}.timesteps").astype(np.float64)
    gap = np.abs(np.broadcast_to(np.asarray(told, np.float64), recorded.shape) - recorded)
    if case["pipeline"].endswith("t2v") and case.get("torch_dtype") != "bfloat16":
        yield Comparison("timesteps", float(np.linalg.norm(gap) / np.linalg.norm(recorded)), 2e-6)
    else:
        yield Comparison("timesteps", float(gap.max()), 0.0, "units")
    yield Comparison(
        "step sizes", relative_error(step_sizes, golden.tensor(f"out.{name}.dsigma")), 2e-6
    )
    if case.get("torch_dtype") == "bfloat16":
        return  # the recorded latents mix bfloat16 and float32
    ours = jnp.moveaxis(jnp.asarray(trace), -1, 1)
    yield Comparison("latents", relative_error(ours, golden.tensor(f"out.{name}.latents")), limit)


class AnalyticDiT(WanDiT):
    """The model of the trace files: linear in latents, timestep and a number for the prompt."""

    def __init__(self, config: DiTConfig, gain: np.ndarray):
        self.config, self.gain = config, nnx.Param(jnp.asarray(gain))

    def project_text(self, text):
        number = text[None, :, :, :, None]
        return number, number

    def __call__(self, latents, timesteps, text):
        neighbour = jnp.roll(latents, -1, axis=-1)
        told = (timesteps / 1000)[:, :, None, None, None] * self.gain[...][None, None, None, None]
        mean = latents.mean(1, keepdims=True)
        return 0.3 * latents - 0.2 * neighbour + 0.1 * mean + told + text[0].mean()


@remembered
def analytic_pipeline(golden: Golden, dtype: Precision) -> WatchedPipeline:
    config = DiTConfig(dim=2, ffn_dim=1, num_heads=1, num_layers=1, compute_dtype=dtype)
    texts = {side: np.full((1, 1), x, np.float32) for side, x in ANALYTIC_PROMPTS.items()}
    return WatchedPipeline(AnalyticDiT(config, golden.tensor("in.g")), any_vae(), texts)


def check_trace(golden: Golden, case: dict):
    pipe = analytic_pipeline(golden, case.get("torch_dtype", "float32"))
    run(pipe, golden, case, SIDES)
    yield from compare(golden, case, pipe.told(), pipe.step_sizes(), pipe.trace(), 1e-5)


@remembered
def recorded_pipeline(golden: Golden, boundary: float | None) -> WatchedPipeline:
    """The networks of a file and the texts of all its groups."""
    dits = [
        load_dit(golden.weights(name), golden.config[name])
        for name in (("dit",) if boundary is None else ("dit", "dit2"))
    ]
    levels = (boundary or 0.0, 0.0)[-len(dits) :]
    experts = [Expert(dit=dit, first_level=x) for dit, x in zip(dits, levels, strict=True)]
    with_vae = "vae" in golden.config
    vae = load_vae(golden.weights("vae"), golden.config["vae"]) if with_vae else any_vae()
    groups = sorted(set(golden.meta["inputs_of"].values()))
    texts = {f"{g} {side}": context(golden, g, side)[0] for g in groups for side in SIDES}
    return WatchedPipeline(experts, vae, texts)


def context(golden: Golden, group: str, side: str) -> np.ndarray:
    """Recorded text features [1, L, E]."""
    return golden.tensor(f"in.{group}.context_{side}")


def check_pipeline(golden: Golden, case: dict):
    """A whole run with the tiny DiT, or with two of them, each for its range of noise levels."""
    boundary = case.get("switch_DiT_boundary")
    pipe, group = recorded_pipeline(golden, boundary), golden.meta["inputs_of"][case["name"]]
    output = run(pipe, golden, case, (f"{group} pos", f"{group} neg"))
    yield from compare(golden, case, pipe.told(), pipe.step_sizes(), pipe.trace(), 1e-4)
    last = np.moveaxis(golden.tensor(f"out.{case['name']}.latents")[-1:], 1, -1)
    yield Comparison("final latents", relative_error(output.latents, last), 1e-4)
    if case.get("real_vae"):
        frames = golden.tensor(f"out.{case['name']}.frames").astype(int)
        gap = np.abs(output.frames.astype(int) - frames)
        yield Comparison("frames", float(gap.max()), 1.0, "of 255")


CHECKS = {"sched_trace_pipeline": check_trace, "pipeline_e2e": check_pipeline}
