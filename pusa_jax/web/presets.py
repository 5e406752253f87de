"""Where a task has its given frames and how noisy they are, before anybody drags: its defaults."""

from typing import Any

import numpy as np

from pusa_jax.cli.job import INPUT_FLAGS
from pusa_jax.diffusion import tasks

INPUTS = {"t2v": 0, "start-end": 2, "interpolate": 3, "transition": 2}
"""Task -> inputs that the timeline has places for at first; others have one."""


def kind_of(task: str) -> str:
    """What is dropped for a task: "picture", "clip" or, for text to video, "nothing"."""
    if task not in INPUT_FLAGS:
        return "nothing"
    return "picture" if INPUT_FLAGS[task][0] == "--image_paths" else "clip"


def given_by_default(
    task: str, family: Any, f: int, stride: int, inputs: int = 0
) -> list[tuple[int, float]]:
    """(place, noise level) of each given latent frame, from the functions that make the task.

    Args:
      task: of the command line.
      family: of the model; may have multipliers of its own.
      f: latent frames of the result.
      stride: pixel frames of a latent frame.
      inputs: pictures of an interpolation; 0 is as many as the timeline shows at first.

    Raises:
      ValueError: the clip is too short for the task.
    """
    picture = np.zeros((1, 1, 3), np.uint8)
    clip = np.zeros((stride * (f + 2) + 1, 1, 1, 3), np.uint8)
    own: Any = family.multipliers.get(task)
    match task:
        case "t2v":
            found = []
        case "i2v":
            found = tasks.image_to_video(picture, None, own)
        case "loop":
            found = tasks.loop(picture, f, None, own)
        case "start-end":
            found = tasks.start_end(picture, picture, f, None, own)
        case "interpolate":
            count = inputs or INPUTS[task]
            own = own and own + own[-1:] * (count - len(own))
            found = tasks.interpolate([picture] * count, f, None, own)
        case "complete":
            found = tasks.complete(clip, f, stride, None, own)
        case "extend":
            found = tasks.extend(clip, stride, None, own)
        case "transition":
            found = tasks.transition(clip, clip, f, stride, None, own)
        case _:
            raise ValueError(f"there is no task {task!r:.80}.")
    return [pair for each in found for pair in zip(each.at, each.multipliers, strict=True)]
