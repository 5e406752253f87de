"""`pusa-jax configs` shows what a run can be told, and hands out copies."""

import dataclasses
import os
import subprocess
import sys

import pytest

from pusa_jax.cli.main import main
from pusa_jax.cli.run_flags import parse, shipped
from pusa_jax.training.config import RunConfig


def said(capsys, *line, code=0):
    assert main(["configs", *line]) == code
    return capsys.readouterr()


def test_the_configs_that_come_along_are_listed_with_what_they_train(capsys):
    out = said(capsys).out
    for name in shipped():
        assert f"\n{name}\n" in f"\n{out}"
    assert "wan2.1-t2v-14b, LoRA of rank 512, 900 steps of 8 clips of 81x480x832" in out
    assert "wan2.1-t2v-14b, all weights" in out


def test_every_field_is_shown_with_value_kind_and_meaning(capsys):
    lines = said(capsys, "debug").out.splitlines()
    shown = {line[2:].partition(" = ")[0]: line for line in lines if " = " in line}
    run, _ = parse(["--config=debug"])
    for field in dataclasses.fields(RunConfig):
        value = getattr(run, field.name)
        if dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                assert any(f"{field.name}.{inner.name}" in name for name in shown), inner.name
        else:
            assert field.name in shown
    rate = shown["optimizer.learning_rate"]
    assert " = 0.001 " in rate and "behind the warm-up (float)" in rate and rate[0] == " "
    assert "(constant|linear|cosine)" in shown["optimizer.decay"]
    assert shown["objective.original_input"].startswith("* ")  # cannot be set by a flag


def test_what_is_not_marked_can_be_set_by_a_flag(capsys):
    for line in said(capsys, "debug").out.splitlines():
        if line.startswith("  ") and " = " in line and "((" not in line:
            name, _, rest = line.strip().partition(" = ")
            value = rest.split("  ")[0].strip("'")
            parse(["--config=debug", f"--config.{name}={value}"])


def test_a_copy_trains_where_there_is_no_checkout(capsys, tmp_path):
    output = tmp_path / "my.py"
    assert "pusa-jax train --config=" in said(capsys, "debug", "--output", str(output)).out
    output.write_text(output.read_text().replace("config.steps = 20", "config.steps = 7"))
    program = "from pusa_jax.cli.run_flags import parse; print(parse(['--config=my.py'])[0].steps)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True
    )
    assert done.stdout == b"7\n", done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("debug", "--output", "there.py"), "there.py is there already; name a new file."),
        (("debug", "--output", "my"), "a config is a Python file: name it my.py."),
        (("debog",), "there is no config 'debog'; there are debug, fvdm"),
        (("--output", "new.py"), "name the config to be copied: debug, "),
    ],
)
def test_nothing_is_overwritten_and_mistakes_are_told(capsys, tmp_path, monkeypatch, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("mine")
    assert words in said(capsys, *line, code=2).err
    assert [p.name for p in tmp_path.iterdir()] == ["there.py"]
    assert (tmp_path / "there.py").read_text() == "mine"
