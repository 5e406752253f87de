"""The training loop: compiles the step, feeds it, watches it, records it and saves it.

    batch i ─▶ step i (running on the devices) ─▶ metrics i
    meanwhile: batch i+1 is fetched, metrics i-1 are checked and recorded

The host is one step behind the devices, so that they never wait for it. Before anything is saved
the host catches up and has seen that every loss up to there is finite.
"""

import collections
import dataclasses
import functools
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.networks import config_to_json
from pusa_jax.data.batches import Batches, Clips
from pusa_jax.devices import processes
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.files.atomic import replacing
from pusa_jax.inference.networks import vae_record
from pusa_jax.progress import Progress, PusaWarning, no_progress
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import RunConfig
from pusa_jax.training.layout import Placement, check_memory, placement, shardings_of
from pusa_jax.training.metrics import Meter, Recorder, check_services, step_flops
from pusa_jax.training.startup import Start, begin, is_finished, open_weights
from pusa_jax.training.step import Recipe, train_step
from pusa_jax.training.validation import Validation
from pusa_jax.training.workdir import CHECKPOINTS, SAMPLES, StopRequest, git_commit, locked

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the step, the number of steps and the newest record."""

Tell = Callable[[str], None]
"""Called with a line for people."""


class NonFiniteLossError(ValueError):
    """A loss or gradient is not a number; nothing was saved since."""


def jit_step(recipe: Recipe, placed: Placement) -> jax.stages.Wrapped:
    """The compiled program of a run: the state is given away, the rest only read."""
    return jax.jit(
        functools.partial(train_step, recipe),
        out_shardings=(shardings_of(placed.state), placed.everywhere),
        donate_argnums=0,
    )


def train(
    run: RunConfig,
    clips: Clips,
    workdir: Path,
    on_step: OnStep = lambda step, steps, record: None,
    devices: Sequence[jax.Device] | None = None,
    *,
    weights: ModelFolder | None = None,
    validation: Clips | None = None,
    stop: StopRequest | None = None,
    on_progress: Progress = no_progress,
    tell: Tell = lambda line: None,
) -> int:
    """Trains until the last step, or until a signal asks to stop, and saves.

    Args:
      run: the settings.
      clips: what is learned from.
      workdir: of this run and no other; where it has checkpoints, the run goes on from there.
      on_step: told about every step.
      devices: to run on; all that jax sees, if not given.
      weights: `run.model.weights`, where it is open already.
      validation: clips whose loss is recorded and not learned from, see `validation.held_out`.
      stop: notes the signals, while there is something to save; default: one of its own.
      on_progress: told about what takes long before the first step.
      tell: told in a line what people want to know.

    Returns:
      steps taken in all; fewer than `run.steps` where a signal asked to stop.

    Raises:
      ValueError: settings, data, weights and checkpoints that do not go together; the workdir is in
        use.
      FileNotFoundError: weights or a checkpoint are missing.
      ImportError: the run is to be recorded by a service whose package is missing.
      NonFiniteLossError: names the step and its clips.
      OSError: a checkpoint or record could not be written.
    """
    check_services(run.log.tensorboard, run.log.wandb)
    weights = open_weights(run) if weights is None else weights
    check_clips(run, clips, weights)
    if validation is not None:
        check_clips(run, validation, weights)
    devices = jax.devices() if devices is None else devices
    mesh = make_mesh(run.mesh.shape(len(devices)), devices)
    with locked(workdir), jax.set_mesh(mesh):
        placed = placement(
            run.recipe, mesh, run.data.batch_size, clips.clip_shape, clips.text_shape
        )
        check_memory(placed)
        keep = run.checkpoint
        checkpoints = RunCheckpoints(
            workdir / CHECKPOINTS, keep_last=keep.keep_last, keep_every=keep.keep_every
        )
        try:
            if is_finished(run, checkpoints, workdir / SAMPLES):
                tell(f"nothing is left to do: {workdir} is at step {run.steps} of {run.steps}.")
                return run.steps
            no_text = clips.no_text if run.needs_no_text else np.zeros(clips.text_shape)
            start = begin(run, placed, checkpoints, no_text, weights, on_progress)
            if start.step:
                tell(f"goes on at step {start.step} of {run.steps}, from {start.source}.")
            if processes.is_first():
                with replacing(workdir / "config.json") as part:
                    part.write_text(json.dumps(run.record(), indent=1) + "\n", "utf-8")
            recorder = Recorder(
                workdir, step=start.step, tensorboard=run.log.tensorboard, wandb=run.log.wandb
            )
            on_progress("compile", 0, 1)
            validate = None if validation is None else Validation(run.recipe, validation, placed)
            loop = Loop(
                run,
                clips,
                workdir,
                placed,
                start,
                checkpoints,
                recorder,
                on_step,
                weights,
                tell,
                validate,
            )
            on_progress("compile", 1, 1)
            try:
                with stop or StopRequest() as stop:
                    return loop.run(stop)
            finally:
                recorder.close()
        finally:
            checkpoints.close()


def check_clips(run: RunConfig, clips: Clips, weights: ModelFolder | None) -> None:
    """Makes sure that there are clips, of the shape and for the networks of the run.

    Labels that a denoiser without classes does not look at are a warning.

    Raises:
      ValueError: there are none, or they are of another shape, another VAE or classes that the
        denoiser does not know.
    """
    if not len(clips):
        raise ValueError(f"{run.data.folder} holds no clips; encode some first.")
    if weights is None:
        vae = {"config": config_to_json(run.model.networks().vae), "fingerprint": ""}
    else:
        vae = vae_record(weights) if "vae" in weights.names else None
    clips.check_fits(run.clip_shape, run.text_shape, vae)
    networks = run.model.networks()
    if networks.family.reads_text:
        return
    if not networks.family.num_classes(networks.dit):
        if any(clips.captions()):
            warnings.warn(
                f"{run.data.folder} has labels, which are not looked at: the model has no classes.",
                PusaWarning,
                stacklevel=2,
            )
        return
    for caption in clips.captions():
        try:
            networks.family.check_prompt(networks.dit, caption)
        except ValueError as error:
            raise ValueError(f"{run.data.folder} has clips of other classes: {error}") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Taken:
    """A step that is running or done: its number, its clips and what it returns."""

    step: int
    ids: list[str]
    metrics: dict[str, jax.Array]


class Loop:
    """The state of one execution of a run."""

    def __init__(
        self,
        run: RunConfig,
        clips: Clips,
        workdir: Path,
        placed: Placement,
        start: Start,
        checkpoints: RunCheckpoints,
        recorder: Recorder,
        on_step: OnStep,
        weights: ModelFolder | None = None,
        tell: Tell = lambda line: None,
        validate: Validation | None = None,
    ):
        self._tell, self._validate = tell, validate
        self._settings, self._workdir, self._placed = run, workdir, placed
        self._checkpoints, self._recorder, self._on_step = checkpoints, recorder, on_step
        self._state, self._frozen, self._first = start.state, start.frozen, start.step
        shape = placed.batch["latents"].shape
        self._meter = Meter(step_flops(run.recipe, shape), placed.mesh.size)
        self._batches: Batches = clips.batches(run.data.batch_size, placed.rows(), run.seed)
        if start.step:
            self._meter.restore(start.info["meter"])
            self._batches.restore(start.info["data"])
        self._info = {
            "config": run.record(),
            "git_commit": git_commit(),
            "base_fingerprint": start.info["base_fingerprint"],
        }
        self._running: collections.deque[_Taken] = collections.deque()
        shapes = placed.state, placed.frozen, placed.batch
        self._step = jit_step(run.recipe, placed).lower(*shapes).compile()
        self._render = None
        if run.samples.every:
            from pusa_jax.training.samples import Renderer  # needs codecs, which training does not

            self._render = Renderer(run, clips, placed, workdir / SAMPLES, weights)
        self._since, self._waited = time.perf_counter(), 0.0

    def run(self, stop: StopRequest) -> int:
        """Takes steps to the last, or until asked to stop; returns how many were taken in all."""
        run, step = self._settings, self._first
        if step and self._render is not None and step % run.samples.every == 0:
            if not self._render.has_drawn(step):  # killed between its checkpoint and its pictures
                self._draw(step)
        if step >= run.steps:
            return step
        if not step:
            self._record_validation(0)
        batch, ids, position = self._fetch()
        while True:
            # All that a step takes lies on the devices; a copy made on the way would be a mistake.
            with jax.transfer_guard("disallow"):
                self._state, metrics = self._step(self._state, self._frozen, batch)
            step += 1
            self._running.append(_Taken(step=step, ids=ids, metrics=metrics))
            here = position
            if step < run.steps:
                batch, ids, position = self._fetch()
            self._settle(keep=1)
            is_last = step == run.steps or stop.reached(step)
            if step == run.steps or step % run.data.validation_every == 0:
                self._record_validation(step)
            if is_last or step % run.checkpoint.every == 0:
                self._save(step, here)
            if self._render is not None and step % run.samples.every == 0:
                self._draw(step)
            if is_last:
                return step

    def _record_validation(self, step: int) -> None:
        if self._validate is None:
            return
        self._settle(keep=0)
        loss = self._validate(self._state.params, self._frozen)
        self._recorder.scalars(step, {"val_loss": loss})
        self._tell(f"step {step}: val_loss {loss:.4f} of {len(self._validate)} clips held out.")
        self._since = time.perf_counter()

    def _draw(self, step: int) -> None:
        assert self._render is not None
        self._settle(keep=0)
        for task, image in self._render(step, self._state, self._frozen):
            self._recorder.picture(step, f"samples/{task}", image)
        self._tell(f"step {step} is shown in {self._workdir / SAMPLES}.")
        self._since = time.perf_counter()

    def _fetch(self) -> tuple[dict[str, jax.Array], list[str], dict[str, Any]]:
        """The next batch on the devices, its clips, and the position of the data behind it."""
        since = time.perf_counter()
        host = next(self._batches)
        batch = self._placed.global_batch(host)
        running = self._running[-1].metrics["loss"] if self._running else None
        # While a step is running the devices do not wait.
        if running is None or running.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
            self._waited += time.perf_counter() - since
        return batch, list(host["id"]), self._batches.state()

    def _settle(self, keep: int) -> None:
        """Waits for all but the newest `keep` steps, checks and records them."""
        while len(self._running) > keep:
            taken = self._running.popleft()
            metrics = jax.device_get(taken.metrics)
            self._check(taken, metrics)
            now = time.perf_counter()
            self._meter.add(metrics, now - self._since, self._waited)
            self._since, self._waited = now, 0.0
            record = {"loss": float(metrics["loss"])}
            if taken.step % self._settings.log.every == 0:
                record = self._meter.record(metrics)
                self._recorder.scalars(taken.step, record)
            self._on_step(taken.step, self._settings.steps, record)

    def _check(self, taken: _Taken, metrics: dict[str, np.ndarray]) -> None:
        losses, norm = metrics["losses"], float(metrics["grad_norm"])
        if np.isfinite(losses).all() and np.isfinite(norm):
            return
        self._checkpoints.wait()
        rows = np.flatnonzero(~np.isfinite(losses)).tolist()
        ids = dict(zip(self._placed.rows(), taken.ids, strict=True))
        here = [ids[row] for row in rows if row in ids] or taken.ids
        raise NonFiniteLossError(
            f"step {taken.step}: loss {float(metrics['loss'])}, gradient norm {norm}; clips "
            f"{', '.join(here)}. The last checkpoint is of step "
            f"{max(self._checkpoints.steps, default='none')}."
        )

    def _save(self, step: int, position: dict[str, Any]) -> None:
        self._settle(keep=0)
        if step in self._checkpoints.steps:
            return
        info = self._info | {"step": step, "data": position, "meter": self._meter.state()}
        self._checkpoints.save(step, self._state, info)
        self._tell(f"step {step} is saved in {self._workdir / CHECKPOINTS / str(step)}.")
        self._since = time.perf_counter()
