"""Kills while a folder is replaced, changed bytes in one: nothing is lost, nothing unnoticed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pusa_jax.convert import tables
from pusa_jax.convert.folders import converted as converted_folders
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.manifest import damage
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.folders.published import open_published
from pusa_jax.testing.published import write_published_folder

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_published_folder(folder)
    return folder


@pytest.fixture(scope="module")
def converted(original, tmp_path_factory):
    return convert_folder(original, tmp_path_factory.mktemp("converted") / "dst")


@pytest.fixture
def own_converted(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "dst")


def loaded(folder, name):
    return {path: np.asarray(leaf) for path, leaf in ModelFolder(folder).load(name)[1].items()}


def are_same(ours, theirs):
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[p], theirs[p]) for p in ours)


KILLED_AT_ITS_END = """
import os, signal, sys
from pusa_jax.convert import tables
from pusa_jax.convert.folders import converted as converted_folders
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.files import staging, temporary

at, calls = int(sys.argv[3]), []

def counted(function):
    def call(*given, **named):
        calls.append(function.__name__)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return call

if sys.argv[4] == "no exchange":
    staging.exchanged = lambda one, other: False
for module in (os,):
    for name in ("rename", "unlink", "rmdir"):
        setattr(module, name, counted(getattr(module, name)))
staging.exchanged = counted(staging.exchanged)
convert_folder(sys.argv[1], sys.argv[2], overwrite=True)
"""


NOT_AT_ONCE = [(at, "no exchange") for at in (3, 4, 5)]
"""Before, between and behind two renames, where folders cannot change places in one step."""


@pytest.mark.parametrize(
    ("at", "how"),
    [(1, "exchange"), (2, "exchange"), (3, "exchange"), (9, "exchange"), *NOT_AT_ONCE],
)
def test_old_or_new_is_there_whenever_a_replacement_is_killed(original, tmp_path, at, how):
    dst, file = tmp_path / "dst", original / "Wan2.1_VAE.safetensors"
    convert_folder(file, dst, dtype="bfloat16")
    child = subprocess.run(
        [sys.executable, "-c", KILLED_AT_ITS_END, file, dst, str(at), how],
        cwd=ROOT, timeout=100, capture_output=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    if how == "exchange":
        assert not damage(dst)
    convert_folder(file, dst, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
    assert are_same(loaded(dst, "vae"), loaded(original, "vae"))


def test_what_counts_as_finished_is_whole_and_else_made_again(original, own_converted):
    dst = own_converted
    for harm in (
        lambda: shutil.rmtree(dst / "dit"),
        lambda: flip(largest(dst / "vae"), 1000),
        lambda: next((dst / "tokenizer").iterdir()).unlink(),
        lambda: (dst / "pusa_jax.json").write_text("{"),
        lambda: (dst / "vae" / "tree.json").write_text("{}"),
    ):
        harm()
        assert damage(dst)
        convert_folder(original, dst)
        assert not damage(dst)
    assert are_same(loaded(dst, "vae"), loaded(original, "vae"))


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)


def flip(file, at):
    """Changes one bit; gives back what the file held."""
    data = file.read_bytes()
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return data


def test_a_flipped_byte_of_a_conversion_is_noticed_or_without_effect(converted, own_converted):
    rng = np.random.default_rng(0)
    expected = loaded(converted, "dit"), loaded(converted, "vae")
    files = [path for path in own_converted.rglob("*") if path.is_file()]
    for _ in range(30):
        file = files[rng.integers(len(files))]
        data = flip(file, int(rng.integers(file.stat().st_size)))
        try:
            found = loaded(own_converted, "dit"), loaded(own_converted, "vae")
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and "convert" in str(error)
        else:
            assert all(map(are_same, found, expected))
        file.write_bytes(data)


def test_conversions_without_sums_are_read_as_before(converted, own_converted):
    for file in (own_converted / "pusa_jax.json", *own_converted.glob("*/tree.json")):
        table = json.loads(file.read_text())
        del table["sum"], table["sums"]
        file.write_text(json.dumps(table))
    assert are_same(loaded(own_converted, "vae"), loaded(converted, "vae"))


@pytest.mark.parametrize("entry", ["_class_name", "architectures"])
@pytest.mark.parametrize("value", [None, True, -1, 1e308, [], [[]], {}, {"a": 1}, "x", ["x", 1]])
def test_odd_names_of_classes_are_no_names(original, tmp_path, entry, value):
    folder = shutil.copytree(original, tmp_path / "own")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {entry: value}))
    ModelFolder(folder).check()


@pytest.mark.parametrize("name", ["dit", "vae", "text_encoder"])
def test_a_conversion_that_holds_no_numbers_is_refused_when_it_is_loaded(
    original, tmp_path, monkeypatch, name
):
    plain = tables.Leaf.__getitem__
    chosen = []

    def spoilt(leaf, rows):
        array = np.array(plain(leaf, rows))
        if leaf.source is chosen[0].source and leaf.path == chosen[0].path:
            array.flat[0] = np.nan
        return array

    published = open_published(original)
    chosen.append(published.networks[name].leaves()[0])
    monkeypatch.setattr(converted_folders, "open_published", lambda path: published)
    monkeypatch.setattr(tables.Leaf, "__getitem__", spoilt)
    folder = ModelFolder(convert_folder(original, tmp_path / "dst"))
    for other in folder.names:
        if other != name:
            folder.load(other)
    with pytest.raises(ValueError, match=f"{name}: values of {chosen[0].path} are NaN or infinite"):
        folder.load(name, "float32")
