"""`pusa-jax info`: what a file or folder holds, whichever of the commands wrote or reads it."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run_info(args: argparse.Namespace) -> int:
    """Prints what a file or folder holds."""
    from pusa_jax.inference import packaged

    for line in described(Path(packaged.found(args.path))):
        print(line)
    return 0


def described(path: Path) -> Iterator[str]:
    """Lines about a clip, a picture, a data set, a run, a model or a LoRA.

    Raises:
      FileNotFoundError, ValueError: none of them, in one line.
    """
    from pusa_jax.media.outputs import SETTINGS, read_record
    from pusa_jax.training.workdir import CHECKPOINTS

    ending = path.suffix.lower()
    if path.is_dir() and (path / CHECKPOINTS).is_dir():
        return _run(path)
    if path.is_dir() and (path / "metadata.json").is_file():
        return _dataset(path)
    if path.is_file() and ending == ".npz":
        return _latents(path)
    if path.is_file() and ending in PICTURES:
        return _picture(path)
    if path.is_file() and ending in CLIPS:
        return _clip(path)
    if ending == ".mp4" or (path / SETTINGS).is_file():
        return iter([json.dumps(read_record(path), indent=2, ensure_ascii=False)])
    from pusa_jax.convert.folders.summary import summary

    return iter([summary(path)])


PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
CLIPS = {".gif", ".webm", ".mov", ".mkv", ".avi", ".m4v"}
"""Endings of files that hold pixels and no settings."""


def _picture(path: Path) -> Iterator[str]:
    from pusa_jax.media import video

    height, width, _ = video.read_image(path).shape
    yield f"picture {path}, {height}x{width}; it carries no settings"


def _clip(path: Path) -> Iterator[str]:
    from pusa_jax.media import video

    frames, rate = video.read_video(path, 1)
    height, width = frames.shape[1:3]
    yield (
        f"clip {path}, {video.video_length(path)} frames of {height}x{width} at {rate:g} a second; "
        "it carries no settings (.mp4, .npz and folders of pictures do)"
    )


def _latents(path: Path) -> Iterator[str]:
    import numpy as np

    from pusa_jax.media.outputs import read_record

    record = read_record(path)
    with np.load(path, allow_pickle=False) as found:
        yield f"latents [B, F, h, w, C] of {list(found['latents'].shape)}, float32, and settings:"
    yield json.dumps(record, indent=2, ensure_ascii=False)


def _dataset(path: Path) -> Iterator[str]:
    from pusa_jax.data.cards import read_card
    from pusa_jax.data.shards import checked_shards

    card = read_card(path)
    shards, lengths = checked_shards(path, card.clip_shape, card.text_shape[1])
    size = sum(shard.stat().st_size for shard in shards) / 1e9
    frames, height, width = card.pixels
    yield f"data set {path}: {sum(lengths)} clips in {len(shards)} shards, {size:.3g} GB"
    yield f"  clips: {frames} frames of {height}x{width}, {card.frame_rate}"
    yield f"  latents [F, h, w, C]: {list(card.clip_shape)}, {card.dtype}"
    yield f"  text features [L, E]: {list(card.text_shape)}"
    for name, network in (("VAE", card.vae), ("text encoder", card.text_encoder)):
        yield f"  {name}: fingerprint {network.get('fingerprint') or 'not known'}"
    yield f"  pusa-jax data inspect {path} reads the clips themselves"


def _run(path: Path) -> Iterator[str]:
    from pusa_jax.training.finished import read_result
    from pusa_jax.training.metrics import read_records

    result = read_result(path)
    run, adapter = result.run, result.run.adapter
    steps = ", ".join(map(str, result.checkpoints.steps))
    what = (
        "all weights"
        if adapter is None
        else (f"a LoRA of rank {adapter.rank}, alpha {adapter.alpha:g}")
    )
    model = run.model.preset or run.recipe.family.name
    data = run.data
    yield f"run {path}: step {result.step} of {run.steps}; checkpoints of steps {steps}"
    yield f"  trains {what} of {model}, from {result.base}"
    yield (
        f"  clips: {data.folder}, {data.batch_size} a step of {data.num_frames} frames of "
        f"{data.height}x{data.width}"
    )
    last: dict[str, Any] = {}
    for record in read_records(path / "metrics.jsonl"):
        last |= {name: (record["step"], record[name]) for name in NUMBERS if name in record}
    for name, (step, value) in last.items():
        yield f"  {name} {value:.4f} at step {step}"
    yield f"  pusa-jax export --src {path} --dst FOLDER writes what it has trained"


NUMBERS = ("loss", "val_loss")
"""Values of a run's records that are told."""
