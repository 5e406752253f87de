"""What a prepared job would do, in words and numbers, for `--dry_run`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pusa_jax.inference.jobs import Prepared
from pusa_jax.inference.mesh_choice import Resident
from pusa_jax.inference.settings import guidance_scales, latent_shape, plan_run
from pusa_jax.media import video


def describe_plan(prepared: Prepared) -> dict[str, Any]:
    """What a run would do, for `--dry_run`: shapes, tokens, places and multipliers, mesh, model."""
    job, configs, mesh = prepared.job, prepared.model.configs, prepared.mesh
    shape = latent_shape(job.settings, configs)
    _, f, h, w, _ = shape
    _, ph, pw = configs.dit.patch_size
    given = [pair for c in prepared.conditions for pair in zip(c.at, c.multipliers, strict=True)]
    return {
        "task": job.task,
        "output": str(prepared.output),
        "latents": list(shape),
        "tokens": f * (h // ph) * (w // pw),
        "given": {str(place): multiplier for place, multiplier in sorted(given)},
        "sources": {path: _rate_in_words(prepared, path) for path in job.inputs},
        "steps": job.settings.num_steps,
        "solver": job.settings.solver,
        "passes_per_step": 2 if job.settings.is_guided else 1,
        **describe_experts(prepared),
        "mesh": dict(mesh.shape),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "dit": dataclasses.asdict(configs.dit),
        "lora": [list(pair) for pair in job.lora],
        "lightx2v": list(job.lightx2v),
    }


def describe_experts(prepared: Prepared) -> dict[str, Any]:
    """Which steps each of several experts takes, with which guidance, and where they lie."""
    job, model = prepared.job, prepared.model
    if len(model.family.experts) == 1:
        return {}
    levels = model.folder.first_levels
    first = next(iter(levels))
    boundary = levels[first] if job.settings.boundary is None else job.settings.boundary
    table = plan_run(model.family, job.settings, prepared.conditions, model.configs)
    served = [int(level < boundary) for level in table.levels]
    scales = guidance_scales(job.settings, served)
    return {
        "boundary": boundary,
        "experts": {
            name: {
                "steps": served.count(i),
                "guidance": sorted(
                    {scale for scale, j in zip(scales, served, strict=True) if j == i}
                ),
            }
            for i, name in enumerate(levels)
        },
        "experts_on_devices": ON_DEVICES[prepared.resident],
        "low_lora": [list(pair) for pair in job.low_lora],
    }


ON_DEVICES: Mapping[Resident, str] = {
    "all": "all",
    "one": "one, the other waits in the host's memory",
}


def _rate_in_words(prepared: Prepared, path: str) -> str:
    """What becomes of the frame rate of an input."""
    if prepared.job.task not in ("complete", "extend", "transition"):
        return "a picture"
    rate, fps = video.frame_rate(path), float(prepared.model.family.sampling.fps)
    if prepared.job.source_fps == "keep":
        return f"{rate:.4g} frames per second, kept frame by frame"
    return f"{rate:.4g} frames per second, resampled by timestamps to {fps:g}"
