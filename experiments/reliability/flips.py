"""Flips single bits of what we write and reads it again: `python -m experiments.reliability.flips`.

Prints how often that was told, how often it changed nothing that is read, and how often other
values came back without a word. Exit code 1 if that ever happened.
"""

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.reliability.damage import drawn
from pusa_jax.cli.printing import quiet_libraries
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data.encoded import (
    Card,
    EncodedClips,
    Example,
    serialized,
    write_metadata,
    write_records,
)
from pusa_jax.data.shards import shard_name
from pusa_jax.devices.compile_cache import SealedPrograms
from pusa_jax.testing.published import write_published_folder
from pusa_jax.training.checkpoints import RunCheckpoints

STATE = {
    "params": {f"layer{i}": np.random.default_rng(i).standard_normal((16, 64), np.float32)
               for i in range(6)},
    "key": jax.random.key(3),
}  # fmt: skip


def _checkpoint(folder: Path) -> None:
    checkpoints = RunCheckpoints(folder, keep_last=1)
    checkpoints.save(10, STATE, {"step": 10, "config": {"seed": 3}})
    checkpoints.close()


def _read_checkpoint(folder: Path) -> Any:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), STATE)
    checkpoints = RunCheckpoints(folder, keep_last=0)
    state = checkpoints.restore(10, shapes)
    state["key"] = jax.random.key_data(state["key"])
    values = {name: x for name, x in checkpoints.info(10).items() if not name.startswith("sum")}
    return jax.tree.map(lambda x: np.asarray(x).tolist(), (state, values))


def _converted(folder: Path) -> None:
    write_published_folder(folder.with_name("published"))
    convert_folder(folder.with_name("published"), folder)


def _read_converted(folder: Path) -> Any:
    model = ModelFolder(folder)
    leaves = {name: model.load(name)[1] for name in ("vae", "text_encoder")}
    tokenizer = {path.name: path.read_bytes() for path in model.tokenizer().iterdir()}
    return jax.tree.map(lambda x: np.asarray(x).tobytes(), leaves), tokenizer


def _example(i: int) -> Example:
    rng = np.random.default_rng(i)
    latents = rng.standard_normal((3, 4, 6, 16)).astype("bfloat16")
    text = rng.standard_normal((5, 12)).astype("bfloat16")
    return Example(name=f"{i}.mp4", caption=f"clip {i}", latents=latents, text=text)


def _dataset(folder: Path) -> None:
    folder.mkdir()
    records = [serialized(_example(i)) for i in range(8)]
    for i in range(2):
        write_records(folder / shard_name(i, 2), records[4 * i : 4 * i + 4])
    coder = {"config": {}, "fingerprint": ""}
    card = Card(
        clip_shape=(3, 4, 6, 16), text_shape=(8, 12), pixels=(9, 32, 48), vae=coder,
        text_encoder=coder, clips="", clips_per_shard=4,
    )  # fmt: skip
    np.save(folder / "no_text.npy", np.zeros((1, 12), np.uint16))
    write_metadata(folder, card, [4, 4], sum(map(len, records)), folder / "staging")


def _read_dataset(folder: Path) -> Any:
    clips = EncodedClips(folder)
    batch = clips.at(range(len(clips)))
    return batch["id"], batch["latents"].tobytes(), batch["text"].tobytes(), clips.no_text.tobytes()


def _programs(folder: Path) -> None:
    folder.mkdir()
    programs = SealedPrograms(folder, lambda file: None)
    for i in range(6):  # as jax hands them over: packed, and of any size
        programs.put(f"jit_step-{i}", np.random.default_rng(i).bytes(5000 * i + 100))


def _read_programs(folder: Path) -> Any:
    dropped: list[Path] = []
    programs = SealedPrograms(folder, dropped.append)
    found = [programs.get(f"jit_step-{i}") for i in range(6)]
    if dropped:
        assert not any(file.exists() for file in dropped)
        raise ValueError(f"{dropped} would be compiled again")
    return found


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "checkpoint": (_checkpoint, _read_checkpoint),
    "converted folder": (_converted, _read_converted),
    "dataset": (_dataset, _read_dataset),
    "programs": (_programs, _read_programs),
}


def run(top: Path, count: int, seed: int) -> int:
    """Flips so many bits in each kind of store; returns how many were never noticed."""
    rng, silent_in_all = np.random.default_rng(seed), 0
    print("| store | flips | told | without effect | silently wrong |\n|---|---|---|---|---|")
    for name, (make, read) in KINDS.items():
        path = top / name.split()[0]
        make(path)
        whole, told, silent = read(path), 0, 0
        kept = path.with_name("kept")
        path.rename(kept)
        for _ in range(count):
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(kept, path)
            done = drawn(rng, ["bit"]).apply(path)
            try:
                found = read(path)
            except (ValueError, OSError):
                told += 1
                continue
            if found != whole:
                silent += 1
                print(f"  {name}: {done} changed what was read")
        shutil.rmtree(kept)
        silent_in_all += silent
        print(f"| {name} | {count} | {told} | {count - told - silent} | {silent} |", flush=True)
    return silent_in_all


def cli() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="flips per kind of store")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    quiet_libraries(until_exit=True)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        return int(run(Path(folder), args.count, args.seed) > 0)


if __name__ == "__main__":
    raise SystemExit(cli())
