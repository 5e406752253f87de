"""Samples many clips of a task at once and says what the stick sees in them.

    scene --render--> true clip --task (diffusion.tasks)--> conditions --VAE--> given latents
    caption --------> sample (denoise with guidance) --VAE--> clip --stick--> numbers

Frames that were given are left out of every number but `kept`.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from experiments.tiny_world.autoencoder import psnr
from experiments.tiny_world.evaluate import FRESH, Model, Sampling, generate, pixels_of
from pusa_jax.demo.judge import judge
from pusa_jax.demo.world import WIDE, Scene, World, draw, render
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.tasks import Condition

WORLD = WIDE
"""What the shipped models know."""

STRIDE = 4
"""Pixel frames per latent frame but the first."""

LATENT_FRAMES = tasks.latent_frames(WORLD.num_frames, STRIDE)

SHARES = ("coherent", "colour", "background", "shape", "direction", "path")

Clip = UInt8[np.ndarray, "T H W 3"]
Row = dict[str, float]
Task = Callable[[Clip], list[Condition]]
"""What of a true clip is handed over, and how noisy."""


def text_to_video(clip: Clip) -> list[Condition]:
    """Nothing."""
    return []


def image_to_video(clip: Clip, multiplier: float = 0.0) -> list[Condition]:
    """The first frame."""
    return tasks.image_to_video(clip[0], multipliers=(multiplier,))


def start_end(clip: Clip, multiplier: float = 0.0) -> list[Condition]:
    """The first and the last frame."""
    return tasks.start_end(clip[0], clip[-1], LATENT_FRAMES, multipliers=(multiplier,) * 2)


def completion(clip: Clip) -> list[Condition]:
    """The first and the last latent frame of the clip."""
    return tasks.complete(clip, LATENT_FRAMES, STRIDE, multipliers=(0.0, 0.0))


def extension(clip: Clip, multiplier: float = 0.0) -> list[Condition]:
    """The first four latent frames."""
    return tasks.extend(clip, STRIDE, multipliers=(multiplier,) * 4)


def transition(clip: Clip) -> list[Condition]:
    """The beginning and the end of the clip, as if they were two clips: the truth lies between."""
    head, tail = tasks.transition_frames(LATENT_FRAMES, STRIDE)
    return tasks.transition(clip[:head], clip[-tail:], LATENT_FRAMES, STRIDE)


def loop(clip: Clip) -> list[Condition]:
    """The first frame, at both ends."""
    return tasks.loop(clip[0], LATENT_FRAMES, multipliers=(0.0, 0.0))


def fresh(seed: int, count: int, world: World = WORLD) -> list[Scene]:
    """Scenes that no training has seen."""
    return [draw(world, seed, FRESH + i) for i in range(count)]


def encoded(model: Model, given: list[list[Condition]]) -> list[FrameCondition]:
    """Latent frames of what is given of every scene; of all scenes it lies at the same places."""
    conditions = []
    for alike in zip(*given, strict=True):
        first = alike[0]
        latents = model.encode(np.stack([condition.frames for condition in alike]))
        conditions += [
            FrameCondition(
                index=at, latents=jnp.asarray(latents[:, take : take + 1]), multiplier=multiplier
            )
            for take, at, multiplier in zip(first.take, first.at, first.multipliers, strict=True)
        ]
    return conditions


def measure(
    model: Model, task: Task, sampling: Sampling, count: int, seed: int, world: World = WORLD
) -> Row:
    """Samples clips of fresh scenes and describes them; see `observe` for the numbers.

    Args:
      model: to measure.
      task: what is given of each true clip.
      sampling: how; its batch divides `count`.
      count: clips.
      seed: of scenes and noise.
      world: what the model knows.
    """
    seen = []
    scenes = fresh(seed, count, world)
    for first in range(0, count, sampling.batch):
        batch = scenes[first : first + sampling.batch]
        truth = [render(scene) for scene in batch]
        given = [task(clip) for clip in truth]
        key = jax.random.fold_in(jax.random.key(seed), first)
        clips = generate(model, batch, encoded(model, given), sampling, key)
        kept = given_frames(given[0], model.stride)
        seen += [observe(*x, kept) for x in zip(clips, truth, batch, strict=True)]
    return summary(seen)


def given_frames(conditions: list[Condition], stride: int = STRIDE) -> tuple[int, ...]:
    """Pixel frames that are given."""
    latent = {at for condition in conditions for at in condition.at}
    return tuple(sorted(i for at in latent for i in pixels_of(at, stride)))


def observe(video: Clip, truth: Clip, scene: Scene, given: tuple[int, ...]) -> Row:
    """What the stick sees in one clip.

    Returns:
      the shares of the stick, and where frames are given: `error` of the place, over all generated
      frames, `error_1_4`, `error_middle` and `error_last` over frames 1 to 4, 12 to 20 and the last
      four; `jump` at the seams between given and generated frames, beyond the true step; all in
      pixels, medians. `motion`: whether heading and speed of the generated frames are the true
      ones, to a third of the speed. `kept`: PSNR of the given frames in dB.
    """
    verdict = judge(video, scene, given)
    row = {name: float(getattr(verdict, name)) for name in SHARES}
    if not given:
        return row
    made = [i for i in range(len(video)) if i not in given]
    lost = scene.size / 2  # pixels; the error of a frame without an object
    errors = np.nan_to_num(verdict.errors, nan=lost)
    spans = {"error": made, "error_1_4": range(1, 5), "error_middle": range(12, 21)}
    spans["error_last"] = range(len(video) - 4, len(video))
    for name, span in spans.items():
        if chosen := [i for i in span if i not in given]:
            row[name] = float(np.median(errors[chosen]))
    places = verdict.places
    seams = [i for i in range(1, len(video)) if (i in given) != (i - 1 in given)]
    steps = np.diff(places, axis=0) - np.diff(scene.positions, axis=0)
    jumps = np.nan_to_num(np.linalg.norm(steps[[i - 1 for i in seams]], axis=1), nan=lost)
    row["jump"] = float(jumps.max())
    right, found = velocity(scene.positions[made]), velocity(places[made])
    row["motion"] = float(np.linalg.norm(found - right) < np.linalg.norm(right) / 3)
    squared = np.square((video[list(given)].astype(np.float32) - truth[list(given)]) / 127.5)
    row["kept"] = float(psnr(squared.reshape(1, -1).mean(axis=1))[0])
    return row


def velocity(places: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, " 2"]:
    """Median step in pixels per frame, smoothed over four; zero if less than half is seen."""
    steps = (places[4:] - places[:-4]) / 4
    seen = ~np.isnan(steps).any(axis=1)
    return np.median(steps[seen], axis=0) if seen.mean() >= 0.5 else np.zeros(2)


def summary(seen: list[Row]) -> Row:
    """Medians over clips of what is in pixels, means of the rest."""
    names = seen[0]
    return {name: float(_middle(name)([row[name] for row in seen])) for name in names}


def _middle(name: str) -> Callable[[list[float]], np.floating]:
    return np.median if name.startswith(("error", "jump")) else np.mean


def at(task: Callable[..., list[Condition]], multiplier: float) -> Task:
    """The task with this multiplier on all that is given."""
    return functools.partial(task, multiplier=multiplier)


ZERO_SHOT: Mapping[str, Task] = {
    "start-end": start_end,
    "completion": completion,
    "extension": extension,
    "transition": transition,
    "loop": loop,
}
"""Tasks that no training has seen as such."""
