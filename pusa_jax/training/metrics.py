"""What is recorded of a run: its steps added up, and where the numbers go.

`metrics.jsonl` always; TensorBoard and Weights & Biases where they are asked for. One record covers
the steps since the last one. Values that depend on the run alone (loss, gradient norm, learning
rate) are the same to the last bit however often the run was interrupted; timings are not.
"""

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from pusa_jax.devices import processes
from pusa_jax.devices.topologies import local_topology
from pusa_jax.files.atomic import replacing
from pusa_jax.models.adapters import adapted_layers
from pusa_jax.training.step import LEVEL_BINS, Recipe, model_shapes

Record = Mapping[str, int | float]

QUEUED = 1000
"""Values that may wait to be written to TensorBoard's files."""


def step_flops(recipe: Recipe, latent_shape: tuple[int, ...]) -> float:
    """Model FLOPs of one training step; what is computed twice to save memory counts once.

    A product costs as much again for the gradient of each factor that has one: three times the
    forward pass where all weights are trained. Frozen weights have none; their adapters add their
    own products, and attention, whose factors are activations, costs three times in any case.

    Args:
      recipe: what is trained.
      latent_shape: [B, F, h, w, C] of a whole batch.
    """
    dit, flops, clips = recipe.dit, recipe.family.flops, latent_shape[0]
    forward = flops.velocity(dit, latent_shape) + flops.prepare(dit, clips)
    if recipe.adapter is None:
        return 3.0 * forward
    shapes, per_clip = model_shapes(recipe), 0
    for path in adapted_layers(shapes, recipe.adapter.targets):
        *stack, into, out = shapes[f"{path}/kernel"].shape  # [layers, I, O], or [I, O]
        rows = flops.rows(dit, latent_shape, path)
        # x [rows, I] @ lora_a [I, R] @ lora_b [R, O], in every layer of the stack
        per_clip += math.prod(stack) * rows * 2 * (into + out) * recipe.adapter.rank
    return 2.0 * forward + flops.attention(dit, latent_shape) + 3.0 * clips * per_clip


class Meter:
    """Adds up steps until a record is taken."""

    def __init__(self, flops: float, devices: int):
        """Takes model FLOPs of a step, and the devices that share them."""
        self._flops, self._devices = flops, devices
        self._clear()

    def _clear(self) -> None:
        self._values = {"steps": 0.0, "loss": 0.0}
        self._values |= {f"{what}{i}": 0.0 for what in ("sum", "count") for i in range(LEVEL_BINS)}
        self._timed, self._seconds, self._waited = 0, 0.0, 0.0

    def state(self) -> dict[str, float]:
        """What was added since the last record, as plain values, timings left out."""
        return dict(self._values)

    def restore(self, state: Mapping[str, float]) -> None:
        """Goes on from a state."""
        self._values = dict(state)

    def add(self, metrics: Mapping[str, np.ndarray], seconds: float, waited: float) -> None:
        """Adds a step.

        Args:
          metrics: what the step returned, on the host.
          seconds: wall time since the step before.
          waited: how much of it no step was running for want of data.
        """
        values = self._values
        values["steps"] += 1
        values["loss"] += float(metrics["loss"])
        for i in range(LEVEL_BINS):
            values[f"sum{i}"] += float(metrics["error_sums"][i])
            values[f"count{i}"] += float(metrics["error_counts"][i])
        self._timed += 1
        self._seconds += seconds
        self._waited += waited

    def record(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The record of the steps added since the last one.

        Args:
          metrics: of the last of them.
        """
        values, seconds = self._values, self._seconds / self._timed
        tflops = self._flops / self._devices / seconds / 1e12
        record = {
            "loss": values["loss"] / values["steps"],
            "grad_norm": float(metrics["grad_norm"]),
            "learning_rate": float(metrics["learning_rate"]),
        }
        for i in range(LEVEL_BINS):
            if count := values[f"count{i}"]:
                low, high = i / LEVEL_BINS, (i + 1) / LEVEL_BINS
                record[f"error/sigma_{low:.1f}-{high:.1f}"] = values[f"sum{i}"] / count
        record |= {
            "seconds/step": seconds,
            "seconds/data_wait_share": self._waited / self._seconds,
            "tflops_per_device": tflops,
        }
        chip = local_topology().chip
        if chip.flops is not None:
            peak = chip.flops / chip.devices / 1e12
            record |= {"mfu": tflops / peak, "mfu_peak_tflops": peak}
        memory = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            record["memory_peak_gib"] = memory["peak_bytes_in_use"] / 2**30
        self._clear()
        return record


TIMINGS = ("seconds/", "tflops", "mfu", "memory")
"""Beginnings of the names of values that differ from one execution of a run to the next."""


def check_services(tensorboard: bool, wandb: str) -> None:
    """Makes sure that what a run is to be recorded with is there, before anything is made.

    Raises:
      ImportError: TensorBoard or a project in Weights & Biases is asked for, but its package is
        missing.
    """
    if tensorboard and not importlib.util.find_spec("tensorboardX"):
        raise ImportError(
            "log.tensorboard needs the package tensorboardX: pip install tensorboardX, or "
            "--config.log.tensorboard=False."
        )
    if wandb and not importlib.util.find_spec("wandb"):
        raise ImportError(
            f"log.wandb={wandb!r} needs the package wandb: pip install wandb, or leave it empty."
        )


class Recorder:
    """Writes records; on processes other than the first it does nothing."""

    def __init__(self, workdir: Path, *, step: int, tensorboard: bool, wandb: str):
        """Opens the records of a run at a step; those of steps to be taken again are dropped.

        Args:
          workdir: of the run.
          step: the run goes on from.
          tensorboard: whether to write event files; needs tensorboardX.
          wandb: project in Weights & Biases; empty for none.
        """
        self._writers: list[Any] = []
        self._run: Any = None
        if not processes.is_first():
            return
        self._path = workdir / "metrics.jsonl"
        kept = [json.dumps(r) + "\n" for r in read_records(self._path) if r["step"] <= step]
        with replacing(self._path) as part:
            part.write_text("".join(kept), "utf-8")
        self._lines = self._path.open("a", encoding="utf-8")
        if tensorboard:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

            # Its own queue is shorter than one record: every record would wait for the disk.
            events = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=step + 1, max_queue=QUEUED
            )
            self._writers.append(events)
        if wandb:
            import wandb as service  # pyright: ignore[reportMissingImports]

            self._run = service.init(project=wandb, name=workdir.name, dir=str(workdir))

    def scalars(self, step: int, record: Record) -> None:
        """Writes numbers."""
        if not processes.is_first():
            return
        self._lines.write(json.dumps({"step": step, **record}) + "\n")
        self._lines.flush()
        for writer in self._writers:
            for name, value in record.items():
                writer.add_scalar(name, value, step)
        if self._run:
            self._run.log(dict(record), step=step)

    def picture(self, step: int, name: str, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Shows a picture; the file itself is the caller's."""
        if not processes.is_first():
            return
        for writer in self._writers:
            writer.add_image(name, image, step, dataformats="HWC")
        if self._run:
            import wandb as service  # pyright: ignore[reportMissingImports]

            self._run.log({name: service.Image(image)}, step=step)

    def close(self) -> None:
        """Closes everything."""
        if not processes.is_first():
            return
        self._lines.close()
        for writer in self._writers:
            writer.close()
        if self._run:
            self._run.finish()


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a run; lines that are torn, wherever, are left out."""
    text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int and "\ufffd" not in line:
            yield record
