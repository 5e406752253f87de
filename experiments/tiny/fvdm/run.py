"""Which share of independent frames in training (PTSS) gives what, from nothing and further?"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from experiments.tiny.fvdm import measuring, world
from experiments.tiny.fvdm.codec import Clips, Codes, FrameCodec
from experiments.tiny.fvdm.measuring import Seen, see
from experiments.tiny.fvdm.sampling import OVERLAP, TASKS, clips, conditions, long_clips
from experiments.tiny.fvdm.training import FRAMES, QUICK, Amount, Run, clips_of, network, trained
from experiments.tiny.lab import Lab
from experiments.tiny.measuring import Row
from experiments.tiny.table import publish
from pusa_jax.models.latte.dit import LatteVideo

STUDY = "fvdm"
STEPS = 20
"""Of DDIM."""

LONGEST = 8 * FRAMES
"""Frames of the long clips, of which half are the clips four times as long."""

RUNS = (
    *(Run(probability=p) for p in (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)),
    *(Run(probability=p, times=4) for p in (0.0, 0.2, 1.0)),
    *(Run(probability=p, pretrained=True) for p in (0.0, 0.2, 1.0)),
)

LONGER_SEEDS = 1
"""Of the longer runs."""


OTHERS = "true"
"""A row of true clips of other scenes: the best there is where nothing is given, and what it costs
to overlook given frames where some are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """What is measured.

    Attributes:
      short: (true clips, places of given frames) -> clips of 16 frames.
      long: (frames, count) -> clips with nothing given.
    """

    short: Callable[[Codes, Sequence[int]], Codes]
    long: Callable[[int, int], Codes]


def run(lab: Lab) -> None:
    """Trains with every share for every seed and measures FVDM's tasks with each."""
    found = {training.name: cells(lab, training) for training in lab.some(RUNS)}
    found[OTHERS] = cells(lab, None)
    by_model = {name: by_task(rows) for name, rows in found.items()}
    tasks = next(iter(by_model.values()))
    results = {(task, name): by_model[name][task] for task in tasks for name in by_model}
    publish(lab, STUDY, results, ("coherent", "path", "colour", "speed"))


def cells(lab: Lab, training: Run | None) -> list[Row]:
    """All measures of all tasks, "task: measure" -> value, for every seed.

    Args:
      lab: where cells lie.
      training: of the model; None for true clips of other scenes.
    """
    amount = QUICK if lab.scale.thin else Amount()

    def compute(seed: int) -> Row:
        codec = clips_of(seed, amount.clips).codec
        if training is None:
            return measure(others(codec, seed), codec, lab, seed)
        leaves = trained(lab.workdir / "training-fvdm", seed, training, amount)
        return measure(maker_of(network(leaves), lab, seed), codec, lab, seed)

    if training is not None and training.times > 1:
        scale = dataclasses.replace(lab.scale, seeds=min(LONGER_SEEDS, lab.scale.seeds))
        lab = Lab(lab.folder, lab.workdir, lab.tables, scale)
    name = OTHERS if training is None else f"p {training.name}"
    return lab.cells(f"tiny Latte/{name}, {amount.name}", compute)


def maker_of(dit: LatteVideo, lab: Lab, seed: int) -> Maker:
    """Samples with a network; all tasks of a seed begin with the same noise."""
    key, steps = jax.random.key(seed), 2 if lab.scale.thin else STEPS
    return Maker(
        short=lambda truth, places: clips(dit, conditions(truth, places), steps, len(truth), key),
        long=lambda frames, count: long_clips(dit, frames, steps, count, key),
    )


def others(codec: FrameCodec, seed: int) -> Maker:
    """True clips of scenes that nobody asked for."""

    def true(frames: int, count: int) -> Codes:
        return codec.encode(rendered(seed, 2 * world.FRESH, count, frames))

    return Maker(short=lambda truth, places: true(FRAMES, len(truth)), long=true)


def rendered(seed: int, first: int, count: int, frames: int) -> Clips:
    """True clips of scenes in turn."""
    scenes = (world.draw(seed, first + i) for i in range(count))
    return np.stack([world.render(scene, frames) for scene in scenes])


def by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Measures by task: the rows that a table has."""
    tasks = dict.fromkeys(name.split(": ")[0] for name in rows[0])
    return {
        task: [
            {n.split(": ")[1]: x for n, x in row.items() if n.split(": ")[0] == task}
            for row in rows
        ]
        for task in tasks
    }


def measure(maker: Maker, codec: FrameCodec, lab: Lab, seed: int) -> Row:
    """Lets clips of every task be made for fresh scenes and describes them."""
    count, row = lab.scale.count, {}
    scenes = [world.draw(seed, world.FRESH + i) for i in range(count)]
    truth = codec.encode(rendered(seed, world.FRESH, count, FRAMES))
    true = see(codec.decode(truth))
    for task, places in TASKS.items():
        made = see(codec.decode(maker.short(truth, places)))
        chosen = [i for i in range(FRAMES) if i not in places]
        found = of_task(task, true, made, scenes, chosen)
        row |= {f"{task}: {name}": value for name, value in found.items()}
    longest = LONGEST // 2 if lab.scale.thin else LONGEST
    long = see(codec.decode(maker.long(longest, count // 2)))
    for frames in (longest // 2, longest):
        found = of_long(long.frames(slice(frames)), frames)
        row |= {f"long {frames}: {name}": value for name, value in found.items()}
    return row


def of_task(
    task: str, true: Seen, made: Seen, scenes: Sequence[world.Scene], chosen: Sequence[int]
) -> Row:
    """Measures of clips of 16 frames; frames that were given are left out of all but `frechet`.

    Returns:
      `coherent`; `path`, the distance from the nearest rule, or one that begins in the given frame,
      or from the truth where both ends are given; `colour`, the distance from the true colour, or
      of frames from their clip's where nothing is given; `speed`; `frechet`.
    """
    seen = made.frames(chosen)
    row = measuring.coherent(seen)
    match task:
        case "plain":
            path, colour = measuring.from_rule(seen), measuring.unsteadiness(seen)
        case "image-to-video":
            path = measuring.from_rule_through(seen, scenes, chosen)
            colour = measuring.from_colour(seen, true)
        case _:
            path = measuring.from_truth(seen, measuring.truth_of(scenes, FRAMES)[:, chosen])
            colour = measuring.from_colour(seen, true)
    row |= {"path": float(path.mean()), "colour": colour, "speed": measuring.speed(seen)}
    return row | {"frechet": measuring.frechet_distance(true, made)}


def of_long(seen: Seen, frames: int) -> Row:
    """Measures of the last quarter of long clips, held against the first.

    Returns:
      `coherent` and `path` of the last quarter, in windows of 16 frames; `colour`, its distance
      from the first's; `speed`; and of the whole clip `coherent_first`, of the first quarter, and
      `seam`, see `measuring.seam`.
    """
    quarter = frames // 4
    first, last = seen.frames(slice(quarter)), seen.frames(slice(frames - quarter, frames))
    windows = [slice(i, i + FRAMES) for i in range(0, quarter, FRAMES)]
    path = np.concatenate([measuring.from_rule(last.frames(window)) for window in windows])
    return measuring.coherent(last) | {
        "path": float(path.mean()),
        "colour": measuring.drift(first, last),
        "speed": measuring.speed(last),
        "coherent_first": float(first.whole.mean()),
        "seam": measuring.seam(seen, range(FRAMES, frames, FRAMES - OVERLAP)),
    }
