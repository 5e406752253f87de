"""Recorded runs the shipped pipeline cannot do yet, from its parts and a loop written here.

Pusa's multi-frame pipeline without any frame given: it truncates timesteps, ours takes it for
text-to-video and does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from golden import Golden

from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.guidance import guided
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.models.wan.schedule import noise_table
from pusa_jax.testing.compare import to_house_layout


def given_latents(golden: Golden, case: dict) -> list[FrameCondition]:
    """The recorded latents at the conditioned places."""
    group = golden.meta["inputs_of"][case["name"]]
    recorded = to_house_layout(golden.tensor(f"in.{group}.cond_latents"))
    places, multipliers = case["cond_frame_latent_indices"], case["noise_multipliers"]
    return [
        FrameCondition(index=i, latents=recorded[:, i : i + 1], multiplier=m)
        for i, m in zip(places, multipliers, strict=True)
    ]


def plan_by_hand(golden: Golden, case: dict):
    """Start latents and noise table of a recorded run in float32."""
    group = golden.meta["inputs_of"][case["name"]]
    noise = to_house_layout(golden.tensor(f"in.{group}.noise"))
    clean, multipliers = place(given_latents(golden, case), noise)
    truncate = not case["pipeline"].endswith("t2v")
    table = noise_table(case["steps"], case["shift"], multipliers, truncate=truncate)
    return start(clean, noise, table), table


def run_without_conditions(golden: Golden, case: dict, velocity, prompts):
    """Latents before the first step and after each, and the table.

    The network is given as a function of latents, timesteps and prompt.
    """
    guide = guided(velocity, prompts, jnp.float32(case["cfg"]))
    latents, table = plan_by_hand(golden, case)
    trace, step = [latents], jax.jit(lambda x, row: denoise(guide, x, row))
    for i in range(table.num_steps):
        trace.append(step(trace[-1], table.part(i, i + 1)))
    return np.concatenate(trace), table
