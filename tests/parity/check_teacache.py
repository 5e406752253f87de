"""TeaCache in Pusa's pipelines: which steps are left out, and the latents it leads to.

Kind teacache. The recorded cache goes on when the expert changes, as the original's does.
"""

import numpy as np
from check_dit import load_dit
from check_sampling import any_vae
from check_wan22 import NEGATIVE, PROMPT, experts, noise_of, settings_for, texts_of
from flax import nnx
from golden import Comparison, Golden, remembered
from watched import WatchedPipeline

from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import TeaCache
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21, WAN22
from pusa_jax.models.wan.teacache import changes, left_out, polynomial_of
from pusa_jax.testing.compare import relative_error, to_house_layout

SMALLER = 0.025
"""Factor of the time projection, so that changes have the size the polynomials were made for."""


@remembered
def networks(golden: Golden, text: str) -> list[WanDiT]:
    """Both experts; `text` is what the case says of the second one's time modules."""
    dits = [load_dit(golden.weights(role), golden.config) for role in ("high", "low")]
    dits = [nnx.clone(dit) for dit in dits]  # the recorded ones are kept for other kinds
    for dit in dits:
        dit.time_projection.kernel[...] = dit.time_projection.kernel[...] * SMALLER
    if text == "copied from high":
        dits[1].time_embedding = dits[0].time_embedding
        dits[1].time_projection = dits[0].time_projection
    return dits


def check_teacache(golden: Golden, case: dict):
    name, limit = case["name"], golden.meta["recommended_rel_tolerance"]
    dits = networks(golden, case.get("low_time_modules", ""))
    two = case["pipe"] == "22"
    texts = texts_of(golden, dits[0].config.text_len)
    pipe = WatchedPipeline(
        experts(dits) if two else dits[0], any_vae(), texts, WAN22 if two else WAN21
    )
    noise = noise_of(golden)
    clean = to_house_layout(golden.tensor("in.a.cond_latents"))
    # This pipeline of Pusa's truncates timesteps even where nothing is given.
    places, multipliers = (case["cond"], case["mult"]) if case["cond"] else ([0], [1.0])
    given = [
        FrameCondition(index=i, latents=clean[:, i : i + 1], multiplier=m)
        for i, m in zip(places, multipliers, strict=True)
    ]
    cache = TeaCache(
        threshold=case["thresh"],
        polynomial=case["model_id"].rpartition("-")[2],
        original=True,
    )
    settings = settings_for(
        pipe,
        noise,
        num_steps=case["steps"],
        shift=case["shift"],
        guidance_scale=case["cfg"],
        boundary=case["switch_DiT_boundary"] if two else None,
        teacache=cache,
    )
    output = pipe(
        PROMPT, conditions=given, negative_prompt=NEGATIVE, settings=settings, noise=noise
    )
    told = golden.tensor(f"out.{name}.timesteps")
    yield Comparison("timesteps", relative_error(pipe.told(), told), 2e-6)
    served = [next(i for i, dit in enumerate(dits) if dit is step.dit) for step in pipe.steps]
    changed = changes(lambda i: dits[i], pipe.told(), served)
    yield Comparison("changes", relative_error(changed, golden.tensor(f"out.{name}.rel_l1")), limit)
    skipped, sums = left_out(
        changed, cache.threshold, polynomial_of(cache, dits[0].config), [False] * len(served)
    )
    recorded = golden.tensor(f"out.{name}.skipped").astype(bool)
    wrong = np.count_nonzero(np.asarray(skipped) != recorded)
    yield Comparison("decisions", float(wrong), 0.0, "count")
    accumulated = golden.tensor(f"out.{name}.accumulated")
    yield Comparison("sums", relative_error(np.asarray(sums), accumulated), limit)
    passes = (1 + (case["cfg"] != 1)) * np.count_nonzero(~recorded)
    yield Comparison("passes", float(abs(output.passes - passes)), 0.0, "count")
    last = np.moveaxis(golden.tensor(f"out.{name}.final")[None], 1, -1)
    yield Comparison("latents", relative_error(output.latents, last), limit)


CHECKS = {"teacache": check_teacache}
