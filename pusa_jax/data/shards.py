"""The files of a dataset, held against its card before anything of them is opened.

A dataset comes from anywhere. Its JSON files say which classes TFDS is to import and where shards
lie; both are known to us, so they are compared and never followed.

sums.json   size and checksum of every file, and a fingerprint of both ends of every shard, by which
            shards that changed places are known without reading them; missing up to version 0.2
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.files import fingerprints, sums

NAME, SPLIT = "pusa_clips", "train"
"""Name and split that TFDS knows a dataset by."""

INFO, FEATURES, SUMS = "dataset_info.json", "features.json", "sums.json"

ENDS = "ends"
"""Entry of the fingerprints in `SUMS`; a table of its own, which earlier versions pass over."""

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
"""How TFDS makes names of shards, see `shard_name`."""

_CLASSES = "tensorflow_datasets.core.features."


def shard_name(index: int, count: int) -> str:
    """Name of a shard as TFDS expects it."""
    return f"{NAME}-{SPLIT}.array_record-{index:05d}-of-{count:05d}"


def checked_shards(
    folder: Path, clip_shape: Sequence[int], text_dim: int
) -> tuple[list[Path], list[int]]:
    """The shards of a dataset and how many clips each holds; all are there and of their sizes.

    Args:
      folder: of the dataset.
      clip_shape: [F, h, w, C] by its card.
      text_dim: channels of the text features by its card.

    Raises:
      ValueError: a file is missing, damaged, or says something else than the card.
    """
    table = _sums(folder)
    for name, (size, _) in table.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"{path} is missing or cut short; copy it again, or encode again.")
    small = {name: digest for name, (_, digest) in table.items() if not name.startswith(NAME)}
    _refuse(folder, sums.damaged(folder, small))
    ends = _json(folder / SUMS).get(ENDS, {}) if table else {}
    _refuse(folder, [name for name in table if name in ends and _ends(folder / name) != ends[name]])
    _check_features(folder, clip_shape, text_dim)
    lengths = _lengths(folder)
    paths = [folder / shard_name(i, len(lengths)) for i in range(len(lengths))]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(paths)} shards, first {missing[0]}; copy it "
            "again, or encode again."
        )
    return paths, lengths


def check_sums(folder: Path) -> None:
    """Reads every byte of a dataset.

    Raises:
      ValueError: files are missing or have changed since they were written; names the first.
    """
    _refuse(folder, sums.damaged(folder, {name: x[1] for name, x in _sums(folder).items()}))


def write_sums(staging: Path, folder: Path) -> None:
    """Writes the sums of the files in two folders, which become one, to the first."""
    table = {
        path.name: [path.stat().st_size, sums.of_file(path)]
        for place in (folder, staging)
        for path in place.iterdir()
        if path.is_file() and path.name != SUMS and not path.name.startswith(".")
    }
    ends = {name: _ends(folder / name) for name in sorted(table) if name.startswith(NAME)}
    files = {"format": 1, "files": dict(sorted(table.items())), ENDS: ends}
    text = json.dumps(sums.signed(files), indent=1)
    (staging / SUMS).write_text(text + "\n", "utf-8")


def _ends(path: Path) -> str:
    return fingerprints.of_files([path], path.parent)


def _refuse(folder: Path, damaged: list[str]) -> None:
    if damaged:
        raise ValueError(
            f"{folder} is damaged: {len(damaged)} files have changed or are missing, first "
            f"{damaged[0]}; copy it again, or encode again."
        )


def _sums(folder: Path) -> dict[str, tuple[int, str]]:
    if not (folder / SUMS).exists():
        return {}
    table = _json(folder / SUMS)
    files = table.get("files")
    if sums.is_damaged(table) or not all(isinstance(t, dict) for t in (files, table.get(ENDS, {}))):
        raise ValueError(f"{folder / SUMS} is damaged; copy it again, or encode again.")
    assert isinstance(files, dict)
    for name, entry in files.items():
        kinds = [type(value) for value in entry] if isinstance(entry, list) else None
        if Path(name).name != name or kinds != [int, str]:
            raise ValueError(
                f"{folder / SUMS} is damaged: it describes {name!r:.80} as {entry!r:.80}."
            )
    return {name: (size, digest) for name, (size, digest) in files.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error!r:.100}); encode again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no table; encode again.")
    return content


def _lengths(folder: Path) -> list[int]:
    """Clips in each shard by `dataset_info.json`, which must say what we write and nothing else."""
    path = folder / INFO
    info = _json(path)
    splits = info.get("splits")
    split = splits[0] if isinstance(splits, list) and len(splits) == 1 else None
    if not isinstance(split, dict):
        raise ValueError(f"{path} is none of pusa_jax: it must have one split, {SPLIT!r}.")
    for where, found, wanted in (
        ("name", info.get("name"), NAME),
        ("fileFormat", info.get("fileFormat"), "array_record"),
        ("splits.name", split.get("name"), SPLIT),
        ("splits.filepathTemplate", split.get("filepathTemplate", TEMPLATE), TEMPLATE),
    ):
        if found != wanted:
            raise ValueError(
                f"{path} is none of pusa_jax: {where} is {found!r:.80}, not {wanted!r}."
            )
    lengths = split.get("shardLengths", [])
    if not isinstance(lengths, list) or not all(
        isinstance(n, str) and n.isdecimal() and len(n) < 10 for n in lengths
    ):
        raise ValueError(f"{path} is damaged: shardLengths is {lengths!r:.80}.")
    return [int(length) for length in lengths]


def _check_features(folder: Path, clip_shape: Sequence[int], text_dim: int) -> None:
    path, found = folder / FEATURES, _json(folder / FEATURES)
    for where, value, wanted in _differing("", found, _expected(clip_shape, text_dim)):
        raise ValueError(
            f"{path} is none of pusa_jax: {where} is {value!r:.80}, not {wanted!r:.80}."
        )
    ours = sorted(_classes(_expected(clip_shape, text_dim)))
    if odd := sorted({*_classes(found)} - {*ours}) or _classes(found)[len(ours) :]:
        raise ValueError(
            f"{path} is none of pusa_jax: it names {odd[0]!r:.80}; nothing was opened."
        )


def _expected(clip_shape: Sequence[int], text_dim: int) -> dict[str, Any]:
    """What `features.json` says of a dataset of ours."""

    def tensor(*shape: int) -> dict[str, Any]:
        dimensions = {"dimensions": [str(n) for n in shape]}
        tensor = {"dtype": "uint16", "encoding": "bytes", "shape": dimensions}
        return {"pythonClassName": f"{_CLASSES}tensor_feature.Tensor", "tensor": tensor}

    text = {"pythonClassName": f"{_CLASSES}text_feature.Text"}
    features = {"id": text, "caption": text, "latents": tensor(*clip_shape)}
    features |= {"text": tensor(-1, text_dim)}
    top = {"pythonClassName": f"{_CLASSES}features_dict.FeaturesDict"}
    return {**top, "featuresDict": {"features": features}}


def _differing(where: str, found: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    """Entries that are wanted and are not there, or are something else."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name in wanted:
            yield from _differing(f"{where}.{name}".lstrip("."), found.get(name), wanted[name])
    elif found != wanted:
        yield where or "it", found, wanted


def _classes(content: Any) -> list[Any]:
    """All that a table of features names as a class."""
    if isinstance(content, Mapping):
        named = [value for name, value in content.items() if name == "pythonClassName"]
        return named + [name for value in content.values() for name in _classes(value)]
    if isinstance(content, list):
        return [name for value in content for name in _classes(value)]
    return []
