"""Where do the passes go: fewer rows, better rows, a second order, or a cache?

The error of a clip is the distance of its latents from the true flow, which is 100 rows of second
order from the same noise, by their size. All else is the stick's, of the first batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import Row, Task, extension, image_to_video, text_to_video
from experiments.tiny.passes.clips import Batch, LatentsOnHost, batches
from experiments.tiny.passes.reuse import magcache_rows, reused, teacache_rows
from experiments.tiny.table import publish
from pusa_jax.diffusion.rows import FINE

STUDY = "passes"
TASKS: dict[str, Task] = {
    "text-to-video": text_to_video,
    "image-to-video": image_to_video,
    "extension": extension,
}
TRUE_STEPS = 100
STEPS = {
    "even, euler": (50, 24, 15, 12, 8),
    "even, ab2": (24, 15, 12, 8),
    "front, euler": (24, 15, 12, 8),
    "front, ab2": (24, 15, 12, 8),
    "teacache": (24, 15),
    "magcache": (24, 15),
}
"""Way of sampling -> rows that are computed; two passes each."""

Way = Callable[[Batch], tuple[LatentsOnHost, int]]
"""A batch -> its latents and the passes they took."""

GUIDED = (0.75, 0.5, 0.25)
"""Shares of 24 front rows of second order that are guided."""


class Clips:
    """The batches of a task and seed with their true flow; kept from row to row."""

    def __init__(self, lab: Lab, task: str, seed: int):
        scale = lab.scale
        self.batches = batches(lab.pusa(), TASKS[task], scale.count, scale.batch, seed)
        steps = 4 if scale.thin else TRUE_STEPS
        self.truth = [batch.sampled("ab2", steps)[0] for batch in self.batches]

    def row(self, make: Way) -> Row:
        """Error and passes of all clips, and what the stick says of the first batch."""
        made = [make(batch) for batch in self.batches]
        errors = np.concatenate(
            [b.errors(m[0], t) for b, m, t in zip(self.batches, made, self.truth, strict=True)]
        )
        first = self.batches[0].seen(made[0][0])
        return {
            "passes": float(made[0][1]),
            "error %": 100 * float(np.median(errors)),
            "90th %": 100 * float(np.quantile(errors, 0.9)),
        } | {name: first[name] for name in ("coherent", "colour", "direction")}


def run(lab: Lab) -> None:
    """Measures all ways and numbers of rows for three tasks."""
    results: dict[tuple[str, str], list[Row]] = {}
    for task in lab.some([*TASKS]):
        clips = functools.lru_cache(maxsize=3)(functools.partial(Clips, lab, task))
        for way, counts in STEPS.items():
            for count in (8,) if lab.scale.thin else counts:
                make = functools.partial(sampled, way=way, count=count)
                results[f"{task}, {way}", str(2 * count)] = measured(
                    lab, f"{task}/{way}, {count} rows", clips, make
                )
        for share in lab.some(GUIDED):
            make = functools.partial(guided_until, share=share)
            results[f"{task}, front, ab2, guided until", f"{share:g}"] = measured(
                lab, f"{task}/guided until {share:g}", clips, make
            )
    publish(lab, STUDY, results, ("error %", "coherent"))


def measured(lab: Lab, name: str, clips: Callable[[int], Clips], make: Way) -> list[Row]:
    """A row for every seed."""
    return lab.cells(f"passes/{name}", lambda seed: clips(seed).row(make))


def guided_until(batch: Batch, share: float) -> tuple[LatentsOnHost, int]:
    """Latents and passes of 24 front rows of second order, some of them guided."""
    return batch.sampled("ab2", 24, "front", share)


def sampled(batch: Batch, way: str, count: int) -> tuple[LatentsOnHost, int]:
    """Latents and passes of one way of sampling."""
    if way == "teacache":
        rows = teacache_rows(batch, count)
    elif way == "magcache":
        rows = magcache_rows(growth_of(batch), count)
    else:
        rows, solver = way.split(", ")
        return batch.sampled(solver, count, rows)
    return reused(batch, rows), 2 * len(rows)


_grown: dict[Any, np.ndarray] = {}


def growth_of(batch: Batch) -> np.ndarray:
    """How the residual of the prompt's pass grows from row to row, found on these very clips."""
    if id(batch) not in _grown:
        sizes: list[float] = []
        reused(batch, range(FINE), sizes.append)
        _grown[id(batch)] = np.asarray([1.0, *np.divide(sizes[1:], sizes[:-1])])
    return _grown[id(batch)]
