"""`pusa-jax train` and `pusa-jax plan train`: from flags to a run, and from a run to a screen.

    pusa-jax train --config=NAME_OR_FILE --workdir=FOLDER [--config.FIELD=VALUE ...]
    pusa-jax plan train --config=NAME_OR_FILE --topology=v5e:4x4 [--json] [--config.FIELD=VALUE]

Config files follow ml_collections: `get_config()` returns nested values, and every one of them can
be set on the command line, as in `--config.optimizer.learning_rate=3e-5`.
"""

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

import pusa_jax
from pusa_jax.cli import together
from pusa_jax.cli.programs import FLAG, keep_programs
from pusa_jax.data.batches import Clips, NoiseClips
from pusa_jax.devices.topologies import parse_topology, prepare_process
from pusa_jax.files.records import build, unknown
from pusa_jax.planning.training import plan_training
from pusa_jax.progress import Console, in_words
from pusa_jax.training.config import RANDOM, RunConfig
from pusa_jax.training.loop import train
from pusa_jax.training.startup import open_weights, sized_by
from pusa_jax.training.workdir import StopRequest

USAGE = (
    "usage: pusa-jax train --config=NAME_OR_FILE --workdir=FOLDER [--quiet] "
    "[--no_compilation_cache] [--config.FIELD=VALUE ...]"
)

CONFIGS = Path(pusa_jax.__file__).parent / "configs"
"""Configs that come along; in a checkout a link to the folder `configs` at its top."""

NO_CONFIGS = {"common", "__init__"}
"""Modules there that are no configs."""

HELP = f"""{USAGE}

Trains a DiT with one timestep per latent frame, by LoRA or in full. A config file says everything;
any of its values can be set on the command line. The same command goes on where a stopped run
ended. Where model.weights is a folder, the model in it says its sizes. Configs that come along go
by name: debug, pusa_v1_lora_14b, pusa_full_14b, pusa_lora_1.3b,
pusa_wan22_high_14b, pusa_wan22_low_14b, pusa_lora_ti2v_5b, pusa_v05_full_mochi, fvdm_ptss_1.3b.

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
        clips = open_clips(run)
        together.agree_on_run(run, weights, workdir)
        watch = Watch(run, console)
        stop = StopRequest(watch.on_stop)
        taken = train(
            run,
            clips,
            workdir,
            watch.on_step,
            weights=weights,
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


def parse(argv: Sequence[str]) -> tuple[RunConfig, flags.FlagValues]:
    """Flags to settings, and the flags besides those of the config.

    Raises:
      ValueError: one line that says which flag is missing, unknown or wrong.
      FileNotFoundError: there is no such config file.
    """
    argv = _with_shipped_config(argv)
    try:
        values, rest = _flags(argv)
    except (AttributeError, KeyError) as error:
        raise ValueError(_unknown_field(argv, error)) from None
    except (flags.Error, TypeError, ValueError) as error:  # a config's own error comes last
        raise ValueError(str(error).strip().splitlines()[-1]) from None
    if rest or not values.config:
        raise ValueError(f"{f'{rest[0]!r} is no flag' if rest else '--config is needed'}; {USAGE}")
    return build(RunConfig, plain(values.config)), values


def _with_shipped_config(argv: Sequence[str]) -> list[str]:
    """The flags with the name of a config that comes along, `debug`, replaced by its file.

    A name that ends in .py is a file of the user's; where there is none, the one that comes along.

    Raises:
      FileNotFoundError: neither the one nor the other.
    """
    value = _config_file(argv)
    name, colon, argument = value.partition(":")
    if not name or Path(name).is_file():
        return list(argv)
    shipped = {path.stem: path for path in CONFIGS.glob("*.py") if path.stem not in NO_CONFIGS}
    file = shipped.get(Path(name).name.removesuffix(".py"))
    if file is None:
        raise FileNotFoundError(
            f"there is no config file {name}, and none of that name comes along; there are "
            f"{', '.join(sorted(shipped))}."
        )
    found = f"{file}{colon}{argument}"
    swapped = {value: found, f"--config={value}": f"--config={found}"}
    return [swapped.get(arg, arg) for arg in argv]


def _flags(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parsed flags, and what is none."""
    argv, values = ["train", *argv], flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string("topology", "local", "Chips to plan for.", flag_values=values)
    flags.DEFINE_bool(FLAG, False, "Do not keep compiled programs.", flag_values=values)
    flags.DEFINE_bool("quiet", False, "Say nothing but errors.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print one JSON object.", flag_values=values)
    return values, values(argv)[1:]


def plain(config: config_dict.ConfigDict) -> dict[str, Any]:
    """Nested dictionaries of plain values; fields that were left open are left out."""
    return {
        name: plain(value) if isinstance(value, config_dict.ConfigDict) else value
        for name, value in config.items()
        if value is not None
    }


def _unknown_field(argv: Sequence[str], error: Exception) -> str:
    """ml_collections says which name it did not find, not where, nor what there is."""
    values, _ = _flags([f"--config={_config_file(argv)}"])
    known = set(_fields(plain(values.config), "config"))
    given = [arg.lstrip("-").partition("=")[0] for arg in argv]
    wrong = next((name for name in given if name.startswith("config.") and name not in known), None)
    return unknown(wrong, known) if wrong else " ".join(str(error).split())


def _config_file(argv: Sequence[str]) -> str:
    for i, arg in enumerate(argv):
        name, equals, value = arg.lstrip("-").partition("=")
        if name == "config":
            return value if equals else next(iter(argv[i + 1 :]), "")
    return ""


def _fields(values: dict[str, Any], where: str) -> Iterator[str]:
    for name, value in values.items():
        yield f"{where}.{name}"
        if isinstance(value, dict):
            yield from _fields(value, f"{where}.{name}")


def open_clips(run: RunConfig) -> Clips:
    """The data set of a run.

    Raises:
      FileNotFoundError, ValueError: it is not there, or not one of ours.
      ImportError: the packages that read it are missing.
    """
    if run.data.folder == RANDOM:
        return NoiseClips(run.clip_shape, run.text_shape)
    from pusa_jax.data.encoded import EncodedClips

    return EncodedClips(run.data.folder)
