"""A sampling job: everything that decides a video, as plain values that travel inside its file.

The command line makes a job, runs it and writes the mp4 with the job embedded; `rerun` takes it out
of the file and runs it again.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh

import pusa_jax
from pusa_jax.devices import processes
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import check_conditions
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.files import fingerprints
from pusa_jax.files.atomic import check_writable
from pusa_jax.files.records import FieldError, convert, rebuild
from pusa_jax.inference.loading import Model, check_model, load_parts, open_model
from pusa_jax.inference.mesh_choice import check_memory, choose_mesh
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.inference.settings import check_all, latent_shape
from pusa_jax.media import video
from pusa_jax.progress import Progress, no_progress
from pusa_jax.typing import Precision, SourceRate

Task = Literal["t2v", "i2v", "start-end", "interpolate", "complete", "extend", "transition", "loop"]
TASKS: tuple[Task, ...] = get_args(Task)
Fit = Literal["crop", "letterbox", "stretch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One video to be made.

    Attributes:
      model: folder of a published or converted model.
      lora: (file, strength) pairs, merged in order.
      inputs: image files (i2v, start-end, interpolate, loop) or video files (complete, extend,
        transition).
      at: places of the given latent frames; None is the task's default.
      multipliers: their noise multipliers; None is the task's default.
      clip_start: first frame taken of the video to extend; None takes its last frames.
      fit: how inputs are brought to size: crop, letterbox or stretch.
      source_fps: "model" brings clips to the model's frame rate; "keep" takes frame by frame.
      mesh: sizes of its axes; None is the sensible one for the devices there are.
    """

    task: Task
    model: str
    prompt: str
    negative_prompt: str
    lora: tuple[tuple[str, float], ...] = ()
    inputs: tuple[str, ...] = ()
    at: tuple[int, ...] | None = None
    multipliers: tuple[float, ...] | None = None
    clip_start: int | None = None
    fit: Fit = "crop"
    dtype: Precision = "bfloat16"
    source_fps: SourceRate = "model"
    mesh: dict[str, int] | None = None
    settings: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"the {name} must be UTF-8, but character {error.start + 1} is not."
                ) from None

    def as_record(self) -> dict[str, Any]:
        """The job as JSON values, with fingerprints of its input files."""
        loras = (file for file, _ in self.lora)
        return dataclasses.asdict(self) | {
            "sha256": {path: fingerprints.of_file(path) for path in (*self.inputs, *loras)}
        }

    @classmethod
    def from_record(cls, record: Any, beside: Path | None = None) -> "Job":
        """The inverse of `as_record`.

        Args:
          record: plain values.
          beside: folder that input files are looked for in as well, known by their fingerprints;
            `inputs` and `lora` of the job then name the files that were found.

        Raises:
          ValueError: a field is missing or unknown, or an input file is missing or has changed.
        """
        if not isinstance(record, dict):
            raise ValueError(f"the file describes no job: expected a table, got {record!r:.60}.")
        record = dict(record)
        prints = record.pop("sha256", {})
        if "fps" in record and isinstance(record.get("settings"), dict):  # videos up to 0.1
            record["settings"] = record["settings"] | {"fps": record.pop("fps")}
        record = {"source_fps": "keep"} | record  # up to 0.1 frames were taken one by one
        job = rebuild(cls, record | {"settings": record.get("settings")})  # never the defaults
        try:
            expected = convert(prints, dict[str, str], "sha256")
        except FieldError:
            message = "the file describes no job: it has no fingerprints of input files."
            raise ValueError(message) from None
        found = {path: located(path, known, beside) for path, known in expected.items()}
        return dataclasses.replace(
            job,
            inputs=tuple(found.get(path, path) for path in job.inputs),
            lora=tuple((found.get(path, path), strength) for path, strength in job.lora),
        )


def located(path: str, fingerprint: str, beside: Path | None = None) -> str:
    """Where an input of an earlier run is now: at its path, or beside the video.

    Raises:
      ValueError: it is at none of these places, or has changed.
    """
    places = [Path(path)]
    if beside is not None:
        places += [beside / path, beside / re.split(r"[/\\]", path)[-1]]
    there = list(dict.fromkeys(place for place in places if place.is_file()))
    for place in there:
        if fingerprints.of_file(place) == fingerprint:
            return path if place == Path(path) else str(place)
    if there:
        raise ValueError(f"input {there[0]} has changed since the video was made.")
    other = "" if beside is None else f", nor beside the video in {beside.absolute()}"
    raise ValueError(f"input {path} is not there any more{other}; put it back to rerun.")


def read_conditions(job: Job, stride: int, model_fps: float | None = None) -> list[tasks.Condition]:
    """Reads and fits the input files of a job and lays them out.

    Args:
      job: what is to be made.
      stride: pixel frames of a latent frame.
      model_fps: frames per second that clips are brought to, unless the job keeps theirs or this is
        None.

    Raises:
      ValueError, FileNotFoundError: an input is missing, broken or too short, their number is
        wrong, or places and multipliers make no sense.
    """
    f = tasks.latent_frames(job.settings.num_frames, stride)
    height, width = job.settings.height, job.settings.width
    if job.at is not None:  # before files are read for places that do not exist
        check_conditions(job.at, job.multipliers or [1.0] * len(job.at), f)

    def image(path):
        return video.fit(video.read_image(path), height, width, job.fit)

    fps = None if job.source_fps == "keep" else model_fps

    def clip(path, count, start=0):
        return video.fit(video.read_video(path, count, start, fps)[0], height, width, job.fit)

    given = (job.at, job.multipliers)
    match job.task, job.inputs:
        case "t2v", ():
            return []
        case "i2v", (path,):
            return tasks.image_to_video(image(path), *given)
        case "loop", (path,):
            return tasks.loop(image(path), f, *given)
        case "start-end", (first, last):
            return tasks.start_end(image(first), image(last), f, *given)
        case "interpolate", paths if len(paths) >= 2:
            return tasks.interpolate([image(path) for path in paths], f, *given)
        case "complete", (path,):
            needed = tasks.pixel_frames(max(job.at or (f - 1,)) + 1, stride)
            return tasks.complete(clip(path, needed), f, stride, *given)
        case "extend", (path,):
            check_conditions(places := job.at or tasks.EXTENSION, [1.0] * len(places), f)
            needed = tasks.pixel_frames(max(places) + 1, stride)
            start = -needed if job.clip_start is None else job.clip_start
            return tasks.extend(clip(path, needed, start), stride, *given)
        case "transition", (first, second):
            opening, closing = tasks.transition_frames(f, stride, job.at)
            clips = clip(first, opening, -opening), clip(second, closing)
            return tasks.transition(*clips, f, stride, *given)
    raise ValueError(f"{job.task} takes {INPUTS_TAKEN[job.task]}, got {len(job.inputs)}.")


INPUTS_TAKEN = {
    "t2v": "no input file",
    "i2v": "one image",
    "loop": "one image",
    "start-end": "two images",
    "interpolate": "two or more images",
    "complete": "one video",
    "extend": "one video",
    "transition": "two videos",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job that was held against its model and devices and found good; its inputs are read."""

    job: Job
    output: Path
    model: Model
    conditions: list[tasks.Condition]
    mesh: Mesh


def prepare(job: Job, output: str | Path, model: Model | None = None) -> Prepared:
    """Finds everything that can be wrong with a job; reads inputs, but no weights.

    Args:
      job: what is to be made.
      output: where.
      model: the job's model and LoRA files, where they are open already.

    Raises:
      ValueError, OSError: one line saying what is wrong with output, model, settings, LoRA files,
        mesh or inputs.
    """
    check_output(output, (*job.inputs, *(file for file, _ in job.lora)))
    model = open_model(job.model, job.lora) if model is None else model
    configs, settings = model.configs, job.settings
    latents = latent_shape(settings, configs)
    fps = float(model.family.sampling.fps)
    conditions = read_conditions(job, configs.vae.temporal_stride, fps)
    check_all(conditions, latents[1])
    mesh = choose_mesh(job.mesh, configs.dit, guided=settings.guidance_scale != 1)
    check_memory(mesh, configs.dit, job.dtype)
    check_model(model, job.dtype)
    return Prepared(job=job, output=Path(output), model=model, conditions=conditions, mesh=mesh)


def run(
    prepared: Prepared,
    on_progress: Progress = no_progress,
    pipeline: PusaPipeline | None = None,
) -> tuple[Output, dict[str, Any]]:
    """Samples a job and writes the mp4 with the job inside; of several processes, the first does.

    Args:
      prepared: the job.
      on_progress: told about each stage.
      pipeline: the job's model, LoRA files and dtype, where they are loaded already.

    Returns:
      what was sampled, and the record embedded in the file.
    """
    job = prepared.job
    if pipeline is None:
        parts = load_parts(
            prepared.model, dtype=job.dtype, mesh=prepared.mesh, on_progress=on_progress
        )
        pipeline = PusaPipeline(**vars(parts))
    result = pipeline(
        job.prompt,
        conditions=prepared.conditions,
        negative_prompt=job.negative_prompt,
        settings=job.settings,
        on_progress=on_progress,
    )
    record = embedded_record(job, result, prepared.mesh)
    if processes.is_first():
        video.write_video(prepared.output, result.frames, job.settings.fps, record)
    return result, record


def check_output(output: str | Path, inputs: Sequence[str] = ()) -> None:
    """Makes sure, before any work, that the video can be written and replaces no input.

    Raises:
      ValueError: not an .mp4, or it is one of the inputs, also by another name.
      OSError: the folder cannot be written.
    """
    if Path(output).suffix.lower() != ".mp4":
        raise ValueError(f"the output must end in .mp4, got {str(output)!r}.")
    for path in inputs:
        if Path(output).exists() and Path(path).exists() and Path(output).samefile(path):
            raise ValueError(f"the output {output} is the input {path}; choose another name.")
    check_writable(output)


def unused(output: str | Path) -> Path:
    """The name itself, or the first of NAME-2.mp4, NAME-3.mp4, ... that is free."""
    path = Path(output)
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if not os.path.lexists(one))


def embedded_record(job: Job, output: Output, mesh: Mesh) -> dict[str, Any]:
    """What is written into the video: the job, how it was run, and a fingerprint of its latents."""
    device = jax.devices()[0]
    return {
        "job": job.as_record(),
        "latents_sha256": output.latents_sha256(),
        "seconds": output.seconds,
        "pusa_jax": pusa_jax.__version__,
        "jax": jax.__version__,
        "backend": f"{device.platform} {device.device_kind}",
        "mesh": dict(mesh.shape),
    }


def describe_plan(prepared: Prepared) -> dict[str, Any]:
    """What a run would do, for `--dry_run`: shapes, tokens, places and multipliers, mesh, model."""
    job, configs, mesh = prepared.job, prepared.model.configs, prepared.mesh
    shape = latent_shape(job.settings, configs)
    _, f, h, w, _ = shape
    _, ph, pw = configs.dit.patch_size
    given = [pair for c in prepared.conditions for pair in zip(c.at, c.multipliers, strict=True)]
    return {
        "task": job.task,
        "latents": list(shape),
        "tokens": f * (h // ph) * (w // pw),
        "given": {str(place): multiplier for place, multiplier in sorted(given)},
        "sources": {path: _rate_in_words(prepared, path) for path in job.inputs},
        "steps": job.settings.num_steps,
        "passes_per_step": 1 if job.settings.guidance_scale == 1 else 2,
        "mesh": dict(mesh.shape),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "dit": dataclasses.asdict(configs.dit),
        "lora": [list(pair) for pair in job.lora],
    }


def _rate_in_words(prepared: Prepared, path: str) -> str:
    """What becomes of the frame rate of an input."""
    if prepared.job.task not in ("complete", "extend", "transition"):
        return "a picture"
    rate, fps = video.frame_rate(path), float(prepared.model.family.sampling.fps)
    if prepared.job.source_fps == "keep":
        return f"{rate:.4g} frames per second, kept frame by frame"
    return f"{rate:.4g} frames per second, resampled by timestamps to {fps:g}"
