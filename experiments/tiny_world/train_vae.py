"""Trains the tiny VAE: short clips of small frames first, whole clips last.

    workdir/checkpoints/STEP/   state, as of every training run
    workdir/metrics.jsonl       one record every `LOG_EVERY` steps

Everything random is a function of the seed and the step, so a run that was interrupted goes on as
if it had not been.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments.tiny_world.autoencoder import (
    Losses,
    loss_of,
    posterior,
    psnr,
    reconstruction,
    trained_vae,
)
from pusa_jax.demo import world as clips
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.state import (
    OptimizerConfig,
    Params,
    TrainState,
    apply_gradients,
    fresh_state,
)
from pusa_jax.training.workdir import StopRequest, locked
from pusa_jax.weights.leaves import assemble

LOG_EVERY = 100
HELD_OUT = 1_000_000
"""Clips from this number on are never trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """Part of a run.

    Attributes:
      steps: how many.
      batch: clips per step.
      frames: pixel frames of a clip, 4k + 1.
      size: height and width in pixels.
      worlds: how many of two clips show what the worlds show, not just anything.
    """

    steps: int
    batch: int
    frames: int
    size: int
    worlds: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAERun:
    """Settings of a run.

    Attributes:
      phases: one after the other.
      optimizer: over all phases.
      losses: weights.
      frozen: first words of the paths of leaves that are not trained.
      seed: of clips and noise.
      decay_steps: the learning rate has fallen to 0 after so many.
      checkpoint_every, evaluate_every: steps.
    """

    phases: tuple[Phase, ...]
    optimizer: OptimizerConfig
    losses: Losses = Losses()
    frozen: tuple[str, ...] = ()
    seed: int = 0
    decay_steps: int
    checkpoint_every: int = 500
    evaluate_every: int = 1000

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase of a step, from 0."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise ValueError(f"the run has {self.steps} steps, there is no step {step}.")


def batch_of(run: VAERun, step: int) -> UInt8[np.ndarray, "B T H W 3"]:
    """The clips of a step."""
    phase = run.phase(step)
    made = []
    for i in range(phase.batch):
        rng = np.random.default_rng((run.seed, step, i))
        if (step + i) % 2 >= 2 - phase.worlds:
            made.append(_part_of_a_world(rng, phase))
        else:
            made.append(clips.draw_any(rng, phase.size, phase.frames))
    return np.stack(made)


def _part_of_a_world(rng: np.random.Generator, phase: Phase) -> UInt8[np.ndarray, "T H W 3"]:
    world = clips.NARROW if rng.random() < 1 / 3 else clips.WIDE
    world = dataclasses.replace(world, size=phase.size)
    scene = clips.draw(world, int(rng.integers(2**31)), int(rng.integers(HELD_OUT)))
    first = rng.integers(len(scene.positions) - phase.frames + 1)
    seen = scene.positions[first : first + phase.frames]
    return clips.render(dataclasses.replace(scene, positions=seen))


def train_vae(
    run: VAERun,
    workdir: Path,
    start: Params,
    on_step: Callable[[int, int, str], None] = lambda *_: None,
) -> Params | None:
    """Trains to the last step, or goes on from the newest checkpoint; a SIGTERM stops it.

    Args:
      run: settings.
      workdir: of this run and no other.
      start: leaves to begin with.
      on_step: told about the step, the number of steps, and the quality in words.

    Returns:
      the leaves to use: averages of those that were trained, and the frozen ones; None if it was
      stopped before the last step.
    """
    with locked(workdir), StopRequest() as stop:
        checkpoints = RunCheckpoints(workdir / "checkpoints", keep_last=2)
        frozen = {path: x for path, x in start.items() if path.split("/")[0] in run.frozen}
        trained = {path: x for path, x in start.items() if path not in frozen}
        state = fresh_state(trained, run.optimizer, run.decay_steps, jax.random.key(run.seed))
        first = done = max(checkpoints.steps, default=0)
        if first:
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
            )
            state = checkpoints.restore(first, abstract)
        step_fn = jax.jit(functools.partial(_step, run), donate_argnums=0)
        since, totals = time.perf_counter(), []
        with (workdir / "metrics.jsonl").open("a", buffering=1) as records:
            for step in range(first, run.steps):
                state, metrics = step_fn(state, frozen, batch_of(run, step))
                totals.append(metrics)
                done = step + 1
                if done % LOG_EVERY == 0:
                    seen = {k: float(np.mean([m[k] for m in totals])) for k in metrics}
                    seen["psnr"] = float(psnr(np.asarray(seen["squared"])))
                    seen["seconds"] = time.perf_counter() - since
                    since, totals = time.perf_counter(), []
                    if done % run.evaluate_every == 0 or done == run.steps:
                        seen |= quality({**frozen, **state.ema})
                    since = time.perf_counter()
                    records.write(json.dumps({"step": done, **seen}) + "\n")
                    on_step(done, run.steps, f"{seen['psnr']:.1f} dB")
                is_last = done == run.steps or stop.reached(done)
                if is_last or done % run.checkpoint_every == 0:
                    checkpoints.save(done, state, {"phases": [p.steps for p in run.phases]})
                if is_last:
                    break
        checkpoints.close()
    return {**frozen, **state.ema} if done == run.steps else None


def _step(
    run: VAERun, state: TrainState, frozen: Params, video: Array
) -> tuple[TrainState, dict[str, Array]]:
    key = jax.random.fold_in(state.key, state.step)
    (loss, parts), grads = jax.value_and_grad(
        lambda params: loss_of({**frozen, **params}, video, key, run.losses), has_aux=True
    )(state.params)
    state, norm = apply_gradients(state, grads, run.optimizer, run.decay_steps)
    return state, parts | {"loss": loss, "grad_norm": norm}


def latent_statistics(
    params: Params, world: clips.World, count: int
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Mean and standard deviation of every latent channel over the first clips of a world."""
    videos = (clips.render(clips.draw(world, 0, i)) for i in range(count))
    codes = np.stack([np.asarray(_encode(params, video[None])) for video in videos])
    return codes.mean((0, 1, 2, 3, 4)), codes.std((0, 1, 2, 3, 4))


@jax.jit
def _encode(params: Any, video: Array) -> Array:
    vae = assemble(trained_vae, params)
    return posterior(vae, video.astype(jnp.float32) / 127.5 - 1)[0]


def held_out(world: clips.World, count: int) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
    """Clips of a world that no training sees."""
    for i in range(count):
        yield clips.render(clips.draw(world, HELD_OUT, i))


@jax.jit
def _reconstruct(params: Any, video: Array) -> Array:
    vae = assemble(trained_vae, params)
    return reconstruction(vae, posterior(vae, video)[0])


def frame_errors(params: Any, world: clips.World, count: int) -> Float[np.ndarray, "N T"]:
    """Mean squared error of every frame of held-out clips, clamped to [-1, 1]."""
    errors = []
    for video in held_out(world, count):
        target = jnp.asarray(video, jnp.float32)[None] / 127.5 - 1
        made = jnp.clip(_reconstruct(params, target), -1, 1)
        errors.append(np.asarray(jnp.mean(jnp.square(made - target), axis=(0, 2, 3, 4))))
    return np.stack(errors)


def quality(params: Any, count: int = 8) -> dict[str, float]:
    """PSNR in dB over held-out clips of both worlds, and of their first and last frames."""
    found = {}
    for name, world in (("narrow", clips.NARROW), ("wide", clips.WIDE)):
        errors = frame_errors(params, world, count)
        found[f"{name}_db"] = float(psnr(errors.mean()))
        found[f"{name}_first_db"] = float(psnr(errors[:, 0].mean()))
        found[f"{name}_last_db"] = float(psnr(errors[:, -4:].mean()))
    return found
