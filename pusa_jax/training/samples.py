"""A fixed set of clips sampled during training, each as text-to-video and as image-to-video.

Captions and first frames are those of some clips of the data set, the noise never changes: what
changes from picture to picture is the network. The same program serves both tasks.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data.batches import Clips
from pusa_jax.devices import processes
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.guidance import guided
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.media.pixels import to_uint8
from pusa_jax.media.video import frame_strip, write_png
from pusa_jax.models.wan.schedule import noise_table
from pusa_jax.models.wan.vae import WanVAE, decode
from pusa_jax.training.config import RANDOM, RunConfig, SampleConfig
from pusa_jax.training.layout import Placement
from pusa_jax.training.state import Params, TrainState
from pusa_jax.training.step import Frozen, Recipe, network
from pusa_jax.typing import Latents, Text
from pusa_jax.weights.leaves import assemble

Jit = Callable[..., Callable[..., Any]]


def sample(
    recipe: Recipe,
    params: Params,
    frozen: Frozen,
    clean: Latents,
    noise: Latents,
    text: Text,
    table: NoiseTable,
    scale: Float[Array, ""],
) -> Latents:
    """Samples clips from their captions, guided away from the empty prompt."""
    dit = network(recipe, params, frozen.base)
    empty = jnp.broadcast_to(frozen.no_text, text.shape)
    prompt, nothing = (dit.project_text(t.astype(text.dtype)) for t in (text, empty))
    texts = jax.tree.map(lambda a, b: jnp.stack([a, b]), prompt, nothing)

    def velocity(latents, timesteps, text_kv):
        return dit(latents, timesteps, text_kv).astype(latents.dtype)

    return denoise(guided(velocity, texts, scale), start(clean, noise, table), table)


def tables(config: SampleConfig, recipe: Recipe, frames: int) -> dict[str, NoiseTable]:
    """Task -> noise table."""
    levels = recipe.objective.levels

    def plan(first):
        multipliers = np.ones(frames, np.float32)
        multipliers[0] = first
        table = noise_table(config.num_steps, levels.shift, multipliers, rounding=levels.rounding)
        return jax.tree.map(jnp.asarray, table)

    return {"t2v": plan(1.0), "i2v": plan(config.multiplier)}


def shown(vae: WanVAE, latents: Latents, count: int) -> Float[Array, "B n height width 3"]:
    """Decodes clips to pixels and keeps `count` frames of each, evenly spread."""
    video = decode(vae, latents)
    chosen = np.linspace(0, video.shape[1] - 1, min(count, video.shape[1])).round().astype(int)
    return video[:, chosen]


def picture(frames: Float[np.ndarray, "B n H W 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """One row of frames per clip."""
    return np.concatenate([frame_strip(to_uint8(clip), len(clip)) for clip in frames])


def load_vae(run: RunConfig) -> WanVAE:
    """The VAE beside the weights of a run, or a random one.

    Raises:
      FileNotFoundError: the weights have no VAE beside them.
    """
    if run.model.weights == RANDOM:
        return WanVAE(run.model.networks().vae, rngs=nnx.Rngs(run.seed))
    config, leaves = ModelFolder(run.model.weights).load("vae", "float32")
    return assemble(lambda: WanVAE(config, rngs=nnx.Rngs(0)), leaves)


class Renderer:
    """Samples the fixed set of clips and shows them."""

    def __init__(self, run: RunConfig, clips: Clips, placed: Placement, folder: Path, jit: Jit):
        """Loads the VAE and the clips; `folder` is where pictures go, `jit` is `jax.jit`."""
        self._config, self._folder = run.samples, folder
        examples = clips.examples(run.samples.count)
        self._clean = jax.device_put(examples["latents"].astype(np.float32), placed.everywhere)
        self._text = jax.device_put(examples["text"], placed.everywhere)
        self._noise = jax.random.normal(jax.random.key(0), self._clean.shape, jnp.float32)
        self._tables = tables(run.samples, run.recipe, clips.clip_shape[0])
        self._sample = jit(functools.partial(sample, run.recipe), out_shardings=placed.everywhere)
        self._shown = jit(shown, static_argnums=2)
        self._vae = None
        if processes.is_first():
            self._vae = jax.device_put(load_vae(run), jax.local_devices()[0])

    def __call__(
        self, step: int, state: TrainState, frozen: Frozen
    ) -> Iterator[tuple[str, UInt8[np.ndarray, "height width 3"]]]:
        """Samples with the average if there is one; yields task and picture, on process 0 only.

        Pictures are written as TASK-STEP.png. One device decodes them; all would do the same.

        Raises:
          OSError: a picture cannot be written.
        """
        scale = jnp.float32(self._config.guidance_scale)
        given = (self._clean, self._noise, self._text)
        for task, table in self._tables.items():
            latents = self._sample(state.ema or state.params, frozen, *given, table, scale)
            if self._vae is not None:
                here = latents.addressable_data(0)
                with jax.set_mesh(make_mesh({}, jax.local_devices()[:1])):
                    frames = self._shown(self._vae, here, self._config.strip)
                image = picture(np.asarray(frames))
                write_png(self._folder / f"{task}-{step:06}.png", image)
                yield task, image
