"""What a run would do, in words and numbers, for `--dry_run`: nothing is read or made."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pusa_jax.devices.topologies import GIB
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.rows import rows_taken
from pusa_jax.inference.jobs import Prepared
from pusa_jax.inference.loading import place_for_text
from pusa_jax.inference.mesh_choice import Resident, device_limit, weight_bytes
from pusa_jax.inference.settings import count_passes, guidance_scales, latent_shape, plan_run
from pusa_jax.inference.text_place import PLACES
from pusa_jax.media import video


def describe_plan(prepared: Prepared) -> dict[str, Any]:
    """What a run would do, for `--dry_run`: shapes, tokens, places and multipliers, mesh, model."""
    job, configs, mesh = prepared.job, prepared.model.configs, prepared.mesh
    shape = latent_shape(job.settings, configs)
    _, f, h, w, _ = shape
    _, ph, pw = configs.dit.patch_size
    served, scales = _served(prepared)
    given = [pair for c in prepared.conditions for pair in zip(c.at, c.multipliers, strict=True)]
    return {
        "task": job.task,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "pixels": [job.settings.height, job.settings.width],
        "frames": job.settings.num_frames,
        "fps": job.settings.fps,
        "seed": job.settings.seed,
        "guidance": job.settings.guidance_scale,
        "output": str(prepared.output),
        "latents": list(shape),
        "tokens": f * (h // ph) * (w // pw),
        "given": {str(place): multiplier for place, multiplier in sorted(given)},
        "sources": {path: _rate_in_words(prepared, path) for path in job.inputs},
        "steps": job.settings.num_steps,
        "solver": job.settings.solver,
        "rows": _rows(job.settings),
        "passes_per_step": 2 if job.settings.is_guided else 1,
        "passes": count_passes(scales),
        "passes_of_full_table": job.settings.full_passes,
        **describe_experts(prepared, served, scales),
        "mesh": dict(mesh.shape),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "memory": _memory(prepared),
        "text_encoder": PLACES[place_for_text(prepared.model, mesh, job.dtype, prepared.resident)],
        "dit": dataclasses.asdict(configs.dit),
        "lora": [list(pair) for pair in job.lora],
        "lightx2v": list(job.lightx2v),
    }


def _memory(prepared: Prepared) -> dict[str, Any]:
    """GiB of each device that the denoisers take, and that there are; None where not known."""
    mesh, family = prepared.mesh, prepared.model.family
    resident = len(family.experts) if prepared.resident == "all" else 1
    one = weight_bytes(mesh, family, prepared.model.configs.dit, prepared.job.dtype)
    limit = device_limit(mesh)
    return {
        "denoisers_gib_per_device": round(resident * one / GIB, 3),
        "device_gib": None if limit is None else round(limit / GIB, 3),
        "all_of_a_step": "pusa-jax plan infer",
    }


def _rows(settings: SamplingConfig) -> str | list[int]:
    """Which rows of the fine table are taken, if not a whole table."""
    return "all" if settings.rows == "even" else [*rows_taken(settings.rows, settings.num_steps)]


def _boundary(prepared: Prepared) -> float:
    """The noise level at which the second of two experts takes over; 0 of a single one."""
    model, asked = prepared.model, prepared.job.settings.boundary
    if len(model.family.experts) == 1:
        return 0.0
    return next(iter(model.folder.first_levels.values())) if asked is None else asked


def _served(prepared: Prepared) -> tuple[list[int], list[float]]:
    """Which expert takes each step, and with which guidance scale, whatever length the clip has."""
    settings, model = prepared.job.settings, prepared.model
    length = model.configs.fitted(model.family).num_frames
    piece = dataclasses.replace(settings, num_frames=length)
    levels = plan_run(model.family, piece, [], model.configs).levels
    served = [int(level < _boundary(prepared)) for level in levels]
    return served, guidance_scales(settings, served)


def describe_experts(
    prepared: Prepared, served: Sequence[int], scales: Sequence[float]
) -> dict[str, Any]:
    """Which steps each of several experts takes, with which guidance, and where they lie."""
    if len(prepared.model.family.experts) == 1:
        return {}
    job, levels = prepared.job, prepared.model.folder.first_levels
    return {
        "boundary": _boundary(prepared),
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
