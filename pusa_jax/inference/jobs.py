"""A sampling job: everything that decides a video, as plain values that travel inside its file.

The command line makes a job, runs it and writes the mp4 with the job embedded; `rerun` takes it out
of the file and runs it again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh

import pusa_jax
from pusa_jax.convert.folders.merging import is_for_few_steps
from pusa_jax.devices import processes
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import check_conditions
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.sampling import rows_of
from pusa_jax.diffusion.solvers import SOLVERS
from pusa_jax.files import claims, fingerprints
from pusa_jax.files.atomic import check_writable
from pusa_jax.files.records import FieldError, convert, rebuild
from pusa_jax.inference import packaged
from pusa_jax.inference.cautions import cautions
from pusa_jax.inference.loading import Model, check_model, load_parts, open_model
from pusa_jax.inference.mesh_choice import (
    Resident,
    check_memory,
    choose_mesh,
    choose_resident,
    device_limit,
)
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.inference.settings import check_experts, latent_shape, plan_run
from pusa_jax.media import video
from pusa_jax.media.outputs import check_ending, write_clip
from pusa_jax.progress import Progress, no_progress
from pusa_jax.typing import Precision

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
      inputs: image files (i2v, start-end, interpolate, loop) or video files (complete, extend,
        transition).
      at: places of the given latent frames; None is the task's default.
      multipliers: their noise multipliers; None is the task's default.
      clip_start: first frame taken of the video to extend; None takes its last frames.
      resident: of a model with two experts, which lie on the devices; None is what fits.
      fit: how inputs are brought to size: crop, letterbox or stretch.
      mesh: sizes of its axes; None is the sensible one for the devices there are.
    """

    task: Task
    model: str
    prompt: str
    negative_prompt: str
    lora: tuple[tuple[str, float], ...] = ()
    low_lora: tuple[tuple[str, float], ...] = ()
    lightx2v: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    at: tuple[int, ...] | None = None
    multipliers: tuple[float, ...] | None = None
    clip_start: int | None = None
    fit: Fit = "crop"
    dtype: Precision = "bfloat16"
    resident: Resident | None = None
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
        files = (*self.inputs, *self.lora_files)
        prints = {packaged.named(path): fingerprints.of_file(path) for path in files}
        return dataclasses.asdict(self._with_paths(packaged.named)) | {"sha256": prints}

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
          beside: folder where inputs and LoRA files are looked for that are not where they were,
            under their names or, among files of the same ending, by what is in them.

        Raises:
          ValueError: a field is missing or unknown, or an input file is missing or has changed.
        """
        if not isinstance(record, dict):
            raise ValueError(f"the file describes no job: expected a table, got {record!r:.60}.")
        record = dict(record)
        prints = record.pop("sha256", {})
        if "fps" in record and isinstance(record.get("settings"), dict):  # videos up to 0.1
            record["settings"] = record["settings"] | {"fps": record.pop("fps")}
        job = rebuild(cls, record | {"settings": record.get("settings")})  # never the defaults
        try:
            expected = convert(prints, dict[str, str], "sha256")
        except FieldError:
            message = "the file describes no job: it has no fingerprints of input files."
            raise ValueError(message) from None
        check_claims(job)

        def here(path: str) -> str:
            return packaged.found(packaged.named(path))

        job = job._with_paths(here)
        moved = {
            here(path): _file_of(here(path), known, beside) for path, known in expected.items()
        }
        job = job._with_paths(lambda path: moved.get(path, path))
        inputs = tuple(moved.get(path, path) for path in job.inputs)
        return dataclasses.replace(job, inputs=inputs)


def _file_of(path: str, known: str, beside: Path | None) -> str:
    """Where the file of a fingerprint is: in its place, else in a folder.

    Raises:
      ValueError: it is not there any more, or has changed.
    """
    if Path(path).is_file():
        if fingerprints.of_file(path) != known:
            raise ValueError(f"input {path} has changed since the video was made.")
        return path
    name = Path(path.replace("\\", "/"))
    files = [] if beside is None else [file for file in beside.iterdir() if file.is_file()]
    alike = [file for file in files if file.suffix == name.suffix]
    for file in sorted(alike, key=lambda file: (file.name != name.name, file.name))[:MOST_ALIKE]:
        if fingerprints.of_file(file) == known:
            return str(file)
    where = "put it back" if beside is None else f"put it back, or into {beside},"
    raise ValueError(f"input {path} is not there any more; {where} to rerun.")


MOST_ALIKE = 64
"""Files of a folder that are looked into for one that is missing."""


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


def read_conditions(
    job: Job, stride: int, multipliers: Mapping[str, tuple[float, ...]] = MappingProxyType({})
) -> list[tasks.Condition]:
    """Reads and fits the input files of a job and lays them out.

    Args:
      job: what is to be made.
      stride: pixel frames of a latent frame.
      multipliers: task -> default multipliers, where a family has its own.

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

    def clip(path, count, start=0):
        return video.fit(video.read_video(path, count, start)[0], height, width, job.fit)

    own = multipliers.get(job.task)
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
    resident: Resident = "all"

    @property
    def cautions(self) -> tuple[str, ...]:
        """What looks like a mistake but is none for certain, a line each."""
        return tuple(cautions(self.job.settings, self.model.family, self.job.distilled))


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
    check_output(output)
    check_claims(job)
    if model is None:
        model = open_model(job.model, job.lora, job.low_lora, job.lightx2v)
    configs, settings, family = model.configs, job.settings, model.family
    check_experts(settings, family)
    latent_shape(settings, configs)  # before files are read for a size that does not fit
    conditions = read_conditions(job, configs.vae.temporal_stride, family.multipliers)
    table = plan_run(family, settings, conditions, configs)
    rows_of(table, SOLVERS[settings.solver])
    mesh = choose_mesh(job.mesh, family, configs.dit, guided=settings.is_guided)
    resident = choose_resident(
        job.resident, mesh, family, configs.dit, job.dtype, device_limit(mesh)
    )
    check_memory(mesh, family, configs.dit, job.dtype, resident)
    check_model(model, job.dtype)
    return Prepared(
        job=job,
        output=Path(output),
        model=model,
        conditions=conditions,
        mesh=mesh,
        resident=resident,
    )


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
        on_progress=on_progress,
    )
    record = embedded_record(job, result, prepared.mesh)
    if processes.is_first():
        is_tiny = Path(job.model) == packaged.FOLDER
        frames = packaged.enlarged(result.frames) if is_tiny else result.frames
        write_clip(prepared.output, frames, result.latents, job.settings.fps, record)
    return result, record


def check_output(output: str | Path) -> None:
    """Makes sure, before any work, that the clip can be written.

    Raises:
      ValueError: its ending says no form, see `media.outputs`.
      OSError: the folder cannot be written, or one for pictures is there already.
    """
    check_ending(str(output))
    if not Path(output).suffix and Path(output).exists():
        raise FileExistsError(f"{output} is there already; name a new folder.")
    check_writable(output)


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


def what_differs(record: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """What may be why two runs of a job do not agree to the last bit, in words."""
    names = {"pusa_jax": "pusa_jax", "jax": "jax", "backend": "device", "mesh": "mesh"}
    return [
        f"{word} {record[name]} then, {again.get(name)} now"
        for name, word in names.items()
        if name in record and record[name] != again.get(name)
    ]
