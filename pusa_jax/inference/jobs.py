"""Jobs prepared and run: inputs read, all that can be wrong found, the clip made and written.

The command line makes a job, runs it and writes the mp4 with the job embedded; `rerun` takes it out
of the file and runs it again.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

import pusa_jax
from pusa_jax.devices import processes
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import check_conditions
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.sampling import rows_of
from pusa_jax.inference import job_files, packaged
from pusa_jax.inference.cautions import cautions
from pusa_jax.inference.job import TASKS as TASKS
from pusa_jax.inference.job import Job as Job
from pusa_jax.inference.job import check_claims
from pusa_jax.inference.job import moved as moved
from pusa_jax.inference.layout import layout_of
from pusa_jax.inference.loading import Model, check_model, check_tiles, load_parts, open_model
from pusa_jax.inference.mesh_choice import (
    Resident,
    check_memory,
    choose_mesh,
    choose_resident,
    device_limit,
)
from pusa_jax.inference.pieces import Pieces, check_given, pieces_of
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.inference.reuse import check_reusing
from pusa_jax.inference.settings import check_experts, latent_shape, plan_run
from pusa_jax.media import video
from pusa_jax.media.outputs import write_clip
from pusa_jax.progress import Progress, no_progress
from pusa_jax.typing import OnLatents


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


def check_numbers(job: Job, model: Model) -> tuple[SamplingConfig, Pieces | None]:
    """Finds what can be wrong with a job without reading a file.

    Returns:
      settings of one piece, and how the clip is cut; see `pieces_of`.

    Raises:
      ValueError: numbers that no machine or not this model can make use of.
    """
    check_claims(job)
    configs, settings, family = model.configs, job.settings, model.family
    check_experts(settings, family)
    for text in (job.prompt, job.negative_prompt):
        family.check_prompt(configs.dit, text)
    piece, pieces = pieces_of(settings, job.overlap, family, configs)
    family.check_clip(configs.dit, configs.vae, latent_shape(piece, configs))
    return piece, pieces


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
    piece, pieces = check_numbers(job, model)  # before files are read for a size that does not fit
    fps = float(family.sampling.fps)
    first = dataclasses.replace(job, settings=piece)
    conditions = read_conditions(first, configs.vae.temporal_stride, family.multipliers, fps)
    if pieces is not None:
        check_given([place for given in conditions for place in given.at], pieces)
    table = plan_run(family, piece, conditions, configs)
    rows_of(table, family.process.solvers[settings.solver])
    in_turn = settings.teacache is not None
    mesh = choose_mesh(job.mesh, family, configs.dit, guided=settings.is_guided and not in_turn)
    check_reusing(settings, mesh)
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


def load(prepared: Prepared, on_progress: Progress = no_progress) -> PusaPipeline:
    """The pipeline of a job's model, LoRA files and dtype; told about the stage "load"."""
    parts = load_parts(
        prepared.model,
        dtype=prepared.job.dtype,
        mesh=prepared.mesh,
        resident=prepared.resident,
        on_progress=on_progress,
    )
    return PusaPipeline(**vars(parts))


def run(
    prepared: Prepared,
    on_progress: Progress = no_progress,
    pipeline: PusaPipeline | None = None,
    on_latents: OnLatents | None = None,
) -> tuple[Output, dict[str, Any], Path]:
    """Samples a job and writes the mp4 with the job inside; of several processes, the first does.

    Args:
      prepared: the job.
      on_progress: told about each stage.
      pipeline: the job's model, LoRA files and dtype, where they are loaded already.
      on_latents: given the latents behind each step, see `PusaPipeline`.

    Returns:
      what was sampled, the record embedded in the file, and the file: another number than that of
      `prepared` if its name was taken meanwhile.
    """
    job = prepared.job
    pipeline = load(prepared, on_progress) if pipeline is None else pipeline
    result = pipeline(
        job.prompt,
        conditions=prepared.conditions,
        negative_prompt=job.negative_prompt,
        settings=job.settings,
        overlap=job.overlap,
        on_progress=on_progress,
        on_latents=on_latents,
    )
    return result, *finish(prepared, result)


def finish(prepared: Prepared, result: Output) -> tuple[dict[str, Any], Path]:
    """Writes what a job has given; returns the record embedded in the file, and the file."""
    job = prepared.job
    layout = layout_of(prepared.conditions, prepared.model, job.overlap)
    record = embedded_record(job, result, prepared.mesh) | {"layout": dataclasses.asdict(layout)}
    if not processes.is_first():
        return record, prepared.output
    is_tiny = Path(job.model) == packaged.FOLDER
    frames = packaged.enlarged(result.frames) if is_tiny else result.frames
    return record, _written(prepared, frames, result.latents, record)


def _written(
    prepared: Prepared,
    frames: UInt8[np.ndarray, "T H W 3"],
    latents: Float[np.ndarray, "1 F h w C"],
    record: dict[str, Any],
) -> Path:
    """Writes the clip, of a numbered output under the first number that is free by now."""
    path, unnumbered, fps = prepared.output, prepared.unnumbered, prepared.job.settings.fps
    only_new, crf = unnumbered is not None, prepared.job.crf
    while True:
        try:
            write_clip(path, frames, latents, fps, record, only_new=only_new, crf=crf)
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
        "passes": output.passes,
        "seconds": output.seconds,
        "pusa_jax": pusa_jax.__version__,
        "jax": jax.__version__,
        "backend": f"{device.platform} {device.device_kind}",
        "mesh": dict(mesh.shape),
    }
