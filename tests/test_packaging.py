"""The base install stays small and quick, and says of itself what is true."""

import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
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
def test_no_file_exceeds_450_lines(folder):
    lengths = {p: len(p.read_text().splitlines()) for p in (ROOT / folder).rglob("*.py")}
    assert not {p.name: n for p, n in lengths.items() if n > 450}


def test_nothing_is_named_after_nothing():
    vague = {"utils", "util", "helpers", "misc", "common", "base"}
    found = {p for f in ("pusa_jax", "convert") for p in (ROOT / f).rglob("*") if p.stem in vague}
    assert not found


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The content of a wheel that is built from what git tracks."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("unpacked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def test_a_wheel_brings_one_name_and_all_that_belongs_to_it(unpacked):
    names = {p.name for p in unpacked.iterdir() if p.is_dir()}
    assert names == {"pusa_jax", f"pusa_jax-{pusa_jax.__version__}.dist-info"}
    package = unpacked / "pusa_jax"
    for folder in ("convert", "configs"):
        wanted = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*.py")}
        assert wanted == {p.relative_to(package / folder) for p in (package / folder).rglob("*.py")}
    for name in ("py.typed", "demo/weights/README.md", "demo/weights/pusa_lora.safetensors"):
        assert (package / name).is_file(), name


def test_the_page_on_pypi_has_links_that_work_and_names_no_address_that_is_none(unpacked):
    (info,) = unpacked.glob("*.dist-info")
    said = email.message_from_string((info / "METADATA").read_text("utf-8"))
    text, urls = said.get_payload(), said.get_all("Project-URL")
    links = [*re.findall(r"\]\(([^)]*)\)", text), *(url.partition(", ")[2] for url in urls)]
    assert links and all(link.startswith("https://arxiv.org/abs/") for link in links)
    assert said["Keywords"] and "Typing :: Typed" in said.get_all("Classifier")
    for line in re.findall(r"^pusa-jax (\S+)", text, re.MULTILINE):  # commands there are
        assert line in {"demo", "t2v", "i2v", "--help", "train", "configs"}


def test_configs_and_commands_work_far_from_a_checkout(unpacked, tmp_path):
    (tmp_path / "convert.py").write_text("raise ImportError('a script of the user')\n")
    program = """
from pusa_jax.cli.run_flags import parse
from pusa_jax.convert import tables
import pusa_jax as pj
for name in ("debug", "configs/debug.py", "fvdm_ptss_1.3b:p=0.5"):
    print(parse([f"--config={name}"])[0].steps)
from pusa_jax.cli.main import main
main(["configs", "debug", "--output", "my.py"])
print(parse(["--config=my.py", "--config.steps=7"])[0].steps)
print(pj.__file__, pj.PusaPipeline.__name__, pj.tasks.__name__, pj.SamplingConfig().height)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *steps, names = done.stdout.splitlines()
    assert steps == [
        "20",
        "20",
        "900",
        "my.py: a copy of debug; pusa-jax train --config=my.py ...",
        "7",
    ]
    where = unpacked / "pusa_jax" / "__init__.py"
    assert names == f"{where} PusaPipeline pusa_jax.diffusion.tasks 720"


def test_public_names_are_found_and_others_are_told():
    assert {"PusaPipeline", "SamplingConfig", "tasks", "write_video"} < set(dir(pusa_jax))
    for name in dir(pusa_jax):
        assert getattr(pusa_jax, name) is not None
    with pytest.raises(AttributeError, match=r"no 'Pipeline'; it has .*PusaPipeline"):
        pusa_jax.Pipeline  # noqa: B018
