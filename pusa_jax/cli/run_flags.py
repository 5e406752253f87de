"""The flags of a training run: a config file, by name or path, and what is set in it.

Config files follow ml_collections: `get_config()` returns nested values, and every one of them can
be set on the command line, as in `--config.optimizer.learning_rate=3e-5`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

import pusa_jax
from pusa_jax.cli.programs import FLAG
from pusa_jax.files.records import build, unknown
from pusa_jax.training.config import RunConfig

USAGE = (
    "usage: pusa-jax train --config=NAME_OR_FILE --workdir=FOLDER [--quiet] "
    "[--no_compilation_cache] [--config.FIELD=VALUE ...]"
)

CONFIGS = Path(pusa_jax.__file__).parent / "configs"
"""Configs that come along; in a checkout a link to the folder `configs` at its top."""

NO_CONFIGS = {"common", "__init__"}
"""Modules there that are no configs."""


def shipped() -> dict[str, Path]:
    """Name -> file of the configs that come along."""
    files = sorted(CONFIGS.glob("*.py"))
    return {path.stem: path for path in files if path.stem not in NO_CONFIGS}


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
    files = shipped()
    file = files.get(Path(name).name.removesuffix(".py"))
    if file is None:
        raise FileNotFoundError(
            f"there is no config file {name}, and none of that name comes along; there are "
            f"{', '.join(files)}."
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
