"""Every task with the finished folder, as the command line makes it, and what is to be seen.

OUTPUT/clips/TASK.mp4      a clip per task, and inputs/ what they start from
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from experiments.tiny_fvdm import world
from experiments.tiny_fvdm.denoiser import FRAMES
from pusa_jax.demo.judge import AREA_TOLERANCE, look
from pusa_jax.inference import jobs
from pusa_jax.inference.job import Job, Task
from pusa_jax.inference.loading import load_parts, open_model
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.media import video
from pusa_jax.progress import Progress

OVERLAP = FRAMES // 2

SCENES = 8
"""That inputs are taken from."""

GUIDANCE = 1.5
"""To a class: 7, which is published for large models, tears these discs."""

STEADY = 0.6
"""Pixels by which a frame's way may differ from the world's."""

Shares = dict[str, float]

Clip = UInt8[np.ndarray, "T H W 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One clip to be made.

    Attributes:
      task: of the command line.
      label: of its class; None asks for no class.
      inputs: of the task: one frame for a picture, more for a clip.
      frames: of the clip; more than `FRAMES` are made in pieces.
    """

    task: Task
    label: int | None
    inputs: Sequence[Clip] = ()
    frames: int = FRAMES


def parts(first: int = 0) -> dict[str, Part]:
    """Name of a clip -> how it is made, of scenes from this one on, which no training has seen."""
    scenes = [world.draw(0, world.FRESH + first + i) for i in range(SCENES)]
    clips = [world.render(scene, 2 * FRAMES) for scene in scenes]

    def given(task: Task, i: int, *spans: slice, frames: int = FRAMES) -> Part:
        inputs = [clips[i][span] for span in spans]
        return Part(task=task, label=scenes[i].label, inputs=inputs, frames=frames)

    def at(frame: int) -> slice:
        return slice(frame, frame + 1)

    ends = at(0), at(FRAMES - 1)
    return {
        "plain": Part(task="t2v", label=None),
        **{f"class-{i}": Part(task="t2v", label=i) for i in range(len(world.CLASSES))},
        "i2v": given("i2v", 0, at(0)),
        "start-end": given("start-end", 1, *ends),
        "interpolate": given("interpolate", 2, at(0), at(FRAMES // 2), at(FRAMES - 1)),
        "complete": given("complete", 3, slice(FRAMES)),
        "extend": given("extend", 4, slice(FRAMES)),
        "transition": given("transition", 5, slice(6), slice(10, 16)),
        "loop": given("loop", 7, at(0)),
        "long-4x": Part(task="t2v", label=0, frames=4 * FRAMES),
        "long-8x": Part(task="t2v", label=4, frames=8 * FRAMES),
        "i2v-4x": given("i2v", 6, at(0), frames=4 * FRAMES),
    }


def make_all(
    folder: Path, chosen: Mapping[str, Part], on_progress: Progress, place: str = "clips"
) -> dict[str, Shares]:
    """Makes clips in `folder / place`, each with its own seed; returns what is seen of each."""
    model = open_model(str(folder))
    loaded = load_parts(model, dtype="float32", mesh=None, on_progress=on_progress)
    pipeline = PusaPipeline(**vars(loaded))
    best = dataclasses.replace(model.configs.fitted(model.family), guidance_scale=GUIDANCE)
    found = {}
    for i, (name, part) in enumerate(chosen.items()):
        job = Job(
            task=part.task,
            model=str(folder),
            prompt="" if part.label is None else str(part.label),
            negative_prompt="",
            inputs=_written(folder / place / "inputs", name, part.inputs),
            overlap=OVERLAP if part.frames > FRAMES else None,
            dtype="float32",
            settings=dataclasses.replace(best, num_frames=part.frames, seed=i),
        )
        prepared = jobs.prepare(job, folder / place / f"{name}.mp4", model)
        result, *_ = jobs.run(prepared, pipeline=pipeline)
        found[name] = shares(result.frames, part.label)
        on_progress("clips", i + 1, len(chosen))
    return found


def _written(folder: Path, name: str, inputs: Sequence[Clip]) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, frames in enumerate(inputs):
        paths.append(str(folder / f"{name}-{i}.{'png' if len(frames) == 1 else 'mp4'}"))
        if len(frames) == 1:
            video.write_png(paths[-1], frames[0])
        else:
            video.write_video(paths[-1], frames, 8, {})
    return tuple(paths)


def in_words(seen: Shares) -> str:
    """What is seen of a clip, for people."""
    return ", ".join(f"{share:.0%} {name}" for name, share in seen.items())


def shares(clip: Clip, label: int | None) -> Shares:
    """Shares of the frames that hold one whole disc, have its colour, and go the world's way.

    Args:
      clip: any.
      label: of the class that it should be; of a clip of any class, that of its first frame's.
    """
    frames = [look(frame) for frame in clip]
    right = math.pi * world.RADIUS**2
    whole = [f.objects == 1 and abs(f.area / right - 1) <= AREA_TOLERANCE for f in frames]
    places = np.asarray([frame.place for frame in frames])
    ways = np.abs(np.diff(places, axis=0))  # NaN where there is nothing
    if label is None:
        colour, axis = frames[0].colour, int(np.nansum(ways, axis=0).argmax())
    else:
        colour, name = world.CLASSES[label]
        axis = world.AXES[name]
    same = [frame.colour == colour for frame in frames]
    steady = (np.abs(ways[:, axis] - world.SPEED) < STEADY) & (ways[:, 1 - axis] < STEADY)
    seen = {"whole": whole, "of its colour": same, "steady": steady}
    return {name: float(np.mean(share)) for name, share in seen.items()}
