"""FVDM's sampling runs with the tiny LatteVIDEO, run by the shipped `PusaPipeline`."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from check_latte import frames_last, load_dit
from flax import nnx
from golden import Comparison, Golden, remembered
from watched import WatchedPipeline

from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.inference.settings import Configs
from pusa_jax.models.latte.config import VAEConfig
from pusa_jax.models.latte.family import LATTE
from pusa_jax.models.latte.vae import FrameVAE
from pusa_jax.testing.compare import random_module, relative_error

LIMIT = 1e-5
VAE = VAEConfig(block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=4)
"""Decodes what is not compared."""


@remembered
def pipeline(golden: Golden) -> WatchedPipeline:
    autoencoder = random_module(lambda: FrameVAE(VAE, rngs=nnx.Rngs(0)))
    return WatchedPipeline(load_dit(golden), autoencoder, None, LATTE)


def run(golden: Golden, case: dict, given: list[int], noise: np.ndarray, overlap: int | None):
    """A recorded run, done by the pipeline; it keeps the steps."""
    pipe, (prompt, negative) = pipeline(golden), labels(golden)
    settings = dataclasses.replace(
        Configs(dit=pipe.config, vae=VAE).fitted(LATTE),
        num_steps=case["steps"] if overlap is None else 10,
        guidance_scale=float(golden.meta.get("cfg_scale", 1.0)),
        solver="ddpm" if case["name"].startswith("ddpm") else "ddim",
    )
    if overlap is not None:
        frames = golden.tensor(f"out.{case['name']}.video").shape[1]
        settings = dataclasses.replace(settings, num_frames=frames)
    clip = frames_last(golden.tensor("in.a.clip"))
    conditions = [
        FrameCondition(index=i, latents=clip[:, i : i + 1], multiplier=0.0) for i in given
    ]
    output = pipe(
        prompt,
        conditions=conditions,
        negative_prompt=negative,
        settings=settings,
        overlap=overlap,
        noise=jnp.asarray(noise),
    )
    return pipe, output


def labels(golden: Golden) -> tuple[str, str]:
    """The recorded classes as prompts; no class is an empty one."""
    classes = golden.config["num_classes"] if golden.has("in.a.y") else None
    recorded = [int(y) for y in golden.tensor("in.a.y")] if golden.has("in.a.y") else []
    prompt, negative = ("" if y == classes else str(y) for y in recorded or (classes, classes))
    return prompt, negative


def told(ours: np.ndarray, recorded: np.ndarray) -> Comparison:
    return Comparison(
        "timesteps that differ", float(np.count_nonzero(ours != recorded)), 0, "count"
    )


def same(what: str, ours, recorded: np.ndarray) -> Comparison:
    return Comparison(what, relative_error(jnp.moveaxis(ours, -1, -3), recorded), LIMIT)


def check(golden: Golden, case: dict):
    name, given = case["name"], case.get("cond_frames", [])
    clip, noise = (np.array(frames_last(golden.tensor(f"in.a.{x}"))) for x in ("clip", "z"))
    if name.startswith("shipped"):  # the given frame is where the run starts, and free
        noise[:, given], given = clip[:, given], []
    if name.startswith("ddpm"):
        fresh = np.moveaxis(golden.tensor("in.a.ddpm_noise"), 3, -1)[:, :1]
        noise = np.concatenate([noise[:1], *fresh])
    pipe, _ = run(golden, case, given, noise, None)
    yield told(pipe.told(), golden.tensor(f"out.{name}.t"))
    recorded = golden.tensor(f"out.{name}.latents")[:, 0]
    for done, latents in zip(case["kept_steps"], recorded, strict=True):
        yield same(f"latents after step {done}", pipe.trace()[done], latents)


def check_long(golden: Golden, case: dict):
    """Pieces of which each begins with the last frames of the one before."""
    name, overlap = case["name"], case["condition_frame_num"]
    noise = [golden.tensor("in.a.z"), *golden.tensor("in.a.long_noise")]
    noise = np.moveaxis(np.concatenate(noise), 2, -1)
    pipe, output = run(golden, case, [], noise, overlap)
    steps = pipe.told().reshape(len(noise), -1, golden.config["num_frames"])
    after = [pipe.steps[i * steps.shape[1] + steps.shape[1] - 1].after for i in range(len(noise))]
    for piece, latents in enumerate(after, 1):
        yield told(steps[piece - 1], golden.tensor(f"out.{name}.t{piece}"))
        yield same(f"piece {piece}", latents, golden.tensor(f"out.{name}.chunk{piece}"))
        if golden.has(first := f"out.{name}.chunk{piece}_step1"):
            ours = pipe.steps[(piece - 1) * steps.shape[1]].after
            yield same(f"piece {piece} after step 1", ours, golden.tensor(first))
    yield same("video", output.latents, golden.tensor(f"out.{name}.video"))


def check_any(golden: Golden, case: dict):
    return (check_long if case["name"].startswith("long") else check)(golden, case)


CHECKS = {"fvdm_trace": check_any}
