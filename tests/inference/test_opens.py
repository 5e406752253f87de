"""How often one run of the command line opens the files of its model, LoRA file and inputs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.demo import shipped
from pusa_jax.media.video import write_png

pytestmark = pytest.mark.long

MOST = 12

CHILD = """
import collections, json, os, sys

given = [os.path.realpath(path) for path in sys.argv[1].split(os.pathsep)]
opened = collections.Counter()

def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if any(path == one or path.startswith(one + os.sep) for one in given):
            opened[path] += 1

sys.addaudithook(watch)
from pusa_jax.cli.main import main

code = main(sys.argv[2:])
print(json.dumps(opened))
sys.exit(code)
"""
"""Counts `open` events of Python by path: `open`, `os.open`, `Path.read_text`. Every mapping of a
file begins with one, as `mmap` takes a descriptor. Not counted is what native code opens by itself:
the tokenizer (read once, from one file) and the chunks of a converted folder (tensorstore), which
Python opens once each, for their sums."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A published and a converted folder of the tiny model, its LoRA file and an image."""
    folder = tmp_path_factory.mktemp("opens")
    lora = folder / "lora.safetensors"
    shutil.copytree(shipped.FOLDER, folder / "published")
    shutil.copy(shipped.LORA[0], lora)
    (folder / "published" / Path(shipped.LORA[0]).name).unlink()
    convert_folder(folder / "published", folder / "converted")
    write_png(folder / "image.png", np.zeros((16, 16, 3), np.uint8))
    return folder


@pytest.mark.parametrize("model", ["published", "converted"])
def test_an_image_becomes_a_video_with_few_opens(files, tmp_path, model):
    lora, image = files / "lora.safetensors", files / "image.png"
    line = f"i2v --model {files / model} --lora_path {lora} --image_paths {image} --prompt dog"
    line += " --height 16 --width 16 --num_frames 5 --num_inference_steps 1 --dtype float32"
    words = [*line.split(), "--output", str(tmp_path / "x.mp4"), "--no_compilation_cache"]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, f"{files / model}:{lora}", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    opened = json.loads(child.stdout.splitlines()[-1])
    # What a converted folder holds is opened once for its sums; Orbax reads its own tables as well.
    parts = {path: n for path, n in opened.items() if re.search(r"/converted/\w+/\d+/", path)}
    often = {path for path, n in parts.items() if n > 1 and not Path(path).name.startswith("_")}
    assert bool(parts) == (model == "converted") and not often
    assert sum(n for path, n in opened.items() if path not in parts) <= MOST, opened
    tables = {"config.json", "pusa_jax.json", "tree.json"}
    often = {path: n for path, n in opened.items() if n > 1 and Path(path).name in tables}
    assert not often
    # Table of contents, mapping; of what travels in the video as a fingerprint, sha256.
    assert opened[str(lora)] == 3
    assert all(n <= 2 for path, n in opened.items() if path != str(lora))


def test_training_opens_its_model_once(files, tmp_path):
    sizes = "steps=2 data.batch_size=1 data.height=48 data.width=48 samples.every=2 log.every=1"
    line = f"train --config=debug --workdir={tmp_path} --config.model.weights={files / 'published'}"
    words = [*line.split(), *(f"--config.{one}" for one in sizes.split()), "--config.mesh.data=1"]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(files / "published"), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    opened = json.loads(child.stdout.splitlines()[-1])
    assert sum(opened.values()) <= MOST, opened
    tables = {path: n for path, n in opened.items() if Path(path).suffix == ".json"}
    assert tables and all(n == 1 for n in tables.values()), tables
