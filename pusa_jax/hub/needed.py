"""Which files of a repository are fetched: those that `convert.folders` reads, each once.

A repository in a published layout gives the files of its networks, the tables beside them and the
tokenizer; pictures, examples, the other layout and second copies of the same weights (`.pth` or
`.bin` beside `.safetensors`, `.fp16` beside the whole) stay where they are. Of any other repository
all checkpoints are taken if they are few; of many, one has to be named.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal

from pusa_jax.convert.files.open import ENDINGS, GGUF, SAFETENSORS
from pusa_jax.convert.folders.candidates import BLOCK, INDEX, described_files
from pusa_jax.convert.foreign import MODEL_INDEX, ForeignFamily, ForeignNetwork, Layout
from pusa_jax.convert.lora import FOLDER_FILES
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.listing import listed

Kind = Literal["model", "lora", "loras"]
"""What is looked for: a model or anything else, one LoRA file, or a folder of one for each expert.
"""

FEW = 8
"""Checkpoints of a repository in no known layout that are all fetched."""

TABLES = (".json", ".model", ".txt")
"""Endings of settings and of tokenizers."""

VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema|non_ema)$")

Groups = Mapping[tuple[str, str], Sequence[str]]
"""(folder, name without ending, number of shard and variant) -> the files of one checkpoint."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needed:
    """What is fetched.

    Attributes:
      files: in the repository.
      path: of them, what is opened: a file, a folder, or empty for the whole.
    """

    files: tuple[str, ...]
    path: str = ""


def needed(files: Iterable[str], inside: str = "", kind: Kind = "model") -> Needed:
    """The files of a repository that are fetched.

    Args:
      files: all it has.
      inside: a file or folder in it; empty for all.
      kind: what is looked for.

    Raises:
      FileNotFoundError: it has nothing of that name, or no checkpoint.
      ValueError: it has many, and none is named.
    """
    files = sorted(files)
    if inside in files:
        return Needed(files=_with_tables(files, [inside, *_shards(files, inside)]), path=inside)
    here = [file for file in files if not inside or file.startswith(f"{inside}/")]
    if not here:
        there = [file for file in files if _is_checkpoint(file)]
        near = [file for file in there if PurePosixPath(inside).name.lower() in file.lower()]
        raise FileNotFoundError(f"no file or folder {inside}; it has {listed(near or there, 5)}")
    depth = len(inside) + 1 if inside else 0
    found = _in_folder([file[depth:] for file in here], kind)
    before = f"{inside}/" * bool(inside)
    return Needed(
        files=tuple(before + file for file in found.files), path=(before + found.path).strip("/")
    )


def _in_folder(files: Sequence[str], kind: Kind) -> Needed:
    groups = _grouped(files)
    if kind == "model" and (whole := _published(files, groups)):
        return Needed(files=tuple(whole))
    if lora := next((name for name in FOLDER_FILES if name in files), None):
        return Needed(files=_with_tables(files, [lora]))
    places = {str(PurePosixPath(file).parent) for file in described_files()} | {"."}
    near = {key: group for key, group in groups.items() if key[0] in places} or groups
    if not near:
        raise FileNotFoundError(f"no checkpoint; it has {listed(files, 5)}")
    chosen = [file for group in near.values() for file in group]
    if len(near) == 1 and len(chosen) == 1:
        return Needed(files=_with_tables(files, chosen), path=chosen[0])
    if kind == "lora" or len(near) > FEW:
        raise ValueError(
            f"{len(near)} checkpoints, of which one has to be named: {listed(chosen, 5)}"
        )
    return Needed(files=_with_tables(files, [*chosen, *_tokenizers(files)]))


def _published(files: Sequence[str], groups: Groups) -> list[str]:
    """The files of the published layout that the most networks are there in; else none."""
    best: list[str] = []
    most = 0
    layouts: tuple[Layout, ...] = ("original", "diffusers")  # the former where there are both
    for layout in layouts:
        for family in FOREIGN.values():
            keys = [_keys(network, layout) for network in family.networks.values()]
            found = [[groups[key] for key in each if key in groups] for each in keys]
            is_whole = all(len(a) == len(b) for a, b in zip(found, keys, strict=True))
            if not all(keys) or not is_whole or len(found) <= most:
                continue
            most = len(found)
            checkpoints = [file for each in found for group in each for file in group]
            for network in family.networks.values():
                if network.tuned in files:
                    checkpoints.append(network.tuned)
            tokenizer = _tokenizers(files, family)
            best = list(_with_tables(files, [*checkpoints, *tokenizer]))
    return best


def _keys(network: ForeignNetwork, layout: Layout) -> list[tuple[str, str]]:
    """Where a layout has a network; empty if it has none."""
    file = network.files.get(layout)
    if file is None:
        return []
    names = [file.replace("{piece}", piece) for piece in network.pieces or ("",)]
    return list(dict.fromkeys(_key(name) for name in names))


def _key(file: str) -> tuple[str, str]:
    path = PurePosixPath(file)
    if BLOCK.fullmatch(path.name):
        return str(path.parent), "blocks"
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    return str(path.parent), VARIANT.sub("", stem).removeprefix("pytorch_")


def _grouped(files: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """The checkpoints there are, each in one form: the first of `_rank`."""
    forms: dict[tuple[str, str], dict[tuple[int, str], list[str]]] = {}
    for file in files:
        if _is_checkpoint(file):
            forms.setdefault(_key(file), {}).setdefault(_rank(file), []).append(file)
    return {key: min(ranked.items())[1] for key, ranked in forms.items()}


def _rank(file: str) -> tuple[int, str]:
    """What is taken of several forms of one checkpoint: safetensors, and the whole precision."""
    path = PurePosixPath(file)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    endings = (*SAFETENSORS, GGUF)
    variant = VARIANT.search(stem)
    place = endings.index(path.suffix) if path.suffix in endings else len(endings)
    return place, variant[0] if variant else ""


def _is_checkpoint(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in ENDINGS


def _shards(files: Iterable[str], index: str) -> list[str]:
    """The files that an index lists, by their names."""
    if not index.endswith(INDEX):
        return []
    stem, _, ending = index.removesuffix(INDEX).rpartition(".")
    pattern = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-\d{{5}}\.{re.escape(ending)}")
    return [file for file in files if pattern.fullmatch(file)]


def _with_tables(files: Sequence[str], chosen: Iterable[str]) -> tuple[str, ...]:
    """Chosen files with the tables beside them, and the index of a Diffusers folder."""
    wanted = dict.fromkeys(chosen)
    folders = {str(PurePosixPath(file).parent) for file in wanted}
    for file in files:
        path = PurePosixPath(file)
        if path.suffix != ".json" or not (str(path.parent) in folders or file == MODEL_INDEX):
            continue
        if file.endswith(INDEX) and not _is_listed_whole(files, file, wanted):
            continue
        wanted[file] = None
    return tuple(wanted)


def _is_listed_whole(files: Iterable[str], index: str, chosen: Collection[str]) -> bool:
    """Whether all shards of an index are among the chosen files."""
    shards = _shards(files, index)
    return bool(shards) and all(shard in chosen for shard in shards)


def _tokenizers(files: Iterable[str], family: ForeignFamily | None = None) -> list[str]:
    families = FOREIGN.values() if family is None else (family,)
    places = {place for each in families for place in each.tokenizer.values()}
    return [
        file
        for file in files
        if str(PurePosixPath(file).parent) in places and PurePosixPath(file).suffix in TABLES
    ]
