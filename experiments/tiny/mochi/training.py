"""A tiny Mochi trained from nothing: text-to-video, then further with one level per clip or frame.

Everything lies in memory: a few hundred thousand parameters, two thousand clips. The step, its
objective and the draws of levels are those of `pusa-jax train`.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from experiments.tiny.mochi.codec import LinearCodec, fit
from experiments.tiny.optimizer import from_nothing
from pusa_jax.demo.world import World, draw, render
from pusa_jax.diffusion.timesteps import LevelConfig, Sampler
from pusa_jax.models.mochi.config import DiTConfig
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import Params
from pusa_jax.training.step import Frozen, Recipe, first_state, train_step
from pusa_jax.weights.leaves import leaves_of

WORLD = World(size=32, num_frames=25, radius=(5.0, 5.0), speed=(0.5, 0.5))
"""Twelve captions; the prompt does not say where the object is, only the given frame does."""

DIT = DiTConfig(
    dim=96, context_dim=48, ffn_dim=192, context_ffn_dim=64, num_heads=4, num_layers=3,
    pool_heads=4, text_dim=32, text_len=10, freq_dim=64,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is trained.

    Attributes:
      clips: of the world.
      base: steps of text-to-video from nothing.
      further: steps after that.
      batch: clips of a step.
    """

    clips: int = 2048
    base: int = 1800
    further: int = 500
    batch: int = 32


QUICK = Amount(clips=16, base=2, further=2, batch=2)

RATE = 3e-3
"""Learning rate of the base; further training has half of it. Both fall along a cosine."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """What one seed is trained on.

    Attributes:
      codec: fitted to some of them.
      latents: of all, [N, F, h, w, C].
      text: features of their captions, [N, L, E].
    """

    codec: LinearCodec
    latents: Float[np.ndarray, "N F h w C"]
    text: Float[np.ndarray, "N L E"]


@functools.cache
def clips_of(seed: int, count: int) -> Clips:
    """The first clips of the sequence that a seed stands for."""
    scenes = [draw(WORLD, seed, i) for i in range(count)]
    clips = np.stack([render(scene) for scene in scenes])
    codec = fit(clips[:400])
    text = np.stack([features(scene.caption) for scene in scenes])
    return Clips(codec=codec, latents=codec.encode(clips).astype(np.float32), text=text)


@functools.cache
def trained(seed: int, name: str, amount: Amount) -> Params:
    """Leaves of the "base", or of what follows from it, "VTA" or "control": a running average."""
    if name == "base":
        return _run(start_values(seed), seed, "shared", amount.base, RATE, amount)
    sampler: Sampler = "independent" if name == "VTA" else "shared"
    base = trained(seed, "base", amount)
    return _run(base, seed, sampler, amount.further, RATE / 2, amount)


def _run(
    start: Params, seed: int, sampler: Sampler, steps: int, rate: float, amount: Amount
) -> Params:
    clips, recipe = clips_of(seed, amount.clips), _recipe(sampler, steps, rate)
    state = jax.jit(functools.partial(first_state, recipe))(start, jax.random.key(seed))
    step = jax.jit(functools.partial(train_step, recipe))
    frozen = Frozen(base={}, no_text=jnp.zeros((1, DIT.text_len, DIT.text_dim)))
    rng = np.random.default_rng(seed)
    for i in range(steps):
        chosen = rng.integers(amount.clips, size=amount.batch)
        batch = {"latents": clips.latents[chosen], "text": clips.text[chosen]}
        state, found = step(state, frozen, batch)
        if (i + 1) % 200 == 0:
            loss = f"loss {float(found['loss']):.3f}"
            print(f"seed {seed}, {sampler}, step {i + 1}: {loss}", file=sys.stderr, flush=True)
    return dict(state.ema)


def _recipe(sampler: Sampler, steps: int, rate: float) -> Recipe:
    schedule = MOCHI.training_schedule
    return Recipe(
        family=MOCHI,
        dit=DIT,
        adapter=None,
        objective=ObjectiveConfig(
            levels=LevelConfig(sampler=sampler, schedule=schedule, rounding="none"),
            weighting="none",
            text_dropout=0.1,
        ),
        optimizer=from_nothing(rate, steps),
        steps=steps,
    )


def start_values(seed: int) -> Params:
    """Leaves to train from, float32.

    Branches are closed and the head undoes the embedding of patches, a rotation: the network hands
    its input through, which is mostly noise. The learned frequencies of positions, which the
    published weights bring along, begin small: a turn over a frame, not thirty.
    """
    leaves = jax.jit(lambda key: leaves_of(MochiDiT(DIT, rngs=nnx.Rngs(key))))(jax.random.key(seed))
    for path in leaves:
        if "/modulation/" in path or path.startswith(("head/shift", "head/scale")):
            leaves[path] = jnp.zeros_like(leaves[path])
    leaves["pos_frequencies"] *= jnp.asarray([0.7, 0.01, 0.01]).reshape(3, 1, 1)
    patch = leaves["patch_embedding/kernel"].shape[0]
    square = jax.random.normal(jax.random.key(seed), (DIT.dim, patch))
    rotation = jnp.linalg.qr(square)[0].T
    leaves["patch_embedding/kernel"] = rotation
    # The norm in the head scales a token to variance 1; the embedding gave it patch / dim.
    leaves["head/linear/kernel"] = -rotation.T * (patch / DIT.dim) ** 0.5
    return leaves


@functools.cache
def features(caption: str) -> Float[np.ndarray, "L E"]:
    """A random vector for each word, zeros behind the last."""
    found = np.zeros((DIT.text_len, DIT.text_dim), np.float32)
    for place, word in enumerate(caption.split()):
        rng = np.random.default_rng(list(word.encode()))
        found[place] = rng.standard_normal(DIT.text_dim)
    return found
