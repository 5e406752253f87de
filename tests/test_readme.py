"""Every command of the README runs as it stands there, in order, in an empty folder.

Those that need downloads say so in one line. `make` and `pip` are held to what there is.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pusa_jax.demo import shipped
from pusa_jax.media import video

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOWNLOADED = ("Wan2.", "PusaV1", "clips", "runs/pusa")
"""Beginnings of what is not there in an empty folder."""

LIBTPU = "--topology v6e"


def commands():
    """Commands of the blocks without a language, continued lines joined."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in found if not language]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"(pusa-jax|make|pip|hf|\.) ", line)]


def test_the_readme_runs_as_it_stands_there(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "pusa-jax").write_text(f'#!/bin/sh\nexec {sys.executable} -m pusa_jax "$@"\n')
    (programs / "pusa-jax").chmod(0o755)
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    work = tmp_path / "work"
    work.mkdir()
    ran = []
    for line in commands():
        program = line.split()[0]
        if program == "make":
            target = line.split()[1]
            made = subprocess.run(
                ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            if target != "demo":
                continue
            (line,) = re.findall(r"^\S+/(pusa-jax demo .*)$", made, re.MULTILINE)
        elif program in ("pip", "hf", ".") or LIBTPU in line:
            continue
        done = subprocess.run(
            line, shell=True, cwd=work, env=os.environ | paths, capture_output=True, text=True
        )
        if any(name in line for name in DOWNLOADED):
            assert done.returncode == 2 and done.stderr.count("\n") == 1, (line, done.stderr)
            assert done.stderr.startswith("pusa-jax: error: "), done.stderr
        else:
            assert done.returncode == 0, (line, done.stderr)
        ran.append(line)
    assert len(ran) >= 10
    for made in ("demo/sheet.png", "outputs/t2v.mp4", "outputs/t2v.variation.mp4", "runs/debug"):
        assert (work / made).exists()


def test_the_snippet_runs_on_the_tiny_model(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "api" / "index.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for old, new in {
        '"Wan2.1-T2V-14B"': '"tiny", dtype="float32"',
        '"PusaV1/pusa_v1.pt", 1.4': f'"{shipped.LORA[0]}", 1.0',
        "height=480, width=832": "height=48, width=48, num_frames=5, num_steps=1",
        "photo.jpg": "photo.png",
    }.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    monkeypatch.chdir(tmp_path)
    video.write_png("photo.png", np.zeros((60, 50, 3), np.uint8))
    exec(snippet, {})
    assert video.read_video("smile.mp4")[0].shape == (5, 48, 48, 3)


def test_what_the_readme_installs_and_makes_is_there():
    extras = set(re.findall(r'pip install "\.\[(\w+)\]"', README))
    text = (ROOT / "pyproject.toml").read_text()
    assert extras and all(re.search(rf"^{name} = \[", text, re.MULTILINE) for name in extras)
    assert ". .venv/bin/activate" in README and "VENV ?= .venv" in (ROOT / "Makefile").read_text()
