"""`pusa-jax completion SHELL`: a script that completes commands, flags and their choices.

bash   source <(pusa-jax completion bash)        in ~/.bashrc
zsh    source <(pusa-jax completion zsh)         in ~/.zshrc, behind compinit
fish   pusa-jax completion fish > ~/.config/fish/completions/pusa-jax.fish

Everything is read from the parser, so that the script knows what this version knows.
"""

import argparse
import dataclasses
import shlex
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What may stand behind some words.

    Attributes:
      words: of the command, as in ("plan", "infer"); none is the program itself.
      below: its subcommands, and what they do.
      flags: its flags, and what they are.
      choices: flag or, as "", first word behind -> what may stand there, where that is a choice.
      is_bare: flags that take no value.
    """

    words: tuple[str, ...]
    below: dict[str, str]
    flags: dict[str, str]
    choices: dict[str, tuple[str, ...]]
    is_bare: frozenset[str]


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for a shell."""
    commands = list(commands_of(parser))
    return "\n".join(_fish(commands) if shell == "fish" else _bash(commands, shell)) + "\n"


def commands_of(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Yields a parser and all below it."""
    below: dict[str, str] = {}
    flags: dict[str, str] = {}
    choices: dict[str, tuple[str, ...]] = {}
    bare: set[str] = set()
    inner: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = dict(action.choices)
            below = {sub.dest: sub.help or "" for sub in action._choices_actions}
            continue
        names = [name for name in action.option_strings if name.startswith("--")]
        flags |= dict.fromkeys(names, action.help or "")
        bare |= set(names) if action.nargs == 0 else set()
        if action.choices is not None:
            choices |= dict.fromkeys(names or [""], tuple(map(str, action.choices)))
    if words in OF_CONFIGS:
        from pusa_jax.cli.run_flags import shipped

        flags |= OF_CONFIGS[words]
        choices |= {"--config": tuple(shipped())}
        bare |= {"--no_compilation_cache", "--json"} & set(flags)
    yield Command(words=words, below=below, flags=flags, choices=choices, is_bare=frozenset(bare))
    for name, sub in inner.items():
        yield from commands_of(sub, (*words, name))


OF_CONFIGS = {
    ("train",): {
        "--config": "name or file of a config",
        "--workdir": "folder of the run",
        "--no_compilation_cache": "do not keep compiled programs",
    },
    ("plan", "train"): {
        "--config": "name or file of a config",
        "--topology": "chips to plan for",
        "--json": "print one JSON object",
    },
}
"""Commands whose flags are those of a config file, which argparse does not know."""


def _bash(commands: list[Command], shell: str) -> Iterator[str]:
    if shell == "zsh":
        yield "autoload -U +X bashcompinit && bashcompinit"
    yield "_pusa_jax() {"
    yield '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" words="" at=1'
    yield '  if [ "$cur" = "=" ]; then cur=""; fi'  # bash cuts --flag=value at the sign
    yield '  if [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi'
    yield "  COMPREPLY=()"
    parents = [" ".join(command.words) for command in commands if command.below]
    yield '  while [ "$at" -lt "$COMP_CWORD" ]; do'
    yield f'    case "$words" in {"|".join(shlex.quote(p) for p in parents)}) ;; *) break;; esac'
    yield '    case "${COMP_WORDS[at]}" in'
    yield '      -*) ;; *) words="${words:+$words }${COMP_WORDS[at]}";;'
    yield "    esac"
    yield "    at=$((at + 1))"
    yield "  done"
    yield '  case "$words $prev" in'
    for command in commands:
        for flag, choices in command.choices.items():
            if flag:
                where = shlex.quote(" ".join((*command.words, flag)))
                yield f"    {where}) {_replies(choices)}; return;;"
    yield "  esac"
    yield '  case "$words" in'
    for command in commands:
        found = [*command.below, *command.choices.get("", ()), *command.flags]
        yield f"    {shlex.quote(' '.join(command.words))}) {_replies(found)};;"
    yield "  esac"
    yield "}"
    yield "complete -o default -F _pusa_jax pusa-jax"


def _replies(words) -> str:
    return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(words))} -- "$cur"))'


def _fish(commands: list[Command]) -> Iterator[str]:
    for command in commands:
        where = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.words)
        if command.below:
            unseen = f"not __fish_seen_subcommand_from {' '.join(command.below)}"
            condition = f"{where}; and {unseen}" if where else unseen
            beginning = f"complete -c pusa-jax -f -n {shlex.quote(condition)}"
            for name, text in command.below.items():
                yield f"{beginning} -a {name} -d {_text(text)}"
        scope = f" -n {shlex.quote(where)}" if where else ""
        if first := command.choices.get(""):
            yield f"complete -c pusa-jax -f{scope} -a {shlex.quote(' '.join(first))}"
        for flag, text in command.flags.items():
            line = f"complete -c pusa-jax{scope} -l {flag.removeprefix('--')} -d {_text(text)}"
            if choices := command.choices.get(flag):
                line += f" -x -a {shlex.quote(' '.join(choices))}"
            elif flag not in command.is_bare:
                line += " -r"
            yield line


def _text(text: str) -> str:
    return shlex.quote(" ".join(text.replace("%%", "%").split())[:80])
