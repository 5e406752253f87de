"""How command lines are parsed: one line for what is wrong, with the nearest name that is right."""

import argparse
from collections.abc import Sequence
from typing import Any

from pusa_jax.cli.printing import one_line

USAGE_ERROR = 2


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there are some, and texts as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        is_open = default is None or isinstance(default, bool | list)
        if is_open or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class UsageError(SystemExit):
    """Ends a command because its command line is wrong.

    Attributes:
      prog: the command.
      text: what is wrong, as one line.
    """

    def __init__(self, prog: str, text: str):
        super().__init__(USAGE_ERROR)
        self.prog, self.text = prog, text


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str):
        """Raises `UsageError`."""
        message = one_line(ValueError(message))
        raise UsageError(self.prog, f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Refuses flags there are not before it asks for those that are needed."""
        if self._subparsers is None:
            for word in args or ():
                self._check_flag(word.partition("=")[0])
        return super().parse_known_args(args, namespace)

    def _check_flag(self, word: str) -> None:
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if word.startswith("--") and word != "--" and not any(f.startswith(word) for f in known):
            self.error(_nearest(f"flag {word}", word, known))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(_nearest(f"command {value}", str(value), list(action.choices)))
        super()._check_value(action, value)


def _nearest(what: str, name: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    there = f"; nearest: {', '.join(near)}" if near else ""
    return f"there is no {what[:80]}{there}"
