"""The base install stays small and quick, and says of itself what is true."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pusa_jax

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "tensorflow", "transformers", "orbax", "diffusers", "peft", "av", "grain"}
FOREIGN = {"torch", "tensorflow", "tensorflow-cpu", "diffusers", "peft", "pytest", "scikit-image"}


def base_install():
    """Names of all distributions that a plain install draws in on this machine."""
    found, queue = set(), [("pusa-jax", "")]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                for wanted in {"", *requirement.extras}:
                    queue.append((canonicalize_name(requirement.name), wanted))
    return {name for name, _ in found}


def test_base_install_is_small():
    names = base_install()
    assert not names & FOREIGN
    assert len(names) <= 65, sorted(names)
    files = [f for n in names for f in importlib.metadata.distribution(n).files or []]
    # Byte-compiled files, listed without a size, add about a tenth.
    assert 1.1 * sum(f.size or 0 for f in files) <= 1.15e9


def test_import_is_quick_and_light():
    program = (
        "import json, sys, time; start = time.process_time(); import pusa_jax;"
        "print(json.dumps([time.process_time() - start, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    seconds, modules = json.loads(done.stdout)
    assert seconds <= 4
    assert not HEAVY & {name.partition(".")[0] for name in modules}


def test_version_is_that_of_the_installed_package_and_of_the_changelog():
    assert importlib.metadata.version("pusa_jax") == pusa_jax.__version__
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == pusa_jax.__version__


@pytest.mark.parametrize("folder", ["pusa_jax", "convert", "configs", "experiments", "tests"])
def test_no_file_exceeds_500_lines(folder):
    lengths = {p: len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
    assert not {p.name: n for p, n in lengths.items() if n > 500}


def test_nothing_is_named_after_nothing():
    vague = {"utils", "util", "helpers", "misc", "common", "base"}
    found = {p for f in ("pusa_jax", "convert") for p in (ROOT / f).rglob("*") if p.stem in vague}
    assert not found
