"""Wan2.2's pipelines, run by the shipped `PusaPipeline`: the official ones, Pusa's with LoRA files.

Noise and text features are the recorded ones, weights are merged by what `from_pretrained` calls.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from check_dit import load_dit
from check_sampling import any_vae
from check_vae import load_vae
from flax import nnx
from golden import Comparison, Golden, remembered
from watched import WatchedPipeline

from pusa_jax.convert.folders.merging import read_adapters
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.pipeline import Expert
from pusa_jax.models.lora import merge_all
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21, WAN22, WAN22_TI2V
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, leaves_of

PROMPT, NEGATIVE = "pos", "neg"
BOUNDARY = 0.875


def texts_of(golden: Golden, text_len: int) -> dict[str, np.ndarray]:
    """Recorded text features [L, E], zeros behind the prompt's end."""
    found = {}
    for side in (PROMPT, NEGATIVE):
        rows = golden.tensor(f"in.a.context_{side}").reshape(-1, golden_width(golden))
        found[side] = np.pad(rows, ((0, text_len - len(rows)), (0, 0)))
    return found


def golden_width(golden: Golden) -> int:
    return golden.tensor(f"in.a.context_{PROMPT}").shape[-1]


def experts(dits: Sequence[WanDiT]) -> list[Expert]:
    return [Expert(dit=d, first_level=x) for d, x in zip(dits, (BOUNDARY, 0.0), strict=True)]


def noise_of(golden: Golden) -> jnp.ndarray:
    noise = golden.tensor("in.a.noise")
    return to_house_layout(noise if noise.ndim == 5 else noise[None])


def settings_for(pipe: WatchedPipeline, noise, **changes) -> SamplingConfig:
    _, f, h, w, _ = noise.shape
    coder = pipe.autoencoder.config
    return SamplingConfig(
        height=h * coder.spatial_stride,
        width=w * coder.spatial_stride,
        num_frames=tasks.pixel_frames(f, coder.temporal_stride),
        tiled=False,
        **changes,
    )


def compare_latents(golden: Golden, name: str, trace: np.ndarray, limit: float, kept=None):
    ours = np.moveaxis(trace, -1, 1) if kept is None else np.moveaxis(trace[kept], -1, 1)
    expected = golden.tensor(f"out.{name}.latents")
    yield Comparison("latents", relative_error(ours, expected), limit)
    yield Comparison("last latents", relative_error(ours[-1], expected[-1]), limit)


def compare_experts(golden: Golden, name: str, pipe: WatchedPipeline, dits: list[WanDiT]):
    ours = [next(i for i, d in enumerate(dits) if d is step.dit) for step in pipe.steps]
    wrong = np.count_nonzero(np.asarray(ours) != golden.tensor(f"out.{name}.expert"))
    yield Comparison("steps of another expert", float(wrong), 0.0, "count")


@remembered
def a14b(golden: Golden) -> tuple[WatchedPipeline, list[WanDiT]]:
    dits = [load_dit(golden.weights(role), golden.config) for role in ("high", "low")]
    texts = texts_of(golden, dits[0].config.text_len)
    return WatchedPipeline(experts(dits), any_vae(), texts, WAN22), dits


def check_a14b(golden: Golden, case: dict):
    """One solver with its history through the switch, and a guidance scale per expert."""
    (pipe, dits), name = a14b(golden), case["name"]
    low, high = case["guide_scale_low_high"]
    noise, limit = noise_of(golden), golden.meta["recommended_rel_tolerance"]
    settings = settings_for(
        pipe,
        noise,
        solver=case["solver"],
        num_steps=case["steps"],
        shift=case["shift"],
        guidance_scale=high,
        low_guidance_scale=low,
        boundary=case["boundary"],
    )
    pipe(PROMPT, negative_prompt=NEGATIVE, settings=settings, noise=noise)
    told = golden.tensor(f"out.{name}.timesteps")[:, None]
    gap = np.abs(pipe.told() - np.broadcast_to(told, pipe.told().shape)).max()
    yield Comparison("timesteps", float(gap), 0.0, "units")
    yield from compare_latents(golden, name, pipe.trace(), limit)
    yield from compare_experts(golden, name, pipe, dits)


@remembered
def ti2v(golden: Golden) -> WatchedPipeline:
    recorded = {k: v for k, v in golden.config["dit"].items() if k != "model_type"}
    dit = load_dit(golden.weights("dit"), recorded)
    coder = load_vae(golden.weights("vae"), golden.config["vae"])
    return WatchedPipeline(dit, coder, texts_of(golden, dit.config.text_len), WAN22_TI2V)


def check_ti2v(golden: Golden, case: dict):
    """Text-to-video, and image-to-video with the picture as a frame at multiplier 0."""
    pipe, name, noise = ti2v(golden), case["name"], noise_of(golden)
    limit, given = golden.meta["recommended_rel_tolerance"], []
    if case["task"] == "i2v":
        picture = np.moveaxis(golden.tensor("out.prep.image"), 0, -1)
        frame = np.rint((picture + 1) * 127.5).astype(np.uint8)
        given = tasks.image_to_video(frame, (0,), (0.0,))
        ours = from_house_layout(pipe.encode(picture[None, None], False))[0, :, 0]
        error = relative_error(ours, golden.tensor("out.prep.latent"))
        yield Comparison("latents of the picture", error, limit)
    settings = settings_for(
        pipe,
        noise,
        solver=case["solver"],
        num_steps=case["steps"],
        shift=case["shift"],
        guidance_scale=case["guide_scale"],
    )
    output = pipe(
        PROMPT, conditions=given, negative_prompt=NEGATIVE, settings=settings, noise=noise
    )
    gap = np.abs(pipe.told() - golden.tensor(f"out.{name}.timesteps")).max()
    yield Comparison("timesteps", float(gap), 0.0, "units")
    yield from compare_latents(golden, name, pipe.trace(), limit)
    if golden.has(f"out.{name}.video"):
        video = np.moveaxis(golden.tensor(f"out.{name}.video"), 0, -1)
        expected = np.clip((video + 1) * 127.5, 0, 255).astype(np.uint8)
        gap = np.abs(output.frames[::4].astype(int) - expected.astype(int)).max()
        yield Comparison("frames", float(gap), 1.0, "of 255")


@remembered
def merged(golden: Golden, case_text: str) -> tuple[WatchedPipeline, list[WanDiT]]:
    case = next(c for c in golden.cases() if c["name"] == case_text)
    first: DiTConfig = load_dit(golden.weights("high"), golden.config).config
    distilled = golden.weights("lightx2v (both experts)")
    adapters = read_adapters(
        WAN22,
        first,
        [(golden.weights("pusa_high"), case["high_alpha"])],
        [(golden.weights("pusa_low"), case["low_alpha"])],
        [distilled, distilled] if case["lightx2v"] else (),
    )
    dits = []
    for role, files in zip(("high", "low"), adapters.values(), strict=True):
        base = load_dit(golden.weights(role), golden.config)
        leaves = merge_all(leaves_of(base), files)
        dits.append(assemble(lambda: WanDiT(first, rngs=nnx.Rngs(0)), leaves))
    pipe = WatchedPipeline(experts(dits), any_vae(), texts_of(golden, first.text_len), WAN22)
    return pipe, dits


def check_lora(golden: Golden, case: dict):
    """Pusa on Wan2.2: LightX2V's file first, then Pusa's with the strength of each expert."""
    name, limit = case["name"], golden.meta["recommended_rel_tolerance"]
    (pipe, dits), noise = merged(golden, name), noise_of(golden)
    if case is golden.cases()[0]:
        for key, index in (("high.blocks.1.self_attn.q", 0), ("low.blocks.1.ffn.2", 1)):
            layer = {"self_attn.q": "self_attn/q", "ffn.2": "ffn/down"}[key.split("1.", 1)[1]]
            kernel = np.asarray(leaves_of(dits[index])[f"blocks/{layer}/kernel"])[1].T
            error = relative_error(kernel, golden.tensor(f"out.merged.{key}.weight"))
            yield Comparison(f"merged {key}", error, 1e-6)
    clean = to_house_layout(golden.tensor("in.a.cond_latents"))
    given = [
        FrameCondition(index=i, latents=clean[:, i : i + 1], multiplier=m)
        for i, m in zip(case["cond_frame_latent_indices"], case["noise_multipliers"], strict=True)
    ]
    settings = settings_for(
        pipe,
        noise,
        num_steps=case["steps"],
        shift=case["shift"],
        guidance_scale=case["cfg"],
        boundary=case["switch_DiT_boundary"],
    )
    pipe(PROMPT, conditions=given, negative_prompt=NEGATIVE, settings=settings, noise=noise)
    gap = np.abs(pipe.told() - golden.tensor(f"out.{name}.timesteps")).max()
    yield Comparison("timesteps", float(gap), 0.0, "units")
    yield from compare_latents(golden, name, pipe.trace(), limit, case["kept_entries"])
    yield from compare_experts(golden, name, pipe, dits)


class Stand(WanDiT):
    """LightX2V's analytic model: 0.7 x + 0.2 sin(3 x) + t / 2000."""

    def __init__(self, config: DiTConfig):
        self.config, self.one = config, nnx.Param(jnp.ones(()))

    def project_text(self, text):
        return text[None, :, :, :, None], text[None, :, :, :, None]

    def __call__(self, latents, timesteps, text):
        told = timesteps[:, :, None, None, None] / 2000
        return 0.7 * latents + 0.2 * jnp.sin(3 * latents) + told


def check_lightx2v(golden: Golden, case: dict):
    """Four steps of LightX2V's scheduler are four steps of Pusa's, its switch is the boundary."""
    config = DiTConfig(dim=2, ffn_dim=1, num_heads=1, num_layers=1)
    two = case["cls"].startswith("Wan22")
    dits = [Stand(config), Stand(config)][: 1 + two]
    texts = {side: np.zeros((1, 1), np.float32) for side in (PROMPT, NEGATIVE)}
    pipe = WatchedPipeline(
        experts(dits) if two else dits[0], any_vae(), texts, WAN22 if two else WAN21
    )
    noise, name = noise_of(golden), case["name"]
    steps = len(case["denoising_step_list"])
    settings = settings_for(
        pipe, noise, num_steps=steps, shift=float(case["sample_shift"]), guidance_scale=1.0
    )
    pipe(PROMPT, negative_prompt=NEGATIVE, settings=settings, noise=noise)
    limit = golden.meta["recommended_rel_tolerance"]
    sigmas = -np.cumsum(pipe.step_sizes()[::-1, 0])[::-1]
    yield Comparison("sigmas", relative_error(sigmas, golden.tensor(f"out.{name}.sigmas")), 2e-6)
    told = pipe.told()[:, 0]
    error = relative_error(told, golden.tensor(f"out.{name}.timesteps"))
    yield Comparison("timesteps", error, 2e-6)
    ours = np.moveaxis(pipe.trace()[1:], -1, 1)
    error = relative_error(ours, golden.tensor(f"out.{name}.latents"))
    yield Comparison("latents", error, limit)
    if two:
        first = sum(step.dit is dits[0] for step in pipe.steps)
        gap = abs(first - case["boundary_step_index"])
        yield Comparison("steps of the high-noise expert", float(gap), 0.0, "count")


CHECKS = {
    "wan22_a14b_pipeline": check_a14b,
    "wan22_ti2v_pipeline": check_ti2v,
    "pipeline_e2e_lora": check_lora,
    "lightx2v_steps": check_lightx2v,
}
