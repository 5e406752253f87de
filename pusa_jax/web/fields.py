"""What a video's record means on the page: its settings as values of the fields."""

from pathlib import Path
from typing import Any

from pusa_jax.files.records import rebuild
from pusa_jax.inference import packaged
from pusa_jax.inference.jobs import Job
from pusa_jax.inference.layout import Layout
from pusa_jax.media.outputs import read_record
from pusa_jax.web.asked import Asked
from pusa_jax.web.folders import Folders, is_inside

FIELDS = {"num_inference_steps": "num_steps", "cfg_scale": "guidance_scale"}
"""Flags whose field of `SamplingConfig` has another name."""

FROM_SETTINGS = ("num_frames", "height", "width", "num_inference_steps", "cfg_scale", "shift")


def asked_by(path: Path, folders: Folders) -> tuple[Asked, list[str]]:
    """The settings in a video as the page has them, and a line for what it cannot take over.

    Nothing that the record names is read, and only what lies in the page's own folders is named.

    Raises:
      ValueError, FileNotFoundError: the video carries no job.
    """
    record = read_record(path)
    if not isinstance(record.get("job"), dict):
        raise ValueError(f"{path.name} carries no job; it was not written by pusa-jax.")
    plain = {k: v for k, v in record["job"].items() if k not in ("sha256", "folder")}
    job = rebuild(Job, plain)
    model, strange = _model(job, folders)
    lora, strength = _lora(job, folders, strange)
    kept = [p for p in job.inputs if is_inside(p, folders.output / "inputs")]
    if len(kept) < len(job.inputs):
        strange.append("its inputs are not in the page's folder: drop them again")
        kept = []
    settings = {
        name: getattr(job.settings, FIELDS.get(name, name))
        for name in (*FROM_SETTINGS, "solver", "seed", "fps")
    }
    asked = Asked(
        task=job.task,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        model=model,
        lora=lora,
        strength=strength,
        inputs=tuple(kept),
        given=_given(job, record),
        settings=settings,
    )
    return asked, strange


def _model(job: Job, folders: Folders) -> tuple[str, list[str]]:
    name = packaged.named(job.model)
    known = {folders.model(known): known for known in folders.model_names()}
    if name in known:
        return known[name], []
    return packaged.NAME, [f"its model {Path(name).name} is not below --models"]


def _lora(job: Job, folders: Folders, strange: list[str]) -> tuple[str, float]:
    """The one LoRA file of the page; the tiny model's own stays unsaid."""
    known = {folders.lora(known): known for known in folders.lora_names()}
    found = [(known[path], strength) for path, strength in job.lora if path in known]
    own = [p for p, _ in job.lora if packaged.named(p).startswith(packaged.NAME)]
    if len(found) + len(own) < len(job.lora_files) or len(found) > 1:
        strange.append("not all of its LoRA files are below --models")
    return found[0] if found else ("", 1.0)


def _given(job: Job, record: dict[str, Any]) -> tuple[tuple[int, float], ...]:
    if job.at is not None and job.multipliers is not None:
        return tuple(zip(job.at, job.multipliers, strict=True))
    layout = rebuild(Layout, record.get("layout"))
    return tuple(zip(layout.at, layout.multipliers, strict=True))


def file_places(asked: Asked, kind: str) -> list[int]:
    """Where the timeline shows each input: a picture at its place, clips one behind the other."""
    places = [at for at, _ in asked.given]
    if kind == "picture" and len(places) >= len(asked.inputs):
        return places[: len(asked.inputs)]
    return list(range(len(asked.inputs)))
