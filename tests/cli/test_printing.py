"""What reaches the terminal is harmless and short, whatever a file or a flag says."""

import json
import signal
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pusa_jax.cli.main import main
from pusa_jax.cli.printing import LONGEST, escaped, one_line
from pusa_jax.media import video

EVIL = "\x1b]0;gone\x07\x1b[2J\x9b31m\u202eevil\u2066\x00\x7f\r\u200f\u2028"
ALLOWED = "\n\t"


def harmful(text):
    marks = ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI")
    return [
        c for c in text
        if (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in ALLOWED)
        or unicodedata.bidirectional(c) in marks or c in "\u200e\u200f\u061c"
    ]  # fmt: skip


@given(st.text())
def test_escaped_text_holds_nothing_that_acts_and_is_the_same_json(text):
    assert not harmful(escaped(text))
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize("text", ["Nº 1: ein Straße\tend\n", "日本語", "שלום", "👩‍🚀 cat"])
def test_people_s_text_stays_as_it_is(text):
    assert escaped(text) == text


@given(st.text(min_size=1))
def test_an_error_is_one_short_line(text):
    line = one_line(ValueError(text * 400))
    assert len(line) <= LONGEST and "\n" not in line and not harmful(line)


def call(capsys, *argv):
    try:
        code = main([str(arg) for arg in argv])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_what_files_and_flags_say_is_printed_escaped(tmp_path, capsys):
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    settings = {"prompt": EVIL.replace("\x00", ""), "name": "cat"}
    video.write_video(tmp_path / "a.mp4", frames, 16, settings)
    code, out, err = call(capsys, "info", tmp_path / "a.mp4")
    assert code == 0 and json.loads(out) == settings and not harmful(out + err)
    for argv in (["info", tmp_path / EVIL.replace("\x00", "")], [EVIL], ["info", "x", "--" + EVIL]):
        code, out, err = call(capsys, *argv)
        assert code == 2 and not harmful(out + err) and "evil" in err


def test_a_long_message_is_cut(tmp_path, capsys):
    for argv in (["info", "x" * 100_000], ["x" * 100_000]):
        code, _, err = call(capsys, *argv)
        assert code == 2 and len(err) < LONGEST + 80 and err.count("\n") == 1


CHILD = """
import sys, time
from pathlib import Path
from pusa_jax.cli.signals import ending_tidily
from pusa_jax.files.atomic import replacing
from pusa_jax.files.staging import staged

@ending_tidily()
def work(folder):
    with replacing(folder / "a.mp4"), staged(folder / "b") as work:
        (work / "half").touch()
        print("ready", flush=True)
        time.sleep(100)

work(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_nothing_behind(tmp_path, name):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    number = getattr(signal, name)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert not list(tmp_path.iterdir())
    if name != "SIGINT":
        assert child.returncode == 128 + number and err == f"pusa-jax: ended by {name}.\n"
