"""What the page does, without the page: presets, tables, jobs and settings of videos."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pusa_jax.web import timeline
from pusa_jax.web.folders import Folders
from pusa_jax.web.run import Made, News, Worker


class Service:
    """The page's folders, its worker, and what each visitor may cancel.

    Everything that needs JAX is imported when it is first used, so that the page comes at once.
    """

    def __init__(self, folders: Folders):
        """Loads nothing yet."""
        self.folders, self.worker = folders, Worker()
        self._waiting: dict[str, threading.Event] = {}

    def fresh(self, asked: Any) -> str:
        """The timeline of a task before anything is dropped on it: its defaults.

        Raises:
          ValueError, OSError: settings that no clip can have.
        """
        f, given = self._defaults(asked)
        return timeline.state(asked.task, f, given)

    def with_defaults(self, asked: Any) -> Any:
        """The same with the places and levels of its task; raises as `fresh`."""
        return dataclasses.replace(asked, given=tuple(self._defaults(asked)[1]))

    def _defaults(self, asked: Any) -> tuple[int, list[tuple[int, float]]]:
        """Latent frames, and (place, noise level) of those that are given."""
        from pusa_jax.inference.settings import latent_shape
        from pusa_jax.web.presets import given_by_default

        job, model = asked.without_inputs(self.folders)
        f = latent_shape(job.settings, model.configs)[1]
        stride, count = model.configs.vae.temporal_stride, len(asked.inputs)
        return f, given_by_default(asked.task, model.family, f, stride, count)

    def table(self, asked: Any) -> str:
        """The table of noise levels as SVG; raises as `table.levels_of`."""
        from pusa_jax.web.table import drawing, levels_of

        job, model = asked.without_inputs(self.folders)
        return drawing(levels_of(job, model, asked.given))

    def run(self, asked: Any, visitor: str) -> Iterator[News | Made]:
        """Checks a job that was announced and runs it; see `Worker.run`.

        Raises:
          ValueError, OSError: one line saying what is wrong with it.
          Cancelled: the visitor has cancelled it.
        """
        from pusa_jax.inference import jobs

        job, model = asked.job(self.folders)
        output = self.folders.output / f"{job.task}.mp4"
        prepared = jobs.prepare(job, output, model, numbered=True)
        yield from self.worker.run(prepared, self._waiting[visitor])

    def announce(self, visitor: str) -> None:
        """Notes that a visitor has asked for a job, which may wait for those of others."""
        if visitor not in self._waiting or self._waiting[visitor].is_set():
            self._waiting[visitor] = threading.Event()

    def cancel(self, visitor: str) -> bool:
        """Cancels all that the visitor has asked for; says whether there was anything."""
        found = self._waiting.get(visitor)
        if found is not None:
            found.set()
        return found is not None

    def settings_of(self, name: str) -> tuple[Any, str, list[str]]:
        """The settings in a result, the timeline they mean, and what could not be taken over.

        Raises:
          ValueError, OSError: there is no such result, or it carries no job.
        """
        from pusa_jax.web.fields import asked_by, file_places
        from pusa_jax.web.presets import kind_of

        asked, strange = asked_by(self.folders.result(name), self.folders)
        places = file_places(asked, kind_of(asked.task))
        files = [
            {"path": path, "url": url_of(path), "name": Path(path).name, "at": at}
            for path, at in zip(asked.inputs, places, strict=True)
        ]
        f = self._frames(asked)
        return asked, timeline.state(asked.task, f, asked.given, files), strange

    def _frames(self, asked: Any) -> int:
        from pusa_jax.inference.settings import latent_shape

        job, model = dataclasses.replace(asked, lora="").without_inputs(self.folders)
        return latent_shape(job.settings, model.configs)[1]


def url_of(path: str) -> str:
    """Where the server serves a file of its folders."""
    return f"/gradio_api/file={quote(path)}"
