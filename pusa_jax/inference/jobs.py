"""A sampling job: everything that decides a video, as plain values that travel inside its file.

The command line makes a job, runs it and writes the mp4 with the job embedded; `rerun` takes it out
of the file and runs it again.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

import pusa_jax
from pusa_jax.convert.folders.merging import is_for_few_steps
from pusa_jax.devices import processes
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import check_conditions
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.sampling import rows_of
from pusa_jax.files import claims, fingerprints
from pusa_jax.files.records import FieldError, convert, rebuild
from pusa_jax.inference import job_files, packaged
from pusa_jax.inference.cautions import cautions
from pusa_jax.inference.loading import Model, check_model, check_tiles, load_parts, open_model
from pusa_jax.inference.mesh_choice import (
    Resident,
    check_memory,
    choose_mesh,
    choose_resident,
    device_limit,
)
from pusa_jax.inference.pieces import check_given, pieces_of
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.inference.settings import check_experts, latent_shape, plan_run
from pusa_jax.media import video
from pusa_jax.media.outputs import write_clip
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
      lora: (file, strength) pairs, merged in order; of two experts, into that for high noise.
      low_lora: the same for the low-noise expert.
      lightx2v: LoRA files for a few steps, one per denoiser, merged before the others.
      add_differences: whether full differences in LoRA files are added; Pusa's loaders ignore them.
      inputs: image files (i2v, start-end, interpolate, loop) or video files (complete, extend,
        transition).
      at: places of the given latent frames; None is the task's default.
      multipliers: their noise multipliers; None is the task's default.
      overlap: latent frames that each piece of a longer clip takes over from the one before.
      clip_start: first frame taken of the video to extend; None takes its last frames.
      joined: the beginnings of both videos of a transition are encoded as one clip, with the cut in
        it, as Pusa V0.5 does; else the end of the first and the beginning of the second.
      resident: of a model with two experts, which lie on the devices; None is what fits.
      fit: how inputs are brought to size: crop, letterbox or stretch.
      source_fps: "model" brings clips to the model's frame rate; "keep" takes frame by frame.
      mesh: sizes of its axes; None is the sensible one for the devices there are.
    """

    task: Task
    model: str
    prompt: str
    negative_prompt: str
    lora: tuple[tuple[str, float], ...] = ()
    low_lora: tuple[tuple[str, float], ...] = ()
    lightx2v: tuple[str, ...] = ()
    add_differences: bool = True
    inputs: tuple[str, ...] = ()
    at: tuple[int, ...] | None = None
    multipliers: tuple[float, ...] | None = None
    overlap: int | None = None
    clip_start: int | None = None
    joined: bool = False
    fit: Fit = "crop"
    dtype: Precision = "bfloat16"
    resident: Resident | None = None
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
        """The job as JSON values, with the folder it was made in and fingerprints of its files."""
        files = (*self.inputs, *self.lora_files)
        prints = {packaged.named(path): fingerprints.of_file(path) for path in files}
        plain = dataclasses.asdict(self._with_paths(packaged.named))
        return plain | {"folder": os.getcwd(), "sha256": prints}

    def _with_paths(self, change: Callable[[str], str]) -> "Job":
        """The job with every path of model and LoRA files changed."""

        def merged(loras: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
            return tuple((change(file), strength) for file, strength in loras)

        return dataclasses.replace(
            self,
            model=change(self.model),
            lora=merged(self.lora),
            low_lora=merged(self.low_lora),
            lightx2v=tuple(map(change, self.lightx2v)),
        )

    @property
    def lora_files(self) -> tuple[str, ...]:
        """All files that are merged."""
        return (*(file for file, _ in (*self.lora, *self.low_lora)), *self.lightx2v)

    @property
    def distilled(self) -> tuple[str, ...]:
        """Files that are merged and, by their flag or their names, were made for a few steps."""
        named = (file for file in self.lora_files if is_for_few_steps(Path(file)))
        return tuple(dict.fromkeys((*self.lightx2v, *named)))

    @classmethod
    def from_record(cls, record: Any, beside: Path | None = None) -> "Job":
        """The inverse of `as_record`.

        Args:
          record: what a video holds.
          beside: folder that files are looked for in as well, after the one that the job was made
            in; inputs and LoRA files are known by their fingerprints. The job names what was found.

        Raises:
          ValueError: a field is missing or unknown, or an input file is missing or has changed.
        """
        if not isinstance(record, dict):
            raise ValueError(f"the file describes no job: expected a table, got {record!r:.60}.")
        record = dict(record)
        prints, made_in = record.pop("sha256", {}), record.pop("folder", None)
        if "fps" in record and isinstance(record.get("settings"), dict):  # videos up to 0.1
            record["settings"] = record["settings"] | {"fps": record.pop("fps")}
        # Up to 0.1 frames were taken one by one, and full differences ignored.
        record = {"source_fps": "keep", "add_differences": False} | record
        job = rebuild(cls, record | {"settings": record.get("settings")})  # never the defaults
        try:
            expected = convert(prints, dict[str, str], "sha256")
        except FieldError:
            message = "the file describes no job: it has no fingerprints of input files."
            raise ValueError(message) from None
        check_claims(job)
        folders = tuple(Path(f) for f in (made_in, beside) if isinstance(f, str | Path))
        found = {
            path: job_files.located(_here(path), known, folders) for path, known in expected.items()
        }
        job = job._with_paths(lambda path: found.get(path, _here(path)))
        models = (p for f in (Path(), *folders) if os.path.exists(p := f / job.model))
        return dataclasses.replace(
            job,
            model=str(next(models, job.model)),
            inputs=tuple(found.get(path, path) for path in job.inputs),
        )


def _here(path: str) -> str:
    """A path of this machine, also for files that come along."""
    return packaged.found(packaged.named(path))


def check_claims(job: Job) -> None:
    """Makes sure that nothing in a job is out of all proportion, before anything is made of it.

    Raises:
      ValueError: a number or text that no machine and no model can make use of.
    """
    settings = job.settings
    claims.check_text("prompt", job.prompt)
    claims.check_text("negative prompt", job.negative_prompt)
    claims.check_number("the number of steps", settings.num_steps, 1, claims.STEPS)
    for scale in (settings.guidance_scale, settings.low_guidance_scale or 0.0):
        claims.check_number("the guidance scale", scale, -claims.SCALE, claims.SCALE)
    claims.check_number("shift", settings.shift, 1 / claims.SCALE, claims.SCALE)
    for file, strength in (*job.lora, *job.low_lora):
        claims.check_number(f"the strength of {file}", strength, -claims.SCALE, claims.SCALE)
    for name in ("inputs", "at", "multipliers", "lora", "low_lora", "lightx2v"):
        claims.check_number(
            f"the number of {name}", len(getattr(job, name) or ()), 0, claims.INPUTS
        )
    claims.check_video(settings.num_frames, settings.height, settings.width)


def moved(record: Mapping[str, Any], job: Job) -> list[tuple[str, str]]:
    """Paths in a record, and where `Job.from_record` has found their files instead."""
    then = [record["model"], *(record.get("inputs") or ()), *(record.get("lightx2v") or ())]
    now = [job.model, *job.inputs, *job.lightx2v]
    for name in ("lora", "low_lora"):
        then += [path for path, _ in record.get(name) or ()]
        now += [path for path, _ in getattr(job, name)]
    pairs = zip(then, now, strict=True)
    return [(old, new) for old, new in dict.fromkeys(pairs) if new not in (old, _here(old))]


def read_conditions(
    job: Job,
    stride: int,
    multipliers: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
    model_fps: float | None = None,
) -> list[tasks.Condition]:
    """Reads and fits the input files of a job and lays them out.

    Args:
      job: what is to be made.
      stride: pixel frames of a latent frame.
      multipliers: task -> default multipliers, where a family has its own.
      model_fps: frames per second that clips are brought to, unless the job keeps theirs or this is
        None.

    Raises:
      ValueError, FileNotFoundError: an input is missing, broken or too short, their number is
        wrong, or places and multipliers make no sense.
    """
    f = tasks.latent_frames(job.settings.num_frames, stride)
    if job.at is not None:  # negative ones count from the end
        job = dataclasses.replace(job, at=tuple(i + f if -f <= i < 0 else i for i in job.at))
    height, width = job.settings.height, job.settings.width
    if job.at is not None:  # before files are read for places that do not exist
        check_conditions(job.at, job.multipliers or [1.0] * len(job.at), f)

    def image(path):
        return video.fit(video.read_image(path), height, width, job.fit)

    fps = None if job.source_fps == "keep" else model_fps

    def clip(path, count, start=0):
        return video.fit(video.read_video(path, count, start, fps)[0], height, width, job.fit)

    own = multipliers.get(job.task)
    if own and job.task == "interpolate":  # the last one serves all further pictures
        own += own[-1:] * (len(job.inputs) - len(own))
    is_theirs = job.multipliers is None and own and len(job.at or own) == len(own)
    given = (job.at, own if is_theirs else job.multipliers)
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
        case "transition", (first, second) if job.joined:
            counts = tasks.joined_frames(f, stride)
            clips = clip(first, counts[0]), clip(second, counts[1])
            return tasks.joined_transition(*clips, f, stride, *given)
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
    """A job that was held against its model and devices and found good; its inputs are read.

    Attributes:
      unnumbered: name whose first free number the output has; None lets the output replace a file.
    """

    job: Job
    output: Path
    model: Model
    conditions: list[tasks.Condition]
    mesh: Mesh
    resident: Resident = "all"
    unnumbered: Path | None = None

    @property
    def cautions(self) -> tuple[str, ...]:
        """What looks like a mistake but is none for certain, a line each."""
        found = cautions(self.job.settings, self.model.family, self.job.distilled)
        return (*found, *self.model.remarks)


def prepare(
    job: Job, output: str | Path, model: Model | None = None, *, numbered: bool = False
) -> Prepared:
    """Finds everything that can be wrong with a job; reads inputs, but no weights.

    Args:
      job: what is to be made.
      output: where.
      model: the job's model and LoRA files, where they are open already.
      numbered: whether the output gets the first free number, as in NAME-2.mp4, if it exists.

    Raises:
      ValueError, OSError: one line saying what is wrong with output, model, settings, LoRA files,
        mesh or inputs.
    """
    unnumbered = Path(output) if numbered else None
    if unnumbered is not None:
        number = processes.agree_on(job_files.free_number(unnumbered))
        output = job_files.numbered(unnumbered, number)
    job_files.check_output(output, (*job.inputs, *job.lora_files))
    check_claims(job)
    if model is None:
        loras = (job.lora, job.low_lora, job.lightx2v)
        model = open_model(job.model, *loras, add_differences=job.add_differences)
    configs, settings, family = model.configs, job.settings, model.family
    check_experts(settings, family)
    for text in (job.prompt, job.negative_prompt):
        family.check_prompt(configs.dit, text)
    piece, pieces = pieces_of(settings, job.overlap, family, configs)
    # Before files are read for a size that does not fit.
    family.check_clip(configs.dit, configs.vae, latent_shape(piece, configs))
    fps = float(family.sampling.fps)
    first = dataclasses.replace(job, settings=piece)
    conditions = read_conditions(first, configs.vae.temporal_stride, family.multipliers, fps)
    if pieces is not None:
        check_given([place for given in conditions for place in given.at], pieces)
    table = plan_run(family, piece, conditions, configs)
    rows_of(table, family.process.solvers[settings.solver])
    mesh = choose_mesh(job.mesh, family, configs.dit, guided=settings.is_guided)
    resident = choose_resident(
        job.resident, mesh, family, configs.dit, job.dtype, device_limit(mesh)
    )
    check_memory(mesh, family, configs.dit, job.dtype, resident)
    check_model(model, job.dtype)
    check_tiles(model, settings.tiled)
    return Prepared(
        job=job,
        output=Path(output),
        model=model,
        conditions=conditions,
        mesh=mesh,
        resident=resident,
        unnumbered=unnumbered,
    )


def run(
    prepared: Prepared,
    on_progress: Progress = no_progress,
    pipeline: PusaPipeline | None = None,
) -> tuple[Output, dict[str, Any], Path]:
    """Samples a job and writes the mp4 with the job inside; of several processes, the first does.

    Args:
      prepared: the job.
      on_progress: told about each stage.
      pipeline: the job's model, LoRA files and dtype, where they are loaded already.

    Returns:
      what was sampled, the record embedded in the file, and the file: another number than that of
      `prepared` if its name was taken meanwhile.
    """
    job = prepared.job
    if pipeline is None:
        parts = load_parts(
            prepared.model,
            dtype=job.dtype,
            mesh=prepared.mesh,
            resident=prepared.resident,
            on_progress=on_progress,
        )
        pipeline = PusaPipeline(**vars(parts))
    result = pipeline(
        job.prompt,
        conditions=prepared.conditions,
        negative_prompt=job.negative_prompt,
        settings=job.settings,
        overlap=job.overlap,
        on_progress=on_progress,
    )
    record = embedded_record(job, result, prepared.mesh)
    if not processes.is_first():
        return result, record, prepared.output
    is_tiny = Path(job.model) == packaged.FOLDER
    frames = packaged.enlarged(result.frames) if is_tiny else result.frames
    return result, record, _written(prepared, frames, result.latents, record)


def _written(
    prepared: Prepared,
    frames: UInt8[np.ndarray, "T H W 3"],
    latents: Float[np.ndarray, "1 F h w C"],
    record: dict[str, Any],
) -> Path:
    """Writes the clip, of a numbered output under the first number that is free by now."""
    path, unnumbered, fps = prepared.output, prepared.unnumbered, prepared.job.settings.fps
    while True:
        try:
            write_clip(path, frames, latents, fps, record, only_new=unnumbered is not None)
            return path
        except FileExistsError:
            if unnumbered is None:
                raise
            path = job_files.unused(unnumbered)


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
