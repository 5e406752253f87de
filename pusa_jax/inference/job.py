"""A sampling job: everything that decides a video, as plain values that travel inside its file."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pusa_jax.convert.folders.merging import is_for_few_steps
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.files import claims, fingerprints
from pusa_jax.files.records import FieldError, convert, rebuild
from pusa_jax.inference import job_files, packaged
from pusa_jax.inference.mesh_choice import Resident
from pusa_jax.media import video
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
      crf: constant rate factor of the mp4, 0 to 51; less is more exact and larger.
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
    crf: int = video.CRF
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
        prints = {packaged.named(path): fingerprints.of_file_as_it_is(path) for path in files}
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
            path: job_files.located(packaged.here(path), known, folders)
            for path, known in expected.items()
        }
        job = job._with_paths(lambda path: found.get(path, packaged.here(path)))
        models = (p for f in (Path(), *folders) if os.path.exists(p := f / job.model))
        return dataclasses.replace(
            job,
            model=str(next(models, job.model)),
            inputs=tuple(found.get(path, path) for path in job.inputs),
        )


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
    claims.check_number("crf", job.crf, 0, claims.CRF)
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
    return [(old, new) for old, new in dict.fromkeys(pairs) if new not in (old, packaged.here(old))]
