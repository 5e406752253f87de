"""A fixed set of clips sampled during training, each as text-to-video and as image-to-video.

Captions and first frames are those of some clips of the data set, the noise never changes: what
changes from picture to picture is the network. The same program serves both tasks.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data.batches import Clips
from pusa_jax.devices import processes
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.inference.step import sample_at_once
from pusa_jax.media.pixels import to_uint8
from pusa_jax.media.video import frame_strip, write_png
from pusa_jax.training.config import RunConfig, SampleConfig
from pusa_jax.training.layout import Placement
from pusa_jax.training.startup import open_weights
from pusa_jax.training.state import Params, TrainState
from pusa_jax.training.step import Frozen, Recipe, network
from pusa_jax.training.workdir import all_drawn, picture_path
from pusa_jax.typing import Latents, Text
from pusa_jax.weights.leaves import abstract, fill, noise, shapes_for


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
    empty = jnp.broadcast_to(frozen.no_text, text.shape).astype(
        text.dtype
    )  # [1, L, E] -> [B, L, E]
    return sample_at_once(recipe.family, dit, (text, empty), clean, noise, table, scale)


def tables(config: SampleConfig, recipe: Recipe, frames: int) -> dict[str, NoiseTable]:
    """Task -> noise table, with timesteps rounded as training rounds them."""
    levels = recipe.objective.levels
    solver = recipe.family.sampling.solver
    settings = SamplingConfig(num_steps=config.num_steps, shift=levels.shift, solver=solver)

    def plan(first):
        multipliers = np.ones(frames, np.float32)
        multipliers[0] = first
        table = recipe.family.table(
            settings,
            multipliers,
            is_conditioned=False,  # truncation is of published pipelines, never of training
            compute_dtype="bfloat16" if levels.rounding == "bfloat16" else "float32",
        )
        return jax.tree.map(jnp.asarray, table)

    return {"t2v": plan(1.0), "i2v": plan(config.multiplier)}


def shown(
    autoencoder: Autoencoder, latents: Float[np.ndarray, "B F h w C"], count: int
) -> Float[np.ndarray, "B n H W 3"]:
    """Decodes clips to pixels and keeps `count` frames of each, evenly spread."""
    video = autoencoder.decode(latents)
    chosen = np.linspace(0, video.shape[1] - 1, min(count, video.shape[1])).round().astype(int)
    return video[:, chosen]


def picture(frames: Float[np.ndarray, "B n H W 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """One row of frames per clip."""
    return np.concatenate([frame_strip(to_uint8(clip), len(clip)) for clip in frames])


def as_trained(run: RunConfig, latents: np.ndarray) -> np.ndarray:
    """Latents of given frames as the run noises them: without normalisation, where it does so."""
    recipe = run.recipe
    if recipe.statistics is None or recipe.family.given is None:
        return latents
    return recipe.family.given(latents, run.model.networks().vae)


def load_vae(run: RunConfig, weights: ModelFolder | None = None) -> Autoencoder:
    """The autoencoder beside the weights of a run, which may be open already, or a random one.

    Raises:
      FileNotFoundError: the weights have no VAE beside them.
    """
    weights = open_weights(run) if weights is None else weights
    networks = run.model.networks()
    network, codec = networks.family.networks["vae"], networks.family.codec
    if weights is None:
        config = networks.vae
        leaves = noise(shapes_for(network.build, config), run.seed)
    else:
        config, leaves = weights.load("vae", "float32")
    return Autoencoder(fill(abstract(network.build, config), leaves), codec, config)


class Renderer:
    """Samples the fixed set of clips and shows them."""

    def __init__(
        self,
        run: RunConfig,
        clips: Clips,
        placed: Placement,
        folder: Path,
        weights: ModelFolder | None = None,
    ):
        """Loads the VAE, see `load_vae`, and the clips; `folder` is where pictures go."""
        self._config, self._folder = run.samples, folder
        examples = clips.examples(run.samples.count)
        clean = as_trained(run, examples["latents"].astype(np.float32))
        self._clean = jax.device_put(clean, placed.everywhere)
        self._text = jax.device_put(examples["text"], placed.everywhere)
        self._noise = jax.random.normal(jax.random.key(0), self._clean.shape, jnp.float32)
        self._tables = tables(run.samples, run.recipe, clips.clip_shape[0])
        self._sample = jax.jit(
            functools.partial(sample, run.recipe), out_shardings=placed.everywhere
        )
        self._autoencoder = None
        if processes.is_first():
            with self._one_device():
                self._autoencoder = load_vae(run, weights)

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
            if self._autoencoder is not None:
                here = np.asarray(latents.addressable_data(0))
                with self._one_device():
                    frames = shown(self._autoencoder, here, self._config.strip)
                image = picture(frames)
                write_png(picture_path(self._folder, task, step), image)
                yield task, image

    def has_drawn(self, step: int) -> bool:
        """Whether all pictures of a step are there; every process gets the same answer."""
        return bool(processes.agree_on(int(all_drawn(self._folder, step))))

    @staticmethod
    def _one_device():
        """The mesh of the autoencoder, in place of the run's."""
        return jax.set_mesh(make_mesh({}, jax.local_devices()[:1]))
