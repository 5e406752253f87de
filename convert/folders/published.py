"""Opens a published folder: which networks it holds, in which layout, in which files.

Files are recognised by the tensors they hold, not by their names, so renamed ones work as well; but
the two experts of a model differ in nothing else. They may lie in the folder itself or where a
published layout has them (see `convert.foreign`).
Every file is opened once, and its table of contents serves all that is asked later.
"""

import dataclasses
import functools
import json
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert.files.open import Tensors
from pusa_jax.convert.folders.candidates import (
    Checkpoint,
    checkpoints_in,
    described_files,
    joined,
    main_folder,
)
from pusa_jax.convert.foreign import BOUNDARY, MODEL_INDEX, ForeignNetwork, Layout
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.convert.tables import ConversionError, Leaf, bind
from pusa_jax.files.staging import MARKER
from pusa_jax.listing import listed
from pusa_jax.models.families import FAMILIES
from pusa_jax.models.family import Family, Name, Network
from pusa_jax.progress import PusaWarning
from pusa_jax.weights.streaming import read_to_devices


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PublishedNetwork:
    """One network of a published folder; nothing of it is read yet.

    Attributes:
      name: which network.
      network: how it is built here.
      foreign: how it is published.
      layout: its naming scheme.
      file: the file that was opened: a checkpoint, or the index of its shards.
      source: the tensors in it.
      settings: content of the config.json that belongs to it; empty if there is none.
      dit: the denoiser beside it, if there is one.
    """

    name: Name
    network: Network
    foreign: ForeignNetwork
    layout: Layout
    file: Path
    source: Tensors
    settings: Mapping[str, Any]
    dit: "PublishedNetwork | None"
    _bound: dict[DTypeLike | None, list[Leaf]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def config(self) -> Any:
        """The configuration, read off tensors and settings.

        Raises:
          ValueError: not a network that is supported, or settings that do not fit.
        """
        try:
            config = self.foreign.config_from_source(self.source, self.settings)
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from None
        return self.foreign.beside_dit(config, self.dit.config) if self.dit else config

    def leaves(self, dtype: DTypeLike | None = None) -> list[Leaf]:
        """The leaves, bound to the tensors that fill them and not yet read.

        Raises:
          ValueError: see `config`; a `ConversionError` if tensors are missing, extra or misshaped.
        """
        if dtype not in self._bound:
            try:
                self._bound[dtype] = bind(
                    self.source,
                    self.foreign.rules[self.layout](self.config),
                    self.network.shapes(self.config),
                    ignored=self.foreign.ignored,
                    dtype=dtype,
                )
            except ConversionError as error:
                raise ConversionError(error.violations, str(self.file)) from None
        return self._bound[dtype]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Published:
    """What lies in a published folder.

    Attributes:
      path: the folder, or the single file, that was given.
      family: of the networks.
      networks: those found.
      tokenizer: its folder, if there is one.
      boundary: noise level at which its experts change; None is the family's.
      unreadable: what is wrong with files that were passed over.
    """

    path: Path
    family: Family
    networks: Mapping[Name, PublishedNetwork]
    tokenizer: Path | None
    boundary: float | None = None
    unreadable: tuple[str, ...] = ()

    def config(self, name: Name) -> Any:
        """See `PublishedNetwork.config`."""
        return self.networks[name].config

    def leaves(
        self, names: Iterable[Name] | None = None, dtype: DTypeLike | None = None
    ) -> dict[Name, list[Leaf]]:
        """The leaves of several networks, by default all, bound and not yet read.

        Raises:
          ValueError: see `PublishedNetwork.leaves`; one error names what is wrong in all of them.
        """
        bound: dict[Name, list[Leaf]] = {}
        errors: dict[Path, ConversionError] = {}
        for name in self.networks if names is None else names:
            try:
                bound[name] = self.networks[name].leaves(dtype)
            except ConversionError as error:
                errors[self.networks[name].file] = error
        if len(errors) == 1:
            raise next(iter(errors.values()))
        if errors:
            wrong = [
                (kind, f"{what} in {file.relative_to(_folder(self.path))}")
                for file, error in errors.items()
                for kind, what in error.violations
            ]
            raise ConversionError(wrong, str(self.path))
        return bound

    def check(self, names: Iterable[Name], dtype: DTypeLike | None) -> None:
        """Raises as `leaves` if networks cannot be loaded in a dtype."""
        self.leaves(names, dtype)

    def load(
        self,
        name: Name,
        dtype: DTypeLike | None,
        shardings: Mapping[str, jax.sharding.Sharding],
    ) -> dict[str, jax.Array]:
        """Reads the leaves of a network to where they are to lie; raises as `leaves`."""
        return {
            leaf.path: read_to_devices(leaf.read, leaf.shape, leaf.dtype, shardings.get(leaf.path))
            for leaf in self.networks[name].leaves(dtype)
        }

    def pieces(self, name: Name, path: str) -> Iterator[np.ndarray]:
        """Reads a leaf to the host, of a stack layer by layer; raises as `leaves`."""
        (leaf,) = (leaf for leaf in self.networks[name].leaves() if leaf.path == path)
        rows = range(leaf.shape[0]) if leaf.rule.is_stacked else []
        yield from (leaf[i : i + 1] for i in rows) if rows else [leaf[...]]


def open_published(path: Path) -> Published:
    """Finds the networks and the tokenizer in a folder, or the network in a single file.

    Only tables of contents are read. Of a family whose denoisers lie several in one folder, the
    file of one brings what lies beside it (see `ForeignFamily.beside`).

    Raises:
      FileNotFoundError: no such folder, or no network of a known family in it.
      ValueError: several candidates for one network, networks of two models, one expert without
        the other, a damaged file, or what a killed conversion left.
    """
    if not path.exists():
        raise FileNotFoundError(f"no folder or file {path}.")
    path = main_folder(path)
    if (path / MARKER).is_file():
        raise ValueError(f"{path} is an unfinished conversion; convert again.")
    index = _read_table(path / MODEL_INDEX)
    opened, unreadable = checkpoints_in(path, described_files())
    opened = joined(path, opened)
    found = {name: dict(_recognise(name, path, opened)) for name in FOREIGN}
    # Of families that share an autoencoder or text encoder, the denoiser tells which it is.
    family = max(
        found,
        key=lambda name: (
            bool(found[name]),
            FOREIGN[name].claims(index),
            any(expert in found[name] for expert in FAMILIES[name].experts),
            len(found[name]),
        ),
    )
    if path.is_file():
        found[family] |= _beside(path, family, found[family])
    missing = FAMILIES[family].networks.keys() - found[family].keys()
    for stranger in unreadable:
        if stranger.may_be_needed and missing:
            raise stranger.error
    if not found[family]:
        raise FileNotFoundError(
            f"{path} has no DiT, VAE or text encoder of {', '.join(FOREIGN)} in original or "
            f"Diffusers layout (checkpoint files there: "
            f"{listed([one.file.name for one in opened])})."
        )
    unused: set[Checkpoint] = set()
    if FOREIGN[family].in_both_layouts:
        found[family], unused = _preferred(path, found[family])
    unused |= _take_tuned(path, FOREIGN[family].networks, found[family])
    _check_candidates(path, family, found[family])
    _check_experts(path, family, found[family], bool(index))
    networks: dict[Name, PublishedNetwork] = {}
    experts = FAMILIES[family].experts
    settings = {
        folder: _read_table(folder / "config.json")
        for folder in {one.file.parent for ((one, _),) in found[family].values()}
    }
    for name, ((one, layout),) in found[family].items():
        networks[name] = PublishedNetwork(
            name=name,
            network=FAMILIES[family].networks[name],
            foreign=FOREIGN[family].networks[name],
            layout=layout,
            file=one.file,
            source=one.source,
            settings=_settings_of(name, family, settings[one.file.parent], len(found[family]) == 1),
            dit=next((networks[expert] for expert in experts if expert in networks), None),
        )
    _check_strangers(path, family, found, unused, networks)
    tokenizers = (path / place for place in FOREIGN[family].tokenizer.values())
    return Published(
        path=path,
        family=FAMILIES[family],
        networks=networks,
        tokenizer=next((t for t in tokenizers if _is_tokenizer(t)), None),
        boundary=_boundary(path / MODEL_INDEX, index) if len(experts) > 1 else None,
        unreadable=tuple(str(stranger.error) for stranger in unreadable),
    )


Candidates = list[tuple[Checkpoint, Layout]]
Found = Mapping[Name, Candidates]
"""Network -> the files that hold one."""


def _preferred(path: Path, found: Found) -> tuple[dict[Name, Candidates], set[Checkpoint]]:
    """Of a folder that holds a network in both layouts, the original; and what is not used."""
    kept: dict[Name, Candidates] = {}
    unused: set[Checkpoint] = set()
    for name, candidates in found.items():
        layouts = [layout for _, layout in candidates]
        kept[name] = candidates
        if layouts.count("original") == 1 and len(layouts) > 1:
            kept[name] = [each for each in candidates if each[1] == "original"]
            unused |= {one for one, layout in candidates if layout != "original"}
    if unused:
        names = listed(sorted(str(one.file.relative_to(path)) for one in unused))
        warnings.warn(
            f"{path} holds a model in both layouts; the original is taken, not {names}.",
            PusaWarning,
            stacklevel=2,
        )
    return kept, unused


def _take_tuned(
    path: Path, networks: Mapping[Name, ForeignNetwork], found: dict[Name, Candidates]
) -> set[Checkpoint]:
    """Leaves the published fine-tune of those files that hold one network; returns the others."""
    unused: set[Checkpoint] = set()
    for name, candidates in found.items():
        tuned = [each for each in candidates if each[0].file.name == networks[name].tuned]
        if len(tuned) == 1 and len(candidates) == 2:
            found[name] = tuned
            (base,) = (one for one, _ in candidates if one is not tuned[0][0])
            unused.add(base)
            warnings.warn(
                f"{path} holds {networks[name].tuned} and {base.file.relative_to(path)}; the "
                "former is taken.",
                PusaWarning,
                stacklevel=2,
            )
    return unused


def _beside(path: Path, family: str, found: Found) -> Found:
    """Networks of a published folder that the file of a denoiser in it brings; maybe none."""
    if not any(expert in found for expert in FAMILIES[family].experts):
        return {}
    networks = FOREIGN[family].networks
    places = {file for name in FOREIGN[family].beside for file in networks[name].files.values()}
    files = (path.parent / place for place in sorted(places))
    opened = [one for file in files if file.is_file() for one in checkpoints_in(file, [])[0]]
    wanted = FOREIGN[family].beside
    return {n: ones for n, ones in _recognise(family, path, opened) if n in wanted}


def _check_candidates(path: Path, family: str, found: Found) -> None:
    """Raises ValueError if a network is there twice."""
    for name, candidates in found.items():
        if len(candidates) > 1:
            paths = [str(one.file.relative_to(path)) for one, _ in candidates]
            remedy = (
                "keep one, as in a folder with links to the files of one model; where one network "
                "is enough, give the file itself"
            )
            if FOREIGN[family].beside and name in FAMILIES[family].experts:
                remedy = f"give the file of one, as {path / paths[0]}"
            raise ValueError(
                f"{path} has {len(candidates)} candidates for the {name}: {listed(paths)}; "
                f"{remedy}."
            )


def _check_strangers(
    path: Path,
    family: str,
    found: Mapping[str, Found],
    unused: Collection[Checkpoint],
    networks: Mapping[Name, PublishedNetwork],
) -> None:
    """Raises ValueError if a network lies beside one of another model.

    A denoiser that is not supported, and has a text encoder for that reason, says so itself.
    """
    own = {one: name for name, ((one, _),) in found[family].items()}
    for other, theirs in found.items():
        for name, candidates in theirs.items():
            for one, _ in candidates:
                if one not in own and one not in unused:
                    for expert in FAMILIES[family].experts:
                        _ = expert in networks and networks[expert].config
                    ours, kind = next(iter(own.items()))
                    raise ValueError(
                        f"{path} holds networks of two models: {ours.file.relative_to(path)} is a "
                        f"{kind} of {family}, {one.file.relative_to(path)} a {name} of {other}; "
                        "keep those of one."
                    )


def _check_experts(path: Path, family: str, found: Found, is_model: bool) -> None:
    """Raises ValueError if a folder has some experts of a model, and more of it, but not all."""
    experts = FAMILIES[family].experts
    missing: list[Name] = [name for name in experts if name not in found]
    is_model = is_model or any(name not in experts for name in found)
    if missing and len(missing) < len(experts) and is_model:
        files = FOREIGN[family].networks[missing[0]].files.values()
        places = " or ".join(str(Path(file).parent) for file in files)
        raise ValueError(
            f"{path} lacks an expert of {family}, the {missing[0]}: expected {places} in it."
        )


def _boundary(file: Path, index: Mapping[str, Any]) -> float | None:
    """Where experts change by Diffusers' description of a folder; None if it does not say."""
    value = index.get(BOUNDARY)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{file} has {BOUNDARY}={value!r:.40}, which must be 0 to 1.")
    return float(value)


def _folder(path: Path) -> Path:
    """A folder, or that of a file."""
    return path if path.is_dir() else path.parent


def _is_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def _recognise(
    family: str, path: Path, opened: Iterable[Checkpoint]
) -> Iterator[tuple[Name, list[tuple[Checkpoint, Layout]]]]:
    """Networks of a family, each with the files that hold one; denoisers come first."""
    networks, experts = FOREIGN[family].networks, FAMILIES[family].experts
    for name in sorted(networks, key=lambda name: name not in experts):
        candidates: list[tuple[Checkpoint, Layout]] = []
        for one in opened:
            layout = networks[name].layout_of(one.source)
            if layout and re.fullmatch(networks[name].place, _place(path, one.file)):
                candidates.append((one, layout))
        if candidates:
            yield name, candidates


def _place(path: Path, file: Path) -> str:
    """Where a file lies, with the name of the folder that was given if it is a published one."""
    if path.is_file():
        return file.name
    folder = path.absolute().name
    is_published = any(folder == str(Path(each).parent) for each in described_files())
    return str(Path(folder if is_published else "", file.relative_to(path)))


def _read_table(file: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if it is not there."""
    if not file.is_file():
        return {}
    try:
        table = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error!r:.100}).") from None
    if not isinstance(table, dict):
        raise ValueError(f"{file} is damaged: it is not a table of settings.")
    return table


def _settings_of(
    name: Name, family: str, settings: Mapping[str, Any], is_alone: bool
) -> Mapping[str, Any]:
    """The settings beside a file, if they describe this network.

    In the original layout they lie beside all three files and name the class they belong to;
    without a known class they belong to the only network there is, or else to the DiT.
    """
    listed = settings.get("architectures")
    said = [settings.get("_class_name"), *(listed if isinstance(listed, list) else [])]
    classes = {name for name in said if isinstance(name, str)}
    described = [n for n, one in FOREIGN[family].networks.items() if classes & {*one.classes}]
    described = described or ([name] if is_alone else [*FAMILIES[family].experts])
    return settings if name in described else {}
