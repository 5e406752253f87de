"""What a run has trained, read from one of its checkpoints: for export and for evaluation."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pusa_jax.files.records import rebuild
from pusa_jax.listing import listed
from pusa_jax.models.adapters import as_lora
from pusa_jax.models.lora import LoRA
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import RANDOM, RunConfig
from pusa_jax.training.workdir import CHECKPOINTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A trained model, or the adapters of one.

    Attributes:
      run: the settings it was trained with.
      step: optimizer steps taken.
      git_commit: of the code that trained it.
      is_average: whether it is the running average of what was trained.
      checkpoints: where it lies.
    """

    run: RunConfig
    step: int
    git_commit: str
    is_average: bool
    checkpoints: RunCheckpoints

    def leaves(self) -> Iterator[tuple[str, np.ndarray]]:
        """Paths and arrays, float32: adapters, or all leaves of the DiT; one is read at a time."""
        return self.checkpoints.restore_leaves(self.step, "ema" if self.is_average else "params")

    def lora(self) -> LoRA:
        """The adapters as files hold them.

        Raises:
          ValueError: all weights were trained.
        """
        if self.run.adapter is None:
            raise ValueError("this run trained all weights and has no LoRA; export the model.")
        return as_lora(dict(self.leaves()), self.run.adapter.alpha)

    @property
    def base(self) -> str:
        """Name of the model that training began with; no path, which only its machine knows."""
        model = self.run.model
        name = "random weights" if model.weights == RANDOM else Path(model.weights).name
        return (model.networks().hub if model.preset else "") or model.preset or name

    def metadata(self) -> dict[str, str]:
        """What a file with the result should say of itself."""
        said = {
            "base": self.base,
            "steps": str(self.step),
            "trained_with": f"pusa_jax {self.git_commit}".strip(),
            "timestep_sampling": self.run.objective.levels.sampler,
        }
        if self.is_average:
            said["average"] = f"{self.run.optimizer.ema_decay:g}"
        if (adapter := self.run.adapter) is not None:
            said |= {"rank": str(adapter.rank), "alpha": f"{adapter.alpha:g}"}
            said["strength"] = "1 is as trained; alpha / rank is multiplied into the factors"
        return said


def is_workdir(folder: Path) -> bool:
    """Whether a folder is that of a run with checkpoints."""
    return (folder / CHECKPOINTS).is_dir()


def read_result(workdir: Path, step: int | None = None, *, average: bool = False) -> Result:
    """Finds what was trained; weights and moments are not read yet.

    Args:
      workdir: of a run.
      step: of the checkpoint; the newest if not given.
      average: whether to take the running average instead of the weights themselves.

    Raises:
      FileNotFoundError: no run, or no checkpoint of that step.
      ValueError: the run keeps no average, or another version of pusa_jax wrote it.
    """
    if not is_workdir(workdir):
        raise FileNotFoundError(f"{workdir} is no workdir of a run: it has no {CHECKPOINTS}/.")
    checkpoints = RunCheckpoints(workdir / CHECKPOINTS, keep_last=0)
    steps = checkpoints.steps
    if not steps or (step is not None and step not in steps):
        wanted = "" if step is None else f" of step {step}"
        there = listed(steps)
        raise FileNotFoundError(f"{workdir} has no complete checkpoint{wanted}; there: {there}.")
    step = steps[-1] if step is None else step
    info = checkpoints.info(step)
    run = rebuild(RunConfig, info["config"])
    if average and not run.optimizer.ema_decay:
        raise ValueError(f"{workdir} keeps no average: its optimizer.ema_decay is 0.")
    return Result(
        run=run,
        step=step,
        git_commit=info["git_commit"],
        is_average=average,
        checkpoints=checkpoints,
    )
