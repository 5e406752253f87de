"""How fast a published checkpoint converts, and how much memory converting and loading take.

    python -m experiments.convert_rate --scratch /folder/with/20/GB

Writes a checkpoint of a preset's DiT in the published float32 layout (random values, several shards
and an index), and then, each in a process of its own: copies it, converts it, and loads both the
original and the conversion onto a mesh of 8 simulated devices. What was written is deleted. Times
end when all bytes are on disk. The devices' memory is the host's here, so what the shards take is
subtracted. With several tries, the quickest copy stands beside the quickest conversion.

Targets: conversion at half the rate of copying or better, within 3 GiB; loading within 2 GiB above
the shards. The preset `wan2.1-t2v-14b` needs 120 GB.
"""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SHARDS = 3
RANDOM_BLOCK = 2**24
"""Values that all tensors are cut from; drawing all of them would take longer than the rest."""

GIB = 2**30


def write_checkpoint(folder: Path, preset_name: str) -> None:
    """Writes shards, index and config.json as published."""
    from pusa_jax.convert.files.safetensors import write_safetensors
    from pusa_jax.convert.tables import Index, LeafTensors, TensorInfo
    from pusa_jax.convert.wan import dit
    from pusa_jax.models.families import preset

    @dataclasses.dataclass(frozen=True)
    class Random:
        """Tensors of a block of random values, repeated from a different place in each."""

        tensors: Mapping[str, TensorInfo]
        block: np.ndarray

        def read(self, name: str, index: Index | None = None) -> np.ndarray:
            """One tensor."""
            shape = self.tensors[name].shape
            size, start = int(np.prod(shape)), 977 * len(name) + ord(name[-8])
            return np.resize(np.roll(self.block[: max(size, 4096)], start), shape)[index or ...]

    config, networks = preset(preset_name).dit, preset(preset_name).family.networks
    tensors = LeafTensors(networks["dit"].shapes(config), dit.original_rules(config)).tensors
    block = np.random.default_rng(0).standard_normal(RANDOM_BLOCK, np.float32)
    source, names = Random(tensors, block), list(tensors)
    weight_map = {}
    per_shard = -(-len(names) // SHARDS)
    for k in range(SHARDS):
        file = f"diffusion_pytorch_model-{k + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[k * per_shard : (k + 1) * per_shard]
        write_safetensors(folder / file, source, part)
        weight_map |= dict.fromkeys(part, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    settings = {"_class_name": "WanModel", "dim": config.dim, "num_heads": config.num_heads}
    (folder / "config.json").write_text(json.dumps(settings | {"text_len": config.text_len}))
    flush(folder)


def flush(folder: Path) -> None:
    """Waits until every file of a folder is on disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def copy(src: Path, dst: Path) -> dict[str, float]:
    """Copies a folder; seconds."""
    since = time.perf_counter()
    shutil.copytree(src, dst)
    flush(dst)
    return {"seconds": time.perf_counter() - since}


def convert(src: Path, dst: Path) -> dict[str, float]:
    """Converts a folder; seconds and peak memory of this process."""
    from pusa_jax.convert.folders.converted import convert_folder

    since = time.perf_counter()
    convert_folder(src, dst)
    flush(dst)
    return {"seconds": time.perf_counter() - since, "peak_gib": peak_gib()}


def load(src: Path) -> dict[str, float]:
    """Loads a folder onto 8 devices; seconds, peak memory and what the shards take of it."""
    import functools

    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from pusa_jax.convert.folders.opened import ModelFolder
    from pusa_jax.devices.sharding import make_mesh, shardings
    from pusa_jax.models.wan import sharding

    mesh = make_mesh({"data": 2, "context": 4})
    since = time.perf_counter()
    shard = functools.partial(shardings, rules=sharding.DIT, mesh=mesh)
    _, leaves = ModelFolder(src).load("dit", shard=shard)
    jax.block_until_ready(leaves)
    shards = sum(s.data.nbytes for leaf in leaves.values() for s in leaf.addressable_shards)
    return {
        "seconds": time.perf_counter() - since,
        "peak_gib": peak_gib(),
        "shards_gib": shards / GIB,
        "above_gib": peak_gib() - shards / GIB,
    }


def peak_gib() -> float:
    """Largest memory this process has had, files mapped into it included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_child(*words: object) -> dict[str, float]:
    """Runs one step in a process of its own."""
    command = [sys.executable, "-m", "experiments.convert_rate", "--step", *map(str, words)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


STEPS = {"copy": copy, "convert": convert, "load": load}


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--preset", default="wan2.1-t2v-1.3b")
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        name, *paths = args.step
        print(json.dumps(STEPS[name](*map(Path, paths))))
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        src, dst = Path(scratch) / "published", Path(scratch) / "out"
        src.mkdir()
        write_checkpoint(src, args.preset)
        size = sum(file.stat().st_size for file in src.iterdir())
        if (free := shutil.disk_usage(scratch).free) < 1.1 * size:
            raise SystemExit(
                f"{args.scratch} has {free / 1e9:.0f} GB left, {size / 1e9:.0f} needed."
            )
        copies, conversions = [], []
        for _ in range(args.tries):
            copies.append(in_child("copy", src, dst))
            shutil.rmtree(dst)
            conversions.append(in_child("convert", src, dst))
            if len(conversions) < args.tries:
                shutil.rmtree(dst)
        report = {
            "gb": size / 1e9,
            "copies": copies,
            "conversions": conversions,
            "conversion_rate_over_copy_rate": min(c["seconds"] for c in copies)
            / min(c["seconds"] for c in conversions),
            "load_published": in_child("load", src),
            "load_converted": in_child("load", dst),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
