"""Our own files of every kind, made once and small, and the commands that read them."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reliability.damage import Outcome, called
from pusa_jax.media import video
from pusa_jax.testing.published import write_published_folder

SIZE = ("--height", 32, "--width", 48, "--num_frames", 5, "--num_inference_steps", 1)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A file or folder to be damaged.

    Attributes:
      name: of it.
      is_ours: whether it has checksums, so that no change may pass.
      argv: command line, given the path and a folder to write to.
      result: what is to be the same, given the outcome and that folder; None for nothing.
    """

    name: str
    is_ours: bool
    argv: Callable[[Path, Path], list[Any]]
    result: Callable[[Outcome, Path], Any] = lambda outcome, folder: None


def content(folder: Path) -> dict[str, str]:
    """Relative path -> sum of all files, but not of texts that tell paths."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".md", ".mp4")
    }


def latents(outcome: Outcome, folder: Path) -> Any:
    """The latents of a video, by their fingerprint."""
    return video.read_metadata(folder / "a.mp4")["latents_sha256"]


def _without_paths(outcome: Outcome, folder: Path) -> str:
    return "\n".join(line for line in outcome.out.splitlines() if "/" not in line)


def _t2v(path: Path, out: Path) -> list[Any]:
    return ["t2v", "--model", path, "--prompt", "a dog", *SIZE, "--no_compilation_cache",
            "--output", out / "a.mp4"]  # fmt: skip


def _train(workdir: Path, *more: str) -> list[Any]:
    return ["train", "--config=debug", f"--workdir={workdir}", "--config.samples.every=0",
            "--config.checkpoint.every=1", "--config.log.every=1", *more]  # fmt: skip


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("converted", True, _t2v, latents),
        Subject("published", False, _t2v),
        Subject("published, to convert", False,
                lambda path, out: ["convert", "--src", path, "--dst", out / "new"]),
        Subject("diffusers", False,
                lambda path, out: ["convert", "--src", path, "--dst", out / "new"]),
        Subject("lora", False, lambda path, out: ["export", "--src", path, "--dst",
                                                  out / "new.safetensors"]),
        Subject("video", False, lambda path, out: ["info", path]),
        Subject("video, again", False, lambda path, out: [
            "rerun", path, "--no_compilation_cache", "--output", out / "a.mp4"]),
        Subject("run", True, lambda path, out: ["export", "--src", path, "--dst", out / "new"],
                lambda outcome, out: content(out / "new")),
        Subject("run, to go on", True, lambda path, out: _train(path, "--config.steps=3"),
                lambda outcome, out: outcome.err.partition("loss")[2].partition(",")[0]),
        Subject("dataset", True, lambda path, out: [
            "data", "inspect", path, "--sheet", out / "sheet.png"], _without_paths),
        Subject("dataset, to train", True, lambda path, out: _train(
            out / "run", "--config.steps=1", f"--config.data.folder={path}",
            "--config.model.vae.num_res_blocks=2"),  # as the VAE that it was encoded with
                lambda outcome, out: outcome.err.partition("loss")[2].partition(",")[0]),
    )
}  # fmt: skip


def make(folder: Path) -> dict[str, Path]:
    """Makes all of them; name of a subject -> its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_published_folder(folder / "published")
    _call("convert", "--src", folder / "published", "--dst", folder / "converted")
    rng, clips = np.random.default_rng(0), folder / "clips"
    for number in range(3):
        frames = rng.integers(0, 256, (9, 32, 48, 3), np.uint8)
        video.write_video(clips / f"{number}.mp4", frames, 16)
    lines = [json.dumps({"file_name": f"{n}.mp4", "text": f"a dog {n}"}) for n in range(3)]
    (clips / "metadata.jsonl").write_text("\n".join(lines))
    _call("encode", "--model", folder / "published", "--src", clips, "--dst", folder / "dataset",
          "--height", 32, "--width", 48, "--num_frames", 9)  # fmt: skip
    _call(*_train(folder / "run", "--config.steps=2"))
    _call("export", "--src", folder / "published", "--dst", folder / "diffusers",
          "--layout", "diffusers")  # fmt: skip
    _call("export", "--src", folder / "run", "--dst", folder / "exported")
    shutil.copy(folder / "exported" / "pusa_lora.safetensors", folder / "lora.safetensors")
    shutil.rmtree(folder / "exported")
    _call(*_t2v(folder / "converted", folder))
    shutil.move(folder / "a.mp4", folder / "video.mp4")
    places = {"lora": "lora.safetensors", "video": "video.mp4"}
    kinds = {name: name.partition(",")[0] for name in SUBJECTS}
    return {name: folder / places.get(kind, kind) for name, kind in kinds.items()}


def _call(*argv: Any) -> None:
    outcome = called(argv)
    if outcome.code != 0:
        raise RuntimeError(f"{argv} ended with {outcome.code}: {outcome.err}")
