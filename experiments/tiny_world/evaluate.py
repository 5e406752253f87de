"""How well a model of the world does what it is asked for, measured by the stick on decoded pixels.

Many clips are sampled at a time by the programs of sampling and decoding themselves. Scenes are
fresh: their numbers begin where no training reaches.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pusa_jax.demo.judge import judge
from pusa_jax.demo.world import Scene, World, draw, render
from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.tasks import latent_frames
from pusa_jax.inference.step import sample_at_once
from pusa_jax.models.family import Family
from pusa_jax.models.wan.family import WAN21
from pusa_jax.typing import Latents, Text

FRESH = 2_000_000
"""Number of the first scene that is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How clips are sampled.

    Attributes:
      num_steps: of the solver.
      shift: of the noise schedule.
      guidance_scale: 1 is off.
      batch: clips at a time.
    """

    num_steps: int = 10
    shift: float = 5.0
    guidance_scale: float = 2.0
    batch: int = 20

    def settings(self) -> SamplingConfig:
        """As a family's table takes them: with exact timesteps, as these models were trained."""
        return SamplingConfig(
            num_steps=self.num_steps,
            shift=self.shift,
            guidance_scale=self.guidance_scale,
            original_timesteps=False,
        )


def plan(
    dit: Any, sampling: Sampling, multipliers: Float[np.ndarray, " F"], family: Family = WAN21
) -> NoiseTable:
    """The noise table of a run of a network."""
    return family.table(
        sampling.settings(),
        multipliers,
        is_conditioned=bool((multipliers < 1).any()),
        compute_dtype=dit.config.compute_dtype,
    )


@functools.partial(jax.jit, static_argnums=0)
def sample(
    family: Family,
    dit: Any,
    texts: tuple[Text, Text],
    clean: Latents,
    noise: Latents,
    table: NoiseTable,
    scale: Float[Array, ""],
) -> Latents:
    """Samples clips from captions, guided away from the empty prompt."""
    return sample_at_once(family, dit, texts, clean, noise, table, scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What of a true clip is handed over.

    Attributes:
      images: places of latent frames that are given as pictures, each encoded alone.
      clip: number of latent frames, from the first, that are given as a clip.
      multiplier: share of the noise on them.
    """

    images: tuple[int, ...] = ()
    clip: int = 0
    multiplier: float = 0.0

    def given(self, stride: int) -> tuple[int, ...]:
        """Pixel frames that are given, and so not counted."""
        latent = {*self.images, *range(self.clip)}
        return tuple(sorted(i for f in latent for i in pixels_of(f, stride)))


TEXT_TO_VIDEO = Task()
IMAGE_TO_VIDEO = Task(images=(0,))
START_END = Task(images=(0, 8))
EXTENSION = Task(clip=4)


def pixels_of(latent: int, stride: int) -> range:
    """Pixel frames that a latent frame stands for."""
    return range(1) if latent == 0 else range((latent - 1) * stride + 1, latent * stride + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What is measured: a network, and the way between pixels, words and what it reads.

    Attributes:
      dit: the network.
      encode: clips of uint8 [B, T, H, W, 3] -> latents [B, F, h, w, C].
      decode: the way back, uint8.
      text: caption -> features [L, E], padded.
      family: of the network.
      stride: pixel frames per latent frame but the first.
    """

    dit: Any
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]
    text: Callable[[str], np.ndarray]
    family: Family = WAN21
    stride: int = 4


def conditions_of(
    model: Model, task: Task, videos: UInt8[np.ndarray, "B T H W 3"]
) -> list[FrameCondition]:
    """What a task gives of true clips."""
    conditions = []
    if task.clip:
        whole = model.encode(videos[:, : 1 + 4 * (task.clip - 1)])
        conditions = [(i, whole[:, i : i + 1]) for i in range(task.clip)]
    for i in task.images:
        at = pixels_of(i, 4)[-1]
        conditions.append((i, model.encode(videos[:, at : at + 1])))
    return [
        FrameCondition(index=i, latents=jnp.asarray(x), multiplier=task.multiplier)
        for i, x in conditions
    ]


def generate(
    model: Model,
    scenes: list[Scene],
    conditions: list[FrameCondition],
    sampling: Sampling,
    key: jax.Array,
) -> UInt8[np.ndarray, "B T H W 3"]:
    """Samples a clip for each scene's caption and the latent frames that are given."""
    frames = latent_frames(len(scenes[0].positions), model.stride)
    cells = scenes[0].size // 8
    shape = (len(scenes), frames, cells, cells, model.dit.config.in_dim)
    noise = jax.random.normal(key, shape, jnp.float32)
    clean, multipliers = place(conditions, noise)
    table = plan(model.dit, sampling, multipliers, model.family)
    prompt = np.stack([model.text(scene.caption) for scene in scenes])
    nothing = np.stack([model.text("")] * len(scenes))
    scale = jnp.float32(sampling.guidance_scale)
    texts = jnp.asarray(prompt), jnp.asarray(nothing)
    table = jax.tree.map(jnp.asarray, table)
    latents = sample(model.family, model.dit, texts, clean, noise, table, scale)
    return model.decode(np.asarray(latents))


def measure(
    model: Model, world: World, task: Task, count: int, sampling: Sampling, seed: int = 0
) -> dict[str, float]:
    """Samples `count` clips of fresh scenes; shares are means over clips, errors are medians.

    Returns:
      `coherent`, `colour`, `background`, `shape`, `direction`, `path`; and of tasks that give
      frames, in pixels, `error_1_4` over frames 1 to 4, `error_middle` over 12 to 20 and
      `error_last` over the last four. A frame without object counts with half the frame's size.
    """
    verdicts = []
    given = task.given(4)
    for first in range(0, count, sampling.batch):
        numbers = range(FRESH + first, FRESH + first + sampling.batch)
        scenes = [draw(world, seed, i) for i in numbers]
        key = jax.random.fold_in(jax.random.key(seed), first)
        truth = np.stack([render(scene) for scene in scenes])
        conditions = conditions_of(model, task, truth)
        videos = generate(model, scenes, conditions, sampling, key)
        verdicts += [judge(v, s, given) for v, s in zip(videos, scenes, strict=True)]
    verdicts = verdicts[:count]
    names = ("coherent", "colour", "background", "shape", "direction", "path")
    found = {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in names}
    if task != TEXT_TO_VIDEO:
        errors = np.nan_to_num(np.stack([v.errors for v in verdicts]), nan=world.size / 2)
        spans = {"error_1_4": range(1, 5), "error_middle": range(12, 21)}
        spans["error_last"] = range(errors.shape[1] - 4, errors.shape[1])
        for name, span in spans.items():
            chosen = [i for i in span if i not in given]
            if chosen:
                found[name] = float(np.median(errors[:, chosen]))
    return found
