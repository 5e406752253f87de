"""Training runs that experiments compare: the shipped recipe with fields changed.

configs/tiny_world.py:pusa  adapters    } each with its own timestep sampling and seed
configs/tiny_world.py:base  all weights }
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.tiny.lab import Lab
from experiments.tiny.measuring import Row, image_to_video
from experiments.tiny_world import dataset, settings
from experiments.tiny_world.codec import Codec
from experiments.tiny_world.evaluate import Model
from pusa_jax.cli.run_flags import parse
from pusa_jax.cli.train import Watch, open_clips
from pusa_jax.convert.foreign import LORA_FILE
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.progress import Console
from pusa_jax.training.export import export_adapters
from pusa_jax.training.finished import is_workdir, read_result
from pusa_jax.training.loop import train
from pusa_jax.weights.leaves import assemble


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run changes.

    Attributes:
      name: in tables.
      sampler: of timesteps, see `diffusion.timesteps`.
      probability: of "ptss".
      full: whether all weights are trained.
    """

    name: str
    sampler: str
    probability: float = 0.2
    full: bool = False


VTA = Recipe(name="VTA LoRA", sampler="independent")
VTA_FULL = Recipe(name="VTA full", sampler="independent", full=True)
SHARED = Recipe(name="shared LoRA", sampler="shared")
"""The control: as many more steps of what the base was trained with."""
I2V = Recipe(name="first frame clean, LoRA", sampler="first_frame_clean")
I2V_FULL = Recipe(name="first frame clean, full", sampler="first_frame_clean", full=True)

FULL_RATE = 3e-4
"""Learning rate where all weights are trained: below the base's 1e-3, which would undo it."""


def trained(lab: Lab, recipe: Recipe, seed: int) -> Path:
    """The workdir of a finished run; trained now, or from where it was interrupted."""
    steps = lab.scale.train_steps
    name = f"{recipe.name.replace(' ', '-')}-{steps}-{seed}"
    workdir = lab.workdir / f"training-{lab.depends['weights']}" / name
    if is_workdir(workdir) and read_result(workdir).step == steps:
        return workdir
    every = max(steps // 4, 1)
    flags = {
        "model.weights": lab.folder,
        "data.folder": clips(lab),
        "data.batch_size": 8 if not lab.scale.thin else 2,
        "steps": steps,
        "seed": seed,
        "objective.levels.sampler": recipe.sampler,
        "objective.levels.probability": recipe.probability,
        "checkpoint.every": every,
        "checkpoint.keep_every": every,
    }
    if recipe.full:
        flags |= {
            "optimizer.learning_rate": FULL_RATE,
            "optimizer.warmup_steps": 20,
            "optimizer.ema_decay": 0.99,
        }
    stage = "base" if recipe.full else "pusa"
    argv = [f"--config=configs/tiny_world.py:{stage}"]
    run, _ = parse(argv + [f"--config.{name}={value}" for name, value in flags.items()])
    with Console() as console:
        watch = Watch(run, console)
        train(run, open_clips(run)[0], workdir, watch.on_step, on_progress=watch.on_progress)
    return workdir


def clips(lab: Lab) -> Path:
    """What the shipped adapters were trained on, encoded now where that was not done yet."""
    folder = lab.workdir / f"clips-{lab.depends['weights']}"
    world, count = settings.CLIPS["pusa"]
    encode = Codec(lab.folder).encode
    count = 4 if lab.scale.thin else count
    dataset.encode_world(lab.folder, folder, world, count, encode_clips=encode)
    return folder


def model_at(lab: Lab, recipe: Recipe, seed: int, step: int, strength: float = 1.0) -> Model:
    """What a run had trained by a step, its running average.

    Args:
      lab: where it is.
      recipe: of the run.
      seed: of the run.
      step: of a checkpoint.
      strength: of the adapters; full weights know none.
    """
    result = read_result(trained(lab, recipe, seed), step, average=True)
    if recipe.full:
        return lab.with_dit(_assembled(lab, dict(result.leaves())))
    exported = trained(lab, recipe, seed) / "adapters" / str(step)
    if not (exported / LORA_FILE).is_file():
        export_adapters(result, exported, naming="pusa_v1", dtype="float32")
    return lab.pusa(strength, exported / LORA_FILE)


def image_to_video_at(lab: Lab, recipe: Recipe, step: int, strength: float = 1.0) -> list[Row]:
    """What the stick says of image-to-video at a step of every seed's run; see `model_at`."""
    return lab.measure(
        f"{recipe.name} {step} of {lab.scale.train_steps} x {strength:g}",
        lambda seed: model_at(lab, recipe, seed, step, strength),
        "image-to-video",
        image_to_video,
    )


def _assembled(lab: Lab, leaves: dict[str, Any]) -> WanDiT:
    config = lab.base.dit.config
    arrays = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    return assemble(lambda: WanDiT(config, rngs=nnx.Rngs(0)), arrays)
