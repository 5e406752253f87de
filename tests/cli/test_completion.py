"""Shells complete what the parser knows, and a closed pipe is no error."""

import os
import shutil
import subprocess
import sys

import pytest

from pusa_jax.cli.completion import SHELLS, commands_of, script
from pusa_jax.cli.main import build_parser, main

BASH = shutil.which("bash")


def completed(*words):
    """What bash offers behind some words, the last of which is being typed."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script('bash', build_parser())}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        '_pusa_jax; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([BASH, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["t2"], ["t2v"]),
        (["plan", "in"], ["infer"]),
        (["t2v", "--pro"], ["--prompt"]),
        (["--quiet", "t2v", "--pro"], ["--prompt"]),
        (["t2v", "--model", "tiny", "--pro"], ["--prompt"]),
        (["i2v", "--fit", "l"], ["letterbox"]),
        (["export", "--layout", "=", "d"], ["diffusers"]),
        (["export", "--layout", "="], ["original", "diffusers"]),
        (["plan", "infer", "--top"], ["--topology"]),
        (["plan", "train", "--js"], ["--json"]),
        (["train", "--config", "=", "de"], ["debug"]),
        (["fvd", "real", "generated", "--real_i"], ["--real_interval"]),
        (["completion", "fi"], ["fish"]),
        (["t2v", "--prompt", "a"], []),
    ],
)
def test_bash_completes_commands_flags_and_choices(words, expected):
    assert completed("pusa-jax", *words) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_with_every_command_and_flag(capsys, shell):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert out == script(shell, build_parser())
    for command in commands_of(build_parser()):
        for word in (*command.words, *command.below, *command.flags):
            assert word.removeprefix("--") in out
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=out, text=True, check=True)


@pytest.mark.parametrize("words", ["completion bash", "--help"])
def test_a_closed_pipe_is_no_error(words):
    program = f"set -o pipefail; {sys.executable} -m pusa_jax {words} | true"
    env = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run([BASH, "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stderr == ""
