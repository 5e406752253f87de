"""What the experiments share: the models, how much is measured, and the cells already measured.

A cell is one row of a table for one seed. It lies in WORKDIR/cells/ROW/SEED.json, together with
what it depends on, and is not measured again as long as that is the same: rows that several tables
have are measured once.
"""

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments.tiny.measuring import Row, Task, measure
from experiments.tiny_world import measured
from experiments.tiny_world.evaluate import Model, Sampling
from pusa_jax.convert.foreign import LORA_FILE
from pusa_jax.files.atomic import replacing
from pusa_jax.inference.loading import load_module, open_model

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is done.

    Attributes:
      seeds: of scenes, noise and training.
      count: clips per cell, that is per row and seed.
      batch: clips at a time; divides `count`.
      num_steps: of the solver, where not varied.
      train_steps: of every training run.
      thin: whether only the first and the last value of every list is tried.
    """

    seeds: int = 3
    count: int = 68
    batch: int = 34
    num_steps: int = 10
    train_steps: int = 200
    thin: bool = False


FULL = Scale()
QUICK = Scale(seeds=1, count=2, batch=2, num_steps=2, train_steps=2, thin=True)
"""Everything runs once; its numbers mean nothing."""


class Lab:
    """Models of a published folder, and a place for results."""

    def __init__(self, model: Path, workdir: Path, tables: Path, scale: Scale):
        """Nothing is loaded yet.

        Args:
          model: published folder of the tiny world, adapters in it.
          workdir: cells and training runs.
          tables: the results of an experiment go to the folder of its name in here.
          scale: how much is done.
        """
        self.folder, self.workdir, self.tables, self.scale = model, workdir, tables, scale

    @property
    def lora(self) -> Path:
        """The shipped adapters."""
        return self.folder / LORA_FILE

    def some(self, values: Sequence[T]) -> list[T]:
        """The values to try."""
        return [values[0], values[-1]] if self.scale.thin and len(values) > 2 else list(values)

    def sampling(self, num_steps: int | None = None) -> Sampling:
        """How clips are sampled."""
        steps = self.scale.num_steps if num_steps is None else num_steps
        return Sampling(num_steps=steps, batch=self.scale.batch)

    @functools.cached_property
    def base(self) -> Model:
        """Without adapters."""
        return measured.load(self.folder)

    def pusa(self, strength: float = 1.0, lora: Path | None = None) -> Model:
        """With adapters from a file: the shipped ones, if no other is named."""
        return self.with_dit(self._merged(lora or self.lora, strength))

    @functools.lru_cache(maxsize=4)  # noqa: B019 (a lab lives as long as the process)
    def _merged(self, lora: Path, strength: float) -> Any:
        return load_module(open_model(self.folder, [(lora, strength)]), "dit", "float32")

    def with_dit(self, dit: Any) -> Model:
        """Another network between the same text encoder and VAE."""
        return dataclasses.replace(self.base, dit=dit)

    def measure(
        self,
        model: str,
        load: Callable[[int], Model],
        task: str,
        given: Task,
        num_steps: int | None = None,
    ) -> list[Row]:
        """What the stick says of clips of a task, for every seed.

        Args:
          model: name of the row, with `task`; the same names stand for the same numbers.
          load: seed -> the model.
          task: name.
          given: what it hands over.
          num_steps: of the solver.
        """
        sampling, count = self.sampling(num_steps), self.scale.count
        return self.cells(
            f"{task}/{model}, {sampling.num_steps} steps",
            lambda seed: measure(load(seed), given, sampling, count, seed),
        )

    @functools.cached_property
    def depends(self) -> dict[str, Any]:
        """What every cell depends on beyond its name: weights and number of clips."""
        files = sorted(self.folder.glob("*.safetensors"))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        scale = {"count": self.scale.count, "batch": self.scale.batch}
        return {"weights": digest[:16], "num_steps": self.scale.num_steps} | scale

    def cells(self, row: str, compute: Callable[[int], Row]) -> list[Row]:
        """A row of a table for every seed, measured where it is not there yet."""
        found = []
        for seed in range(self.scale.seeds):
            path = self.workdir / "cells" / row / f"{seed}.json"
            cell = json.loads(path.read_text()) if path.is_file() else {}
            if cell.get("depends") != self.depends:
                since, cpu = time.perf_counter(), time.process_time()
                cell = {"depends": self.depends, "row": compute(seed)}
                cell["seconds"] = round(time.perf_counter() - since, 1)
                cell["cpu_seconds"] = round(time.process_time() - cpu, 1)
                with replacing(path) as part:
                    part.write_text(json.dumps(cell, indent=1) + "\n")
                spent = f"{cell['seconds']} s, {cell['cpu_seconds']} s of CPU"
                print(f"{row}, seed {seed}: {spent}", file=sys.stderr, flush=True)
            found.append(cell["row"])
        return found
