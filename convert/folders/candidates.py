"""The checkpoints in a folder: which files are opened, and which strangers are passed over.

A folder may hold what a trainer left beside the weights, what a file system or a browser put there,
and shards under any names. None of it keeps a whole model from being opened.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pusa_jax.convert.files.mapped import FileTensor, FileTensors
from pusa_jax.convert.files.open import ENDINGS, Tensors, open_blocks, open_networks, shards_of
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.listing import listed

SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.(safetensors|bin)")

BLOCK = re.compile(r"(non_)?block(s|[-_]?\d+)?\.safetensors")
"""Files of LightX2V, one for each layer and one for the rest."""

INDEX = ".index.json"

STRANGERS = re.compile(
    r"(?i)(optimizer|optim|scheduler|lr_scheduler|rng_state|random_states|scaler|grad_scaler|"
    r"training_args|training_state|trainer_state|sampler|dataloader|custom_checkpoint|"
    r".*optim_states|mp_rank)([-_.\d].*)?"
)
"""Names, without their endings, of what trainers keep beside weights."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A network that may be one of those looked for.

    Attributes:
      file: a checkpoint, or the index of its shards.
      source: the tensors in it, or those of one of its networks.
    """

    file: Path
    source: Tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stranger:
    """A file that cannot be opened.

    Attributes:
      error: what is wrong with it.
      may_be_needed: it could be the network that is missing, by its name.
    """

    error: OSError | ValueError
    may_be_needed: bool


def described_files() -> list[str]:
    """Where published layouts have the files of networks."""
    families = FOREIGN.values()
    return [file for f in families for n in f.networks.values() for file in n.files.values()]


def main_folder(path: Path) -> Path:
    """The snapshot in a folder of the Hugging Face cache; any other folder itself.

    Raises:
      ValueError: there are several snapshots, and nothing says which is the main one; or it is the
        folder of a whole cache.
    """
    if cached := sorted(each for place in ("", "hub/") for each in path.glob(f"{place}models--*")):
        raise ValueError(
            f"{path} is a cache of Hugging Face; give the folder of one model in it: "
            f"{listed([str(each) for each in cached])}."
        )
    snapshots = path / "snapshots"
    if not snapshots.is_dir() or not (path / "blobs").is_dir():
        return path
    found = sorted(each for each in snapshots.iterdir() if each.is_dir())
    main = path / "refs" / "main"
    if main.is_file() and (chosen := snapshots / main.read_text("utf-8").strip()) in found:
        return chosen
    if len(found) != 1:
        raise ValueError(
            f"{path} is a folder of the Hugging Face cache with {len(found)} snapshots; give one: "
            f"{listed([each.name for each in found])}."
        )
    return found[0]


def checkpoints_in(path: Path, places: Iterable[str]) -> tuple[list[Checkpoint], list[Stranger]]:
    """Opens the checkpoints in a folder and in those of published layouts, or a single file.

    Raises:
      FileNotFoundError, ValueError: what is wrong with a single file.
    """
    if path.is_file():
        return [Checkpoint(file=path, source=source) for source in open_networks(path)], []
    opened: list[Checkpoint] = []
    strangers: list[Stranger] = []
    for where in dict.fromkeys([path, *((path / place).parent for place in places)]):
        files = list(_files(where, strangers))
        blocks = [file for file in files if BLOCK.fullmatch(file.name)]
        blocks = blocks if len(blocks) > 1 else []
        for group in [blocks, *([file] for file in files if file not in blocks)]:
            if not group:
                continue
            file = group[0]
            try:
                found = open_blocks(group) if group is blocks else open_networks(file)
                opened += [Checkpoint(file=file, source=source) for source in found]
            except (OSError, ValueError) as error:
                is_known = bool(STRANGERS.fullmatch(file.name.partition(".")[0]))
                strangers.append(Stranger(error=error, may_be_needed=not is_known))
    return opened, strangers


def joined(path: Path, opened: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Files of which each holds a piece of one network, seen as one file: that of the first piece.

    Raises:
      ValueError: a piece is there twice, or not all pieces are there.
    """
    left = list(opened)
    for network in (n for family in FOREIGN.values() for n in family.networks.values()):
        holders = {
            piece: [one for one in left if mark in one.source.tensors]
            for piece, mark in network.pieces.items()
        }
        if not any(holders.values()):
            continue
        for piece, ones in holders.items():
            if len(ones) != 1:
                have = listed([str(one.file.relative_to(path)) for one in ones]) or "none"
                raise ValueError(f"{path} must have one {piece}.safetensors, it has {have}.")
        pieces = {piece: one for piece, (one,) in holders.items()}
        entries: dict[str, FileTensor] = {}
        for piece, one in pieces.items():
            if not isinstance(one.source, FileTensors):
                raise ValueError(f"{one.file} is a packed {piece}; use the published one.")
            entries |= {f"{piece}.{name}": each for name, each in one.source.entries.items()}
        left = [one for one in left if one not in pieces.values()]
        left.append(Checkpoint(file=next(iter(pieces.values())).file, source=FileTensors(entries)))
    return left


def _files(where: Path, strangers: list[Stranger]) -> Iterator[Path]:
    """Files of one folder that may be checkpoints; shards count as their index."""
    shards: set[str] = set()
    files = sorted(each for each in where.glob("*") if not each.name.startswith("."))
    for index in (each for each in files if each.name.endswith(INDEX)):
        try:
            shards |= set(shards_of(index).values())
        except ValueError as error:
            strangers.append(Stranger(error=error, may_be_needed=True))
        else:
            yield index
    for file in files:
        if file.suffix.lower() not in ENDINGS or file.name in shards or file.is_dir():
            continue
        if shard := SHARD.fullmatch(file.name):
            index = where / f"{shard[1]}.{shard[2]}{INDEX}"
            error = FileNotFoundError(f"{file} is one of several shards, but {index} is missing.")
            strangers.append(Stranger(error=error, may_be_needed=True))
        else:
            yield file
