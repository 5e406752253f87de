"""What `pusa-jax info` says: whatever people have, named as what it is."""

import argparse
import json
from pathlib import Path

FRAMES = "settings.json"
"""What a folder of frames holds the settings of its run in."""


def run_info(args: argparse.Namespace) -> int:
    """Prints what a file or folder holds."""
    from pusa_jax.inference import packaged

    print(described(Path(packaged.found(args.path))))
    return 0


def described(path: Path) -> str:
    """What a file or folder holds: settings as JSON, anything else in words.

    Raises:
      FileNotFoundError, ValueError: it is nothing that is known.
    """
    from pusa_jax.convert.files.open import ENDINGS as WEIGHTS
    from pusa_jax.convert.folders.summary import summary
    from pusa_jax.data import lists
    from pusa_jax.media.pictures import PICTURES

    ending = path.suffix.lower()
    if path.is_dir():
        return _folder(path)
    if ending in PICTURES:
        from pusa_jax.media.described import picture_in_words

        return f"{path}: {picture_in_words(path)}"
    if ending in lists.VIDEOS:
        return _clip(path)
    if ending == ".npz":
        return _latents(path)
    if ending in lists.ENDINGS:
        return _list(path)
    if path.is_file() and ending not in (*WEIGHTS, ".json"):
        kinds = (PICTURES, lists.VIDEOS, lists.ENDINGS, WEIGHTS)
        raise ValueError(
            f"{path} is none of the files that are known by their endings: pictures, clips, lists "
            f"of clips, weights ({'; '.join(', '.join(kind) for kind in kinds)})."
        )
    return summary(path)


def _folder(path: Path) -> str:
    from pusa_jax.convert.folders.summary import summary
    from pusa_jax.data import lists
    from pusa_jax.data.shards import INFO
    from pusa_jax.training.finished import is_workdir

    if (path / INFO).is_file():
        return _dataset(path)
    if any((path / name).is_file() for name in lists.LISTS):
        return _list(path)
    if (path / FRAMES).is_file() and (path / "00000.png").is_file():
        return (path / FRAMES).read_text("utf-8").strip()
    if is_workdir(path):
        return f"{path}: workdir of a training run; pusa-jax export --src {path} --dst FOLDER"
    try:
        return summary(path)
    except (FileNotFoundError, ValueError):
        try:
            return _list(path)
        except FileNotFoundError:
            pass
        raise


def _clip(path: Path) -> str:
    from pusa_jax.media import video
    from pusa_jax.media.described import clip_in_words

    words = clip_in_words(path)
    try:
        return json.dumps(video.read_metadata(path), indent=2, ensure_ascii=False)
    except ValueError as error:
        return f"{path}: {words}\n  {error}"


def _latents(path: Path) -> str:
    import zipfile

    import numpy as np

    try:
        with np.load(path) as arrays:
            return json.dumps(json.loads(str(arrays["record"])), indent=2, ensure_ascii=False)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz of pusa-jax ({error!r:.80}).") from None


def _list(path: Path) -> str:
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
    more = [f"  and {len(wrong) - LIMIT} more"] if len(wrong) > LIMIT else []
    usable = len(clips) - len(wrong)
    head = f"{path}: list of {len(clips)} clips with captions, {usable} of them usable so far"
    way = "  pusa-jax encode --model MODEL --src ... makes a dataset of it"
    return "\n".join([head, *wrong[:LIMIT], *more, way])


def _dataset(path: Path) -> str:
    from pusa_jax.data.encoded import EncodedClips

    clips = EncodedClips(path)
    frames, height, width = clips.card.pixels
    return (
        f"{path}: dataset of {len(clips)} encoded clips, {frames} frames of {height}x{width}, "
        f"frame rate {clips.card.frame_rate}\n  pusa-jax data inspect {path} says more"
    )
