"""`pusa-jax configs`: the training configs that come along, their fields, and a copy to edit."""

import argparse
import ast
import dataclasses
import inspect
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

EPILOG = """examples:
  pusa-jax configs                                        (all that come along)
  pusa-jax configs pusa_v1_lora_14b                       (its fields and what they mean)
  pusa-jax configs pusa_v1_lora_14b --output mine.py      (a copy to edit)
  pusa-jax train --config=mine.py --workdir=runs/mine"""


def add_configs_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax configs`."""
    parser.epilog = EPILOG
    parser.add_argument("name", nargs="?", help="one of them: show its fields")
    parser.add_argument("--output", help="file to copy it to; one that is there stays")
    parser.set_defaults(run=run_configs)


def run_configs(args: argparse.Namespace) -> int:
    """Lists the configs, shows one of them, or copies it.

    Raises:
      ValueError: there is no such config, or no name is given with an output.
      FileExistsError: the output is there already.
    """
    from pusa_jax.cli.run_flags import shipped

    files = shipped()
    if args.name is None:
        if args.output is not None:
            raise ValueError(f"name the config to be copied: {', '.join(files)}.")
        print("\n".join(_list(files)))
        return 0
    file = files.get(Path(args.name).name.removesuffix(".py"))
    if file is None:
        raise ValueError(f"there is no config {args.name!r:.80}; there are {', '.join(files)}.")
    if args.output is None:
        print("\n".join(_show(file)))
        return 0
    copy(file, Path(args.output))
    print(f"{args.output}: a copy of {file.stem}; pusa-jax train --config={args.output} ...")
    return 0


def copy(file: Path, output: Path) -> None:
    """Copies a config under a new name.

    Raises:
      ValueError: the name is not that of a Python file.
      FileExistsError: it is there already.
    """
    from pusa_jax.files.atomic import check_writable, replacing

    if output.suffix != ".py":
        raise ValueError(f"a config is a Python file: name it {output.with_suffix('.py')}.")
    if os.path.lexists(output):
        raise FileExistsError(f"{output} is there already; name a new file.")
    check_writable(output)
    text = file.read_text("utf-8").replace(f"configs/{file.name}", str(output))
    with replacing(output, only_new=True) as part:
        part.write_text(text, "utf-8")


def _list(files: Mapping[str, Path]) -> Iterator[str]:
    from pusa_jax.cli.run_flags import parse

    for name, file in files.items():
        run = parse([f"--config={file}"])[0]
        data, adapter = run.data, run.adapter
        model = run.model.preset or f"a small {run.model.family}"
        expert = f" ({run.model.expert})" if len(run.recipe.family.experts) > 1 else ""
        what = "all weights" if adapter is None else f"LoRA of rank {adapter.rank}"
        clips = f"{data.batch_size} clips of {data.num_frames}x{data.height}x{data.width}"
        yield f"{name}\n    {_docstring(file).splitlines()[0]}"
        yield f"    {model}{expert}, {what}, {run.steps} steps of {clips}"
    yield "\npusa-jax configs NAME shows the fields of one, with --output mine.py it is copied."


def _show(file: Path) -> Iterator[str]:
    from pusa_jax.cli.run_flags import parse, plain

    run, values = parse([f"--config={file}"])
    yield f"{file.stem}: {_docstring(file)}\n"
    yield "Set one on the command line, as in --config.steps=100. Those marked * are set in a copy"
    yield f"only: pusa-jax configs {file.stem} --output mine.py\n"
    rows = list(_rows(run, plain(values.config), ""))
    widest = max(len(f"{name} = {value}") for name, value, *_ in rows if len(value) < LONG)
    for name, value, kind, text in rows:
        field = f"{name} = {value}"
        yield f"{field:{widest}}  {f'{text} ' if text else ''}({kind})"


LONG = 24
"""Characters of a value from which on it makes its own line longer, not the column wider."""


def _rows(record: Any, given: Any, where: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, type and meaning of each field of a record, and of the records in it."""
    kinds, meanings = typing.get_type_hints(type(record)), attributes(type(record))
    for field in dataclasses.fields(record):
        value, name = getattr(record, field.name), f"{where}{field.name}"
        inner = given.get(field.name) if isinstance(given, Mapping) else None
        if dataclasses.is_dataclass(value):
            yield from _rows(value, inner, f"{name}.")
        else:
            mark = " " if isinstance(given, Mapping) and field.name in given else "*"
            kind = kind_in_words(kinds[field.name])
            yield f"{mark} {name}", repr(value), kind, meanings.get(field.name, "")


def kind_in_words(kind: Any) -> str:
    """A type of a field as people write its values: `int`, `wan|diffsynth`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin in (types.UnionType, typing.Union):
        parts = dict.fromkeys(kind_in_words(part) for part in inner)
        return "|".join(part for part in parts if part)
    if kind is types.NoneType:
        return "none"
    if origin is tuple:
        return "tuple"
    name = getattr(kind, "__name__", "table")
    return "table" if name.endswith("Config") else name


def attributes(cls: type) -> dict[str, str]:
    """Attribute -> the first sentence that the docstring of its class has on it."""
    _, _, block = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(block)):
        names, colon, text = entry.partition(": ")
        sentence = re.split(r"\. |; |\.$", " ".join(text.split()))[0]
        if colon and re.fullmatch(r"\w+(, \w+)*", names):
            found |= dict.fromkeys(names.split(", "), sentence)
    return found


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
