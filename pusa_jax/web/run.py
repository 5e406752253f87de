"""Runs one job after another in a thread, and tells how far it is; the model stays loaded."""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pusa_jax.progress import in_words

WAIT = 0.2
"""Seconds after which a quiet worker is looked at again."""

SELDOM = 0.25
"""Seconds between two previews, at least."""


class Cancelled(Exception):  # noqa: N818
    """Ends a job at the next word it says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class News:
    """How far a job is.

    Attributes:
      stage: its name.
      done: parts of it that are done, of `total`.
      total: parts of it.
      left: seconds until the stage ends, where they can be told.
      preview: latents as colours, [H, W, 3] uint8; None where there is nothing new.
    """

    stage: str
    done: int
    total: int
    left: float | None = None
    preview: Any = None

    def in_words(self) -> str:
        """One line."""
        count = f" {self.done}/{self.total}" if self.total > 1 else ""
        left = "" if self.left is None else f", {in_words(self.left)} left"
        return f"{self.stage}{count}{left}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """The end of a job.

    Attributes:
      path: of the video.
      record: that it carries.
    """

    path: Path
    record: dict[str, Any]


class Worker:
    """One thread that samples; jobs of the same model find it loaded."""

    def __init__(self):
        """Loads nothing yet."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pusa-jax-job")
        self._loaded: tuple[Any, Any, Any] | None = None

    def run(self, prepared: Any, cancelled: threading.Event) -> Iterator[News | Made]:
        """Yields news, then what was made; a caller that stops listening cancels the job.

        Args:
          prepared: see `inference.jobs.prepare`.
          cancelled: ends the job when it is set.

        Raises:
          Cancelled: it was set.
        """
        said: queue.SimpleQueue[News] = queue.SimpleQueue()
        left = threading.Event()
        told = _Told(said, lambda: cancelled.is_set() or left.is_set())
        done = self._pool.submit(self._run, prepared, told)
        try:
            while not (done.done() and said.empty()):
                try:
                    yield said.get(timeout=WAIT)
                except queue.Empty:
                    continue
            yield done.result()
        finally:
            left.set()

    def _run(self, prepared: Any, told: "_Told") -> Made:
        """In the thread."""
        from pusa_jax.inference import jobs

        told("load", 0, 1)
        pipeline, told.colours = self._pipeline(prepared, told)
        _, record, path = jobs.run(prepared, told, pipeline, on_latents=told.latents)
        return Made(path=path, record=record)

    def _pipeline(self, prepared: Any, told: "_Told") -> tuple[Any, Any]:
        """The job's pipeline and the colours of its latents; that of another model is let go."""
        from pusa_jax.inference.jobs import load
        from pusa_jax.web.preview import fitted

        job = prepared.job
        loras = (job.lora, job.low_lora, job.lightx2v, job.add_differences)
        key = (job.model, *loras, job.dtype, prepared.mesh, prepared.resident)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            pipeline = load(prepared, told)
            stride = prepared.model.configs.vae.spatial_stride
            colours = fitted(lambda pixels: pipeline.encode(pixels, False), stride)
            self._loaded = (key, pipeline, colours)
        return self._loaded[1:]


class _Told:
    """What a pipeline talks to: passes it on, with the time that is left; ends it if asked to."""

    def __init__(self, said: "queue.SimpleQueue[News]", is_over: Callable[[], bool]):
        self._said, self._is_over = said, is_over
        self._stage, self._since, self._shown, self._total = "", 0.0, 0.0, 0
        self.colours: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._is_over():
            raise Cancelled
        now = time.perf_counter()
        if stage != self._stage:
            self._stage, self._since = stage, now
        left = (now - self._since) / done * (total - done) if 0 < done < total else None
        self._total = total
        self._said.put(News(stage=stage, done=done, total=total, left=left))

    def latents(self, done: int, latents: Any) -> None:
        now = time.perf_counter()
        if now - self._shown >= SELDOM or done == self._total:
            self._shown = now
            strip = self.colours.strip(np.asarray(latents, np.float32)[0])
            self._said.put(News(stage="denoise", done=done, total=self._total, preview=strip))
