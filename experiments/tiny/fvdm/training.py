"""A small LatteVIDEO trained from nothing, and further from there, with some share of PTSS.

Everything lies in memory but what is trained, which further runs begin with. The step, its
objective and the draws of levels are those of `pusa-jax train`.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from experiments.tiny.fvdm import codec, world
from experiments.tiny.fvdm.codec import FrameCodec
from experiments.tiny.optimizer import from_nothing
from experiments.tiny_fvdm.denoiser import start_values
from pusa_jax.diffusion.timesteps import LevelConfig
from pusa_jax.files.atomic import replacing
from pusa_jax.models.latte.config import DiTConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.family import LATTE
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import Params
from pusa_jax.training.step import Frozen, Recipe, first_state, train_step
from pusa_jax.weights.leaves import assemble

FRAMES = 16
"""Of a clip."""

CELLS = world.SIZE // codec.CELL

DIT = DiTConfig(
    dim=64, num_heads=4, num_layers=4, in_dim=codec.CHANNELS, patch_size=(1, CELLS, CELLS),
    num_frames=FRAMES, grid=(1, 1), freq_dim=64,
)  # fmt: skip
"""A token is a frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is trained.

    Attributes:
      clips: of the world.
      steps: from nothing.
      further: steps from there.
      batch: clips of a step.
    """

    clips: int = 2048
    steps: int = 1200
    further: int = 300
    batch: int = 16

    @property
    def name(self) -> str:
        """In names of rows and files: what is changed is trained again."""
        return f"{self.steps} + {self.further} steps of {self.batch} of {self.clips}"


QUICK = Amount(clips=16, steps=2, further=2, batch=2)

RATE = 3e-3
"""Learning rate from nothing; further training has a third of it. Both fall along a cosine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
      probability: that the frames of a clip have a timestep each (PTSS).
      pretrained: whether it begins with what the same seed trained with probability 0.
      times: how many times as many steps as others it has.
    """

    probability: float
    pretrained: bool = False
    times: int = 1

    @property
    def name(self) -> str:
        """In tables."""
        name = f"0 then {self.probability:g}" if self.pretrained else f"{self.probability:g}"
        return name if self.times == 1 else f"{name} x{self.times}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """What one seed is trained on.

    Attributes:
      codec: fitted to some of them.
      latents: of all, [N, F, h, w, C].
    """

    codec: FrameCodec
    latents: Float[np.ndarray, "N F h w C"]


@functools.cache
def clips_of(seed: int, count: int) -> Clips:
    """The first clips of the sequence that a seed stands for."""
    clips = np.stack([world.render(world.draw(seed, i), FRAMES) for i in range(count)])
    fitted = codec.fit(clips[:400])
    return Clips(codec=fitted, latents=fitted.encode(clips))


def trained(folder: Path, seed: int, run: Run, amount: Amount) -> Params:
    """Leaves that a run of a seed ends with, a running average; read where they were trained."""
    path = folder / amount.name / f"{run.name}, seed {seed}.npz"
    if not path.is_file():
        start = start_values(DIT, seed)
        if run.pretrained:
            start = trained(folder, seed, Run(probability=0.0), amount)
        leaves = _train(start, seed, run, amount)
        kept: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **kept)
    with np.load(path) as arrays:
        return {name: jnp.asarray(arrays[name]) for name in arrays.files}


def _train(start: Params, seed: int, run: Run, amount: Amount) -> Params:
    clips = clips_of(seed, amount.clips)
    steps = run.times * (amount.further if run.pretrained else amount.steps)
    recipe = _recipe(run.probability, steps, RATE / 3 if run.pretrained else RATE)
    state = jax.jit(functools.partial(first_state, recipe))(start, jax.random.key(seed))
    step = jax.jit(functools.partial(train_step, recipe), donate_argnums=0)
    frozen = Frozen(base={}, no_text=jnp.zeros((1, 1, 1)))
    text = jnp.zeros((amount.batch, 1, 1))
    rng = np.random.default_rng(seed)
    for i in range(steps):
        chosen = rng.integers(amount.clips, size=amount.batch)
        state, found = step(state, frozen, {"latents": clips.latents[chosen], "text": text})
        if (i + 1) % 100 == 0:
            loss = f"loss {float(found['loss']):.3f}"
            print(f"p = {run.name}, seed {seed}, step {i + 1}: {loss}", file=sys.stderr, flush=True)
    return dict(state.ema)


def _recipe(probability: float, steps: int, rate: float) -> Recipe:
    return Recipe(
        family=LATTE,
        dit=DIT,
        adapter=None,
        objective=ObjectiveConfig(
            levels=LevelConfig(
                sampler="ptss",
                probability=probability,
                schedule=LATTE.training_schedule,
                rounding="none",
            ),
            weighting="none",
        ),
        optimizer=from_nothing(rate, steps),
        steps=steps,
    )


def network(leaves: Params) -> LatteVideo:
    """The network of leaves."""
    return assemble(lambda: LatteVideo(DIT, rngs=nnx.Rngs(0)), leaves)


def no_labels(count: int) -> Float[Array, "B 1 1"]:
    """What stands for prompts of a model without classes."""
    return jnp.zeros((count, 1, 1))
