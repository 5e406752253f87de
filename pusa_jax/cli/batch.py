"""`pusa-jax batch`: many videos from one list, each as its own command line would make it."""

import argparse
import json
import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.cli import together
from pusa_jax.cli.job import TASK_HELP, add_sampling_flags, job_of
from pusa_jax.cli.parsing import Parser, UsageError
from pusa_jax.cli.programs import keep_programs

EPILOG = """examples:
  pusa-jax batch jobs.jsonl --output videos --model Wan2.1-T2V-14B --lora_path pusa_v1.safetensors
  pusa-jax batch --prompts prompts.txt --output videos
  pusa-jax batch --images_dir pictures --output videos --num_inference_steps 10

A line of jobs.jsonl has the flags of a command as fields, and the command as its task:
  {"id": "cat", "task": "i2v", "image_paths": ["cat.png"], "prompt": "a cat stretches", "seed": 3}
Flags of the command line are for all lines that do not say otherwise. The same command goes on
where it was interrupted; several at a time, on any number of hosts, share the work."""

OWN = ("output", "dry_run", "quiet", "debug", "no_compilation_cache", "help")
"""Flags of a task that mean something for the batch as a whole, or nothing."""


class _Words(argparse.Action):
    """Keeps a flag of the tasks as it was written, for every line; `const`: it may be repeated."""

    def __call__(self, parser, namespace, values, option_string=None):
        words = values if isinstance(values, list) else [] if values is None else [values]
        kept = getattr(namespace, "common", None) or {}
        before = kept.get(self.dest, []) if self.const else []
        namespace.common = kept | {self.dest: [*before, *map(str, words)]}


def add_batch_arguments(sub: argparse.ArgumentParser) -> None:
    """Adds the sources of a list, and all that `add_shared_arguments` adds."""
    sub.epilog = EPILOG
    add = sub.add_argument
    add("jobs", nargs="?", type=Path, help="jobs.jsonl, a line for each video")
    add("--prompts", type=Path, metavar="FILE", help="a prompt on each line, instead")
    add("--images_dir", type=Path, metavar="DIR", help="pictures beside their prompts in .txt")
    add_shared_arguments(sub)


def add_shared_arguments(sub: argparse.ArgumentParser) -> None:
    """Adds how a batch is run, and the flags of the tasks."""
    add = sub.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the videos")
    add("--manifest", type=Path, help="list of results (default: DIR/manifest.jsonl)")
    add(
        "--batch_size",
        type=int,
        default=1,
        help="clips of one program where size, steps and places are alike; more need more memory",
    )
    add(
        "--shard",
        metavar="I/N",
        help="make the I-th of N shares alone (default: what no other process is at)",
    )
    add("--dry_run", action="store_true", help="check every line, print the plan, make nothing")
    add("--no_compilation_cache", action="store_true", help="do not keep compiled programs")
    group = sub.add_argument_group("flags of all lines; see the help of a task")
    for action in {id(action): action for action in _task_flags().values()}.values():
        group.add_argument(
            *action.option_strings,
            dest=action.dest,
            nargs=action.nargs,
            const=_is_repeated(action),
            action=_Words,
            default=argparse.SUPPRESS,
            metavar=action.metavar,
            help=argparse.SUPPRESS,
        )


def _task_flags() -> dict[str, argparse.Action]:
    """Flags of any task that a line may have, by their names."""
    found: dict[str, argparse.Action] = {}
    for task in TASK_HELP:
        found = flags_of(task) | found
    return found


def _is_repeated(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def flags_of(task: str) -> dict[str, argparse.Action]:
    """Flags of a task that a line may have, by their names."""
    parser = argparse.ArgumentParser(add_help=False)
    add_sampling_flags(parser, task)
    return {
        option.lstrip("-"): action
        for action in parser._actions
        for option in action.option_strings
        if option.lstrip("-") not in OWN
    }


def _parser_of(task: str) -> Parser:
    """What parses the words of a line, as the command line of its task."""
    parser = Parser(prog=f"pusa-jax {task}", add_help=False)
    add_sampling_flags(parser, task)
    parser.set_defaults(task=task, debug=False, quiet=True)
    return parser


def run_batch(args: argparse.Namespace) -> int:
    """Reads the list and runs it."""
    from pusa_jax.batch import lines

    sources = [args.jobs, args.prompts, args.images_dir]
    if sum(source is not None for source in sources) != 1:
        raise ValueError("give one list: jobs.jsonl, --prompts FILE or --images_dir DIR.")
    if args.jobs is not None:
        found, beside = lines.read_jobs(args.jobs), args.jobs.parent
    elif args.prompts is not None:
        found, beside = lines.read_prompts(args.prompts), args.prompts.parent
    else:
        found, beside = lines.read_images(args.images_dir), args.images_dir
    return run_lines(found, args, beside)


def run_lines(found: Sequence[Any], args: argparse.Namespace, beside: Path) -> int:
    """Makes the videos of a list; 0 where all are there at the end, 1 where some have failed.

    Args:
      found: `batch.lines.Line`s.
      args: of `add_shared_arguments`.
      beside: folder in which input files are looked for that are not in this one.

    Raises:
      ValueError, OSError: one line; a field, a file or the folder is not as it must be.
    """
    from pusa_jax.batch import shares
    from pusa_jax.batch.manifest import NAME
    from pusa_jax.batch.run import Batch, left

    if args.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {args.batch_size}.")
    share = shares.parse_shard(args.shard) if args.shard else shares.share_of(os.environ)
    args.console("check", 0, len(found))
    tasks = tasks_of(found, args, beside)
    listed_in = args.manifest or args.output / NAME
    waiting = left(tasks, args.output, listed_in, note=not args.dry_run)
    own, others = shares.in_turn(waiting, share)
    if args.shard is not None:
        waiting, others = own, []
    args.console.close()
    if args.dry_run:
        print(json.dumps(describe(tasks, waiting, args.batch_size), indent=2))
        return 0
    if waiting and not args.no_compilation_cache:
        keep_programs(args.console)
    batch = Batch(
        args.output,
        listed_in,
        size=args.batch_size,
        on_progress=args.console,
        on_failure=lambda line: args.console.line(f"pusa-jax: failed: {line}"),
    )
    summary = batch.run(own, others, len(tasks))
    args.console.close()
    there = len(tasks) - len(waiting)
    failed = f", {summary.failed} failed (see {listed_in})" if summary.failed else ""
    kept = f", {there} were there" if there else ""
    others = f", {summary.kept} made by others" if summary.kept else ""
    spent = f"{summary.seconds:.1f} s"
    if summary.made:
        spent += f", {summary.computing / summary.seconds:.0%} of it from text to frames"
    print(f"{args.output}: {summary.made} made{kept}{others}{failed}; {spent}")
    return 1 if summary.failed else 0


def tasks_of(found: Sequence[Any], args: argparse.Namespace, beside: Path) -> list[Any]:
    """The jobs of all lines, as their command lines would make them.

    Raises:
      ValueError: a line is no job; says its number and what its command line would say.
      FileNotFoundError: input files are missing; names all of them.
    """
    from pusa_jax.batch.run import Task, fingerprint_of
    from pusa_jax.inference.jobs import check_numbers
    from pusa_jax.listing import listed

    parsers, opened = {task: _parser_of(task) for task in TASK_HELP}, dict[Any, Any]()
    flags = {task: flags_of(task) for task in TASK_HELP}
    tasks, missing, prints = [], dict[str, None](), dict[int, str]()
    for done, line in enumerate(found, 1):
        fields = dict(line.fields)
        where = f"line {line.number}"
        task = fields.pop("task", "t2v")
        if task not in TASK_HELP:
            raise ValueError(f"{where}: task is one of {', '.join(TASK_HELP)}; got {task!r:.40}.")
        try:
            common = {k: v for k, v in getattr(args, "common", {}).items() if k not in fields}
            words = [*_words(common, flags[task], is_common=True)]
            words += _words(_located(fields, beside), flags[task])
            job, model = job_of(parsers[task].parse_args(words), opened)
            check_numbers(job, model)
        except UsageError as error:
            raise ValueError(f"{where}: {error.text}") from None
        except (ValueError, OSError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"{where}: {error}") from None
        if _draws_seed(words):
            raise ValueError(f"{where}: a batch goes on with the same seeds; give them, not -1.")
        absent = [path for path in job.inputs if not Path(path).is_file()]
        missing |= dict.fromkeys(absent)
        if not absent:
            if id(model) not in prints:
                prints[id(model)] = together.fingerprint_of_model(model.folder)
            print_ = fingerprint_of(job.as_record(), prints[id(model)])
            tasks.append(
                Task(id=line.id, output=line.output, job=job, model=model, fingerprint=print_)
            )
        args.console("check", done, len(found))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} input files are not there: {listed(list(missing), 40)}."
        )
    return tasks


def _draws_seed(words: Sequence[str]) -> bool:
    return [word for word in words if word.startswith("--seed=")][-1:] == ["--seed=-1"]


def _located(fields: dict[str, Any], beside: Path) -> dict[str, Any]:
    """The fields with paths of inputs that are not here but beside the list."""
    changed = dict(fields)
    for name in ("image_paths", "video_path"):
        if name in fields:
            paths = fields[name] if isinstance(fields[name], list) else [fields[name]]
            changed[name] = [
                str(beside / path) if not Path(path).exists() and (beside / path).exists() else path
                for path in map(str, paths)
            ]
    return changed


def _words(
    fields: MutableMapping[str, Any], flags: dict[str, argparse.Action], *, is_common: bool = False
) -> Iterator[str]:
    """Fields as words of a command line.

    Raises:
      ValueError: a field that the task has not; says the nearest.
    """
    from pusa_jax.files.records import unknown

    for name, value in fields.items():
        name = name.replace("-", "_")
        if name not in flags:
            if is_common:  # meant for lines of other tasks
                continue
            raise ValueError(unknown(name, flags).replace("there is no", "there is no field"))
        action = flags[name]
        if value is None or value is False:
            continue
        if action.nargs == 0:
            yield f"--{name}"
        elif _is_repeated(action):
            parts = value if isinstance(value, list) else [value]
            yield from (f"--{name}={part}" for part in parts)
        elif action.nargs == "+":
            yield f"--{name}"
            yield from map(str, value if isinstance(value, list) else [value])
        else:
            parts = value if isinstance(value, list) else [value]
            yield f"--{name}={','.join(map(str, parts))}"


def describe(tasks: Sequence[Any], waiting: Sequence[Any], size: int) -> dict[str, Any]:
    """What a batch would do: jobs by model, shape and program."""
    shapes: dict[str, int] = {}
    for task in waiting:
        settings = task.job.settings
        name = (
            f"{task.job.model}, {settings.height}x{settings.width}x{settings.num_frames}, "
            f"{settings.solver}"
        )
        shapes[name] = shapes.get(name, 0) + 1
    return {
        "jobs": len(tasks),
        "done": len(tasks) - len(waiting),
        "to make": len(waiting),
        "models": len({task.loaded for task in waiting}),
        "programs": len({(task.loaded, task.shape) for task in waiting}),
        "clips of one program": size,
        "prompts": len({task.job.prompt for task in waiting}),
        "jobs by shape": shapes,
    }
