"""Makes the videos of a batch: models loaded once, shapes compiled once, results as they land.

    tasks --by model and shape--> [claim -> read inputs -> sample -> mp4 -> manifest] --> summary

A job that fails is written down and the rest goes on. What is there already is not made again.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from pusa_jax.batch import manifest
from pusa_jax.batch.shares import claimed_all, tidy
from pusa_jax.files import locks
from pusa_jax.files.atomic import check_place
from pusa_jax.inference import jobs
from pusa_jax.inference.clips import Clip, layout
from pusa_jax.inference.jobs import Job, Prepared
from pusa_jax.inference.kept import PROMPTS
from pusa_jax.inference.loading import Model
from pusa_jax.inference.pipeline import Output, PusaPipeline
from pusa_jax.listing import listed
from pusa_jax.media.outputs import read_record
from pusa_jax.progress import Progress, no_progress

FAILURES = (ValueError, OSError, MemoryError, FloatingPointError, jax.errors.JaxRuntimeError)
"""What ends one job and not the batch."""

PATIENCE = 2.0
"""Seconds after which a job that another process is at is looked at again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A job of a batch.

    Attributes:
      id: its name.
      output: its file, in the folder of the batch.
      job: what is to be made.
      model: the job's model and LoRA files, opened; the same for all jobs that share them.
      fingerprint: of the job, its input files and the files of the model.
    """

    id: str
    output: str
    job: Job
    model: Model
    fingerprint: str

    def entry(self, **more: Any) -> dict[str, Any]:
        """Its line in the manifest."""
        line = {"id": self.id, "output": self.output, "fingerprint": self.fingerprint}
        return line | {"by": locks.whoami()} | more

    @property
    def loaded(self) -> tuple[Any, ...]:
        """What jobs must share to be made by one pipeline."""
        return id(self.model), self.job.dtype, str(self.job.mesh), self.job.resident

    @property
    def shape(self) -> tuple[Any, ...]:
        """What jobs must share to be made by one compiled program."""
        settings = self.job.settings
        size = settings.height, settings.width, settings.num_frames
        return *size, settings.solver, str(settings.tiled)


def fingerprint_of(job: dict[str, Any], model: str) -> str:
    """Fingerprint of a job's record, wherever it was made, and of the files of its model."""
    record = {name: value for name, value in job.items() if name != "folder"} | {"files": model}
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclasses.dataclass(kw_only=True)
class Summary:
    """How a batch has ended, seen by one process.

    Attributes:
      made, kept, failed: jobs that this process has made, that it left to others or found made,
        that have failed.
      seconds: wall time.
      computing: seconds of it within the pipeline, from text to decoded frames.
    """

    made: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    computing: float = 0.0


def left(tasks: Sequence[Task], folder: Path, listed_in: Path, *, note: bool = True) -> list[Task]:
    """The tasks that have not landed yet; what was made and not written down is written down now.

    Args:
      tasks: of the whole batch.
      folder: of its videos.
      listed_in: the manifest.
      note: whether anything may be written.

    Raises:
      ValueError: the folder holds results of another batch, or files that no batch has made.
      OSError: the folder cannot be written.
    """
    check_place(folder / "video.mp4")
    noted = manifest.Manifest(listed_in)
    landed = dict(noted.entries)
    known = {task.id for task in tasks}
    if strangers := [name for name in landed if name not in known]:
        raise ValueError(
            f"{folder} is of another batch, whose jobs are not in this list: "
            f"{listed(strangers, 3)}; choose another folder."
        )
    found, made, changed, foreign = [], [], [], []
    for task in tasks:
        entry, path = landed.get(task.id), folder / task.output
        is_there = path.exists()
        if entry is not None and not entry.get("error"):
            if entry["fingerprint"] != task.fingerprint:
                changed.append(task.id)
            elif not is_there:
                found.append(task)
            continue
        if not is_there:
            found.append(task)
        elif _is_of(task, path):
            made.append(task)
        else:
            foreign.append(task.output)
    if changed:
        raise ValueError(
            f"{folder} holds videos of jobs that have changed since, or whose files have: "
            f"{listed(changed, 3)}; choose another folder, or remove {listed_in.name} and them."
        )
    if foreign:
        raise ValueError(
            f"{folder} has files that this batch did not make: {listed(foreign, 3)}; choose "
            "another folder."
        )
    for task in made if note else ():
        noted.append(task.entry())
    return found


def _is_of(task: Task, path: Path) -> bool:
    """Whether a file holds the very job: it was made just before a kill."""
    try:
        record = read_record(path)
    except (ValueError, OSError):
        return False
    job, files = record.get("job"), task.job.as_record()
    return isinstance(job, dict) and {**job, "folder": ""} == json.loads(
        json.dumps(files | {"folder": ""})
    )


@dataclasses.dataclass(frozen=True)
class _Writing:
    """Clips that are being written, and the claims on their jobs, which end behind that."""

    futures: Sequence[Future[None]]
    claims: contextlib.ExitStack

    def end(self) -> None:
        """Waits until they are written."""
        with self.claims:
            for future in self.futures:
                future.result()


class Batch:
    """A batch at work in one process."""

    def __init__(
        self,
        folder: Path,
        listed_in: Path,
        *,
        size: int = 1,
        on_progress: Progress = no_progress,
        on_failure: Callable[[str], None] = lambda line: None,
    ):
        """Loads nothing yet.

        Args:
          folder: for the videos.
          listed_in: the manifest.
          size: clips of one program, where they are alike.
          on_progress: told about "videos".
          on_failure: told a line for each job that has failed.
        """
        self.folder, self.list, self.size = folder, manifest.Manifest(listed_in), size
        self._on_progress, self._on_failure = on_progress, on_failure
        self._pipeline: PusaPipeline | None = None
        self._loaded: Any = None
        self._encoded: set[str] = set()
        self.summary = Summary()

    def run(self, own: Sequence[Task], others: Sequence[Task], total: int) -> Summary:
        """Makes what no other process makes, and what those leave over that end before they have.

        Args:
          own: tasks that this process begins with.
          others: tasks that it makes if nobody else is at them; it ends when they have landed.
          total: of the whole batch; those that are in neither list are done.

        Raises:
          OSError: the manifest cannot be written.
        """
        since, left = time.perf_counter(), {task.id: task for task in (*own, *others)}
        retried = {name for name, entry in self.list.entries.items() if entry.get("error")}
        with ThreadPoolExecutor(1) as self._writer:
            ordered = [task for part in (own, others) for group in _groups(part) for task in group]
            self._once_over(ordered, left, retried, total)
            while left:  # others are at them, or have died
                time.sleep(PATIENCE)
                self._once_over([*left.values()], left, retried, total)
        tidy(self.folder)
        self.summary.seconds = time.perf_counter() - since
        return self.summary

    def _once_over(
        self, tasks: Sequence[Task], left: dict[str, Task], retried: set[str], total: int
    ) -> None:
        """Makes those of some tasks that nobody is at; takes from `left` what has ended.

        While one chunk is sampled, the clips of the one before are written.
        """
        writing = _Writing([], contextlib.ExitStack())
        for chunk, ahead in _chunks(tasks, self.size):
            self._on_progress("videos", total - len(left), total)
            with contextlib.ExitStack() as claims:
                ours = claims.enter_context(claimed_all(self.folder, [t.id for t in chunk]))
                self.list.refresh()
                ended = {task.id for task in chunk if self._has_ended(task, retried)}
                mine = [task for task in chunk if task.id in ours and task.id not in ended]
                futures = self._make(mine, [task.job for task in ahead]) if mine else []
                writing.end()
                writing = _Writing(futures, claims.pop_all())
            for name in (*ended, *(task.id for task in mine)):
                left.pop(name, None)
            retried.difference_update(task.id for task in mine)
            self.summary.kept += len(ended)
        writing.end()
        self._on_progress("videos", total - len(left), total)

    def _has_ended(self, task: Task, retried: set[str]) -> bool:
        """Whether a task has landed, or another process has found meanwhile that it fails."""
        entry = self.list.entries.get(task.id)
        if entry is None or entry["fingerprint"] != task.fingerprint:
            return False
        if entry.get("error"):
            return task.id not in retried
        return (self.folder / task.output).exists()

    def _make(self, tasks: Sequence[Task], ahead: Sequence[Job]) -> list[Future[None]]:
        """Samples tasks of one model and shape, side by side where they are alike.

        Returns:
          what is being written.
        """
        futures: list[Future[None]] = []
        good: list[tuple[Task, Prepared]] = []
        for task in tasks:
            try:
                good.append((task, jobs.prepare(task.job, self.folder / task.output, task.model)))
            except FAILURES as error:
                self._failed(task, error)
        for alike in _alike(good):
            try:
                futures += self._land(alike, ahead)
            except FAILURES as error:
                if len(alike) == 1:
                    self._failed(alike[0][0], error)
                    continue
                for one in alike:  # one by one, to find whose fault it is
                    try:
                        futures += self._land([one], ahead)
                    except FAILURES as own:
                        self._failed(one[0], own)
        return futures

    def _land(
        self, alike: Sequence[tuple[Task, Prepared]], ahead: Sequence[Job]
    ) -> list[Future[None]]:
        """Samples clips in one program, and has them written and listed."""
        since = time.perf_counter()
        pipeline = self._pipeline_for(alike[0])
        prepared = [made for _, made in alike]
        self._encode_ahead(pipeline, [made.job for made in prepared], ahead)
        outputs = sampled(pipeline, prepared)
        seconds = (time.perf_counter() - since) / len(alike)
        self.summary.computing += sum(outputs[-1].seconds.values())
        return [
            self._writer.submit(self._write, task, made, output, seconds)
            for (task, made), output in zip(alike, outputs, strict=True)
        ]

    def _write(self, task: Task, made: Prepared, output: Output, seconds: float) -> None:
        """Writes a clip and lists it; runs in a thread."""
        try:
            record = jobs.finish(made, output)[0]
        except FAILURES as error:
            self._failed(task, error)
            return
        told = {"seconds": round(seconds, 3), "latents_sha256": record["latents_sha256"]}
        self.list.append(task.entry(**told))
        self.summary.made += 1

    def _encode_ahead(
        self, pipeline: PusaPipeline, now: Sequence[Job], ahead: Sequence[Job]
    ) -> None:
        """Encodes many prompts where one is new, so that the encoder is not fetched for each."""
        texts = [text for job in now for text in (job.prompt, job.negative_prompt)]
        if self._encoded.issuperset(texts):
            return
        coming = [text for job in ahead for text in (job.prompt, job.negative_prompt)]
        block = [*dict.fromkeys([*texts, *coming])][:PROMPTS]
        pipeline.encode_prompts(block)
        self._encoded = {*block}

    def _failed(self, task: Task, error: BaseException) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        self.list.append(task.entry(error=text[:2000]))
        self.summary.failed += 1
        self._on_failure(f"{task.id}: {text}")

    def _pipeline_for(self, first: tuple[Task, Prepared]) -> PusaPipeline:
        """The pipeline of a task's model; the one before is let go of first."""
        task, prepared = first
        if self._pipeline is None or self._loaded != task.loaded:
            self._pipeline, self._encoded = None, set()
            gc.collect()
            self._pipeline, self._loaded = jobs.load(prepared), task.loaded
        return self._pipeline


def sampled(pipeline: PusaPipeline, prepared: Sequence[Prepared]) -> list[Output]:
    """What the pipeline makes of jobs that are alike but for prompts, frames and seeds."""
    first = prepared[0].job
    clips = [
        Clip(
            prompt=made.job.prompt,
            conditions=made.conditions,
            negative_prompt=made.job.negative_prompt,
            seed=made.job.settings.seed,
        )
        for made in prepared
    ]
    return pipeline.batch(clips, settings=first.settings, overlap=first.overlap)


def _alike(good: Sequence[tuple[Task, Prepared]]) -> list[list[tuple[Task, Prepared]]]:
    """Tasks whose settings differ in the seed alone, with frames given at the same places."""
    groups: dict[Any, list[tuple[Task, Prepared]]] = {}
    for task, prepared in good:
        settings = dataclasses.replace(task.job.settings, seed=0)
        places = tuple(layout(prepared.conditions))
        groups.setdefault((settings, task.job.overlap, places), []).append((task, prepared))
    return list(groups.values())


def _groups(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Tasks of one model and shape together, in the order in which they first come."""
    groups: dict[Any, dict[Any, list[Task]]] = {}
    for task in tasks:
        groups.setdefault(task.loaded, {}).setdefault(task.shape, []).append(task)
    for shapes in groups.values():
        yield from shapes.values()


def _chunks(tasks: Sequence[Task], size: int) -> Iterator[tuple[list[Task], list[Task]]]:
    """(tasks of one program at most, tasks of the same model behind them) in turn."""
    first = 0
    while first < len(tasks):
        end = first + 1
        key = tasks[first].loaded, tasks[first].shape
        while end < min(first + size, len(tasks)) and (tasks[end].loaded, tasks[end].shape) == key:
            end += 1
        ahead = [task for task in tasks[end : end + PROMPTS] if task.loaded == key[0]]
        yield [*tasks[first:end]], ahead
        first = end
