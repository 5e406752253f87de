"""`pusa-jax info`: what a file or folder holds, whoever wrote it."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NUMBERS = ("loss", "val_loss")
"""Values of a run's records that are told."""


def run_info(args: argparse.Namespace) -> int:
    """Prints what a file or folder holds."""
    from pusa_jax.inference import packaged

    for line in described(Path(packaged.found(args.path))):
        print(line)
    return 0


def described(path: Path) -> Iterator[str]:
    """Lines about a clip, a picture, a list, a data set, a run, a model or a LoRA.

    Settings are JSON, anything else is in words.

    Raises:
      FileNotFoundError, ValueError: it is none of them, in one line.
    """
    from pusa_jax.convert.files.open import ENDINGS as WEIGHTS
    from pusa_jax.data import lists
    from pusa_jax.media.pictures import PICTURES

    ending = path.suffix.lower()
    if path.is_dir():
        return _folder(path)
    if ending in PICTURES:
        return _picture(path)
    if ending in lists.VIDEOS:
        return _clip(path)
    if ending == ".npz":
        return _latents(path)
    if ending in lists.ENDINGS or path.name == lists.ARRAY:
        return _list(path)
    if path.is_file() and ending not in (*WEIGHTS, ".json"):
        kinds = (PICTURES, lists.VIDEOS, lists.ENDINGS, WEIGHTS)
        raise ValueError(
            f"{path} is none of the files that are known by their endings: pictures, clips, lists "
            f"of clips, weights ({'; '.join(', '.join(kind) for kind in kinds)})."
        )
    return _weights(path)


def _folder(path: Path) -> Iterator[str]:
    from pusa_jax.data import lists
    from pusa_jax.data.shards import INFO
    from pusa_jax.media.outputs import SETTINGS
    from pusa_jax.training.finished import is_workdir

    if (path / INFO).is_file():
        return _dataset(path)
    if any((path / name).is_file() for name in lists.LISTS):
        return _list(path)
    if (path / SETTINGS).is_file():
        return _settings(path)
    if is_workdir(path):
        return _run(path)
    return _model_or_list(path)


def _model_or_list(path: Path) -> Iterator[str]:
    try:
        yield from _weights(path)
    except (FileNotFoundError, ValueError):
        try:
            yield from _list(path)
        except FileNotFoundError:
            pass
        else:
            return
        raise


def _weights(path: Path) -> Iterator[str]:
    from pusa_jax.convert.folders.summary import summary

    yield summary(path)


def _settings(path: Path) -> Iterator[str]:
    from pusa_jax.media.outputs import read_record

    yield json.dumps(read_record(path), indent=2, ensure_ascii=False)


def _picture(path: Path) -> Iterator[str]:
    from pusa_jax.media.described import picture_in_words

    yield f"{path}: {picture_in_words(path)}"


def _clip(path: Path) -> Iterator[str]:
    from pusa_jax.media.described import clip_in_words

    words = clip_in_words(path)
    try:
        yield from _settings(path)
    except ValueError as error:
        yield f"{path}: {words}"
        yield f"  {error}"


def _latents(path: Path) -> Iterator[str]:
    import numpy as np

    from pusa_jax.media.outputs import read_record

    record = read_record(path)
    with np.load(path, allow_pickle=False) as found:
        yield f"latents [B, F, h, w, C] of {list(found['latents'].shape)}, float32, and settings:"
    yield json.dumps(record, indent=2, ensure_ascii=False)


def _list(path: Path) -> Iterator[str]:
    """How many clips a list has, and which of them cannot be used."""
    from pusa_jax.data import lists
    from pusa_jax.listing import LIMIT

    clips = lists.read_clips(path)
    wrong = []
    for clip in clips:
        try:
            clip.find()
        except (FileNotFoundError, ValueError) as error:
            wrong.append(f"  line {clip.line or clip.number + 1}, {clip.name!r}: {error}")
    usable = len(clips) - len(wrong)
    yield f"{path}: list of {len(clips)} clips with captions, {usable} of them usable so far"
    yield from wrong[:LIMIT]
    if len(wrong) > LIMIT:
        yield f"  and {len(wrong) - LIMIT} more"
    yield "  pusa-jax encode --model MODEL --src ... makes a dataset of it"


def _dataset(path: Path) -> Iterator[str]:
    from pusa_jax.data.cards import read_card
    from pusa_jax.data.shards import checked_shards
    from pusa_jax.inference.text_encoder import CLASSES
    from pusa_jax.listing import listed

    card = read_card(path)
    shards, lengths = checked_shards(path, card.clip_shape, card.text_shape[1])
    size = sum(shard.stat().st_size for shard in shards) / 1e9
    frames, height, width = card.pixels
    yield f"{path}: dataset of {sum(lengths)} encoded clips in {len(shards)} shards, {size:.3g} GB"
    yield f"  clips: {frames} frames of {height}x{width}, {card.frame_rate}"
    yield f"  latents [F, h, w, C]: {list(card.clip_shape)}, {card.dtype}"
    yield f"  VAE: {_print_of(card.vae)}"
    if card.text_encoder.get("fingerprint") != CLASSES["fingerprint"]:
        yield f"  text features [L, E]: {list(card.text_shape)}"
        yield f"  text encoder: {_print_of(card.text_encoder)}"
    elif card.classes:
        yield f"  labels: numbers of {len(card.classes)} classes, {listed(card.classes)}"
    else:
        yield f"  labels: {'none' if card.layout else 'numbers of classes, from the list'}"
    yield f"  pusa-jax data inspect {path} reads the clips themselves"


def _print_of(network: Mapping[str, Any]) -> str:
    return f"fingerprint {network.get('fingerprint') or 'not known'}"


def _run(path: Path) -> Iterator[str]:
    from pusa_jax.training.finished import read_result
    from pusa_jax.training.metrics import read_records

    result = read_result(path)
    run, adapter = result.run, result.run.adapter
    steps = ", ".join(map(str, result.checkpoints.steps))
    what = "all weights"
    if adapter is not None:
        what = f"a LoRA of rank {adapter.rank}, alpha {adapter.alpha:g}"
    data = run.data
    yield f"{path}: training run, step {result.step} of {run.steps}; checkpoints of steps {steps}"
    yield f"  trains {what} of {run.model.preset or run.recipe.family.name}, from {result.base}"
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
