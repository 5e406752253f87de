"""`pusa-jax train` and `pusa-jax plan train`: from flags to a run, and from a run to a screen.

pusa-jax train --config=NAME_OR_FILE --workdir=FOLDER [--config.FIELD=VALUE ...]
pusa-jax plan train --config=NAME_OR_FILE --topology=v5e:4x4 [--json] [--config.FIELD=VALUE]
"""

import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pusa_jax.cli import together
from pusa_jax.cli.programs import keep_programs
from pusa_jax.cli.run_flags import USAGE, parse
from pusa_jax.data.batches import Clips, NoiseClips
from pusa_jax.devices.topologies import parse_topology, prepare_process
from pusa_jax.planning.training import plan_training
from pusa_jax.progress import Console, in_words
from pusa_jax.training.config import RANDOM, RunConfig
from pusa_jax.training.loop import train
from pusa_jax.training.startup import open_weights, sized_by
from pusa_jax.training.validation import held_out
from pusa_jax.training.workdir import StopRequest

HELP = f"""{USAGE}

Trains a DiT with one timestep per latent frame, by LoRA or in full. A config file says everything;
any of its values can be set on the command line. The same command goes on where a stopped run
ended. Where model.weights is a folder, the model in it says its sizes. Configs that come along go
by name, as `debug`; `pusa-jax configs` lists them with their fields and copies one out to edit.

  pusa-jax train --config=debug --workdir=runs/debug                      (CPU, under a minute)
  pusa-jax encode --model Wan2.1-T2V-14B --src clips --dst clips-480p
  pusa-jax train --config=pusa_v1_lora_14b --workdir=runs/pusa    (the paper's run)
  pusa-jax export --src runs/pusa --dst pusa-lora                         (what it has trained)"""


PLAN_HELP = """\
usage: pusa-jax plan train --config=FILE --topology=CHIPS [--json] [--config.FIELD=VALUE ...]

Compiles the training step of a config for chips that need not be here and says what fits; --json
prints one JSON object instead. Exit code 0: it fits; 3: it does not; 2: the question makes no
sense. Chips are named as in `pusa-jax plan infer --help`.

  pusa-jax plan train --config=configs/pusa_v1_lora_14b.py --topology=h100:8
  pusa-jax plan train --config=configs/pusa_full_14b.py --topology=v6e:4x4 \\
      --config.mesh.context=4 --config.optimizer.accumulate=2

mesh.data times optimizer.accumulate must divide data.batch_size; mesh.context splits a clip."""


def train_main(argv: Sequence[str], console: Console | None = None) -> int:
    """Runs the command.

    Args:
      argv: flags, without the name of the command.
      console: shows what is going on.

    Returns:
      the exit code: 0, also after SIGTERM and SIGHUP, when the state is saved; 130 after Ctrl-C.

    Raises:
      ValueError, FileNotFoundError, ImportError, OSError: one line each, see `loop.train`.
    """
    if not argv or {"--help", "-h"} & set(argv):
        print(HELP)
        return 0
    run, values = parse(argv)
    if not values.workdir:
        raise ValueError(f"--workdir is needed; {USAGE}")
    workdir = Path(values.workdir)
    is_quiet = values.quiet or not together.is_first()
    with Console(quiet=True) if is_quiet else console or Console() as console:
        if not values.no_compilation_cache:
            keep_programs(console)
        weights = open_weights(run)
        if weights is not None:
            sized, run = run, sized_by(run, weights)
            if sized is not run:
                console.line(f"sizes are those of the model in {weights.path}.")
        clips, validation = open_clips(run)
        together.agree_on_run(run, weights, workdir)
        watch = Watch(run, console)
        stop = StopRequest(watch.on_stop)
        taken = train(
            run,
            clips,
            workdir,
            watch.on_step,
            weights=weights,
            validation=validation,
            stop=stop,
            on_progress=watch.on_progress,
            tell=watch.tell,
        )
        watch.end(workdir, taken, stop)
    return 130 if stop.number == signal.SIGINT else 0


class Watch:
    """Says what a run is doing."""

    def __init__(self, run: RunConfig, console: Console):
        """Says nothing before something goes on: until then the run may be refused, in a line."""
        self._run, self._console = run, console
        self._said, self._since, self._first = False, time.perf_counter(), run.steps
        self._loss = ""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Shows a stage before the first step."""
        self._say_what_is_random()
        self._console(stage, done, total)

    def on_step(self, step: int, steps: int, record: Mapping[str, float]) -> None:
        """Shows a step."""
        if step <= self._first:
            self._first = step
            self._console("train", step - 1, steps)
        self._loss = f"loss {record['loss']:.4f}"
        self._console("train", step, steps, self._loss)

    def tell(self, line: str) -> None:
        """Shows a line."""
        self._say_what_is_random()
        self._console.line(line)

    def on_stop(self, number: int) -> None:
        """Answers a signal."""
        name = signal.Signals(number).name
        self._console.line(f"{name}: saves behind this step and ends (again: ends at once).")

    def end(self, workdir: Path, taken: int, stop: StopRequest) -> None:
        """Says how the run has ended."""
        self._console.close()
        if taken > self._run.steps:
            self._console.line(
                f"{workdir} is at step {taken} already, behind steps={self._run.steps}; nothing "
                "done."
            )
        elif taken < self._run.steps:
            self._console.line(f"stopped and saved at step {taken}; the same command goes on.")
        elif self._loss:
            spent = in_words(time.perf_counter() - self._since)
            self._console.line(
                f"{workdir}: {taken} steps, {self._loss}, {spent}; next: "
                f"pusa-jax export --src {workdir} --dst FOLDER"
            )

    def _say_what_is_random(self) -> None:
        drawn = [
            f"{name}=random: {what}"
            for name, value, what in (
                ("model.weights", self._run.model.weights, "the weights are drawn, not read"),
                ("data.folder", self._run.data.folder, "the clips are noise"),
            )
            if value == RANDOM
        ]
        if drawn and not self._said:
            self._console.line(f"careful: {'; '.join(drawn)}. Nothing of use is learned.")
        self._said = True


def plan_main(argv: Sequence[str]) -> int:
    """Runs `pusa-jax plan train`.

    Args:
      argv: flags, without the names of the command.

    Returns:
      the exit code: 0 if the run fits the chips, 3 if not.

    Raises:
      ValueError, FileNotFoundError, ImportError: one line each, see `plan_train.plan_training`.
    """
    if not argv or {"--help", "-h"} & set(argv):
        print(PLAN_HELP)
        return 0
    run, values = parse(argv)
    topology = parse_topology(values.topology)
    prepare_process(topology)
    if not values.no_compilation_cache:
        keep_programs(Console(quiet=True))
    report = plan_training(run, topology)
    print(json.dumps(report.record()) if values.json else report.text())
    return 0 if report.fits else 3


def open_clips(run: RunConfig) -> tuple[Clips, Clips | None]:
    """The clips that a run learns from, and those that it validates on, if it does.

    Raises:
      FileNotFoundError, ValueError: a data set is not there, or not one of ours, or has too few
        clips.
      ImportError: the packages that read it are missing.
    """
    asked = run.data.validation
    if asked and Path(asked).is_dir():
        return _clips(run, run.data.folder), _clips(run, asked)
    return held_out(_clips(run, run.data.folder), asked)


def _clips(run: RunConfig, folder: str) -> Clips:
    if folder == RANDOM:
        networks = run.model.networks()
        classes = networks.family.num_classes(networks.dit)
        return NoiseClips(run.clip_shape, run.text_shape, classes=classes)
    from pusa_jax.data.encoded import EncodedClips

    return EncodedClips(folder)
