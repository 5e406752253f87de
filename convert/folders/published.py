"""Finds out what lies in a published folder: which networks, in which layout, in which files.

Files are recognised by the tensors they hold, not by their names, so renamed ones work as well.

    original:   diffusion_pytorch_model*.safetensors, Wan2.1_VAE.pth, models_t5_umt5-xxl-*.pth,
                config.json, google/umt5-xxl/
    Diffusers:  transformer/, vae/, text_encoder/, tokenizer/
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from pusa_jax.convert.files.mapped import FileTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.networks import COMPONENTS, Config, Layout, Name
from pusa_jax.convert.tables import ConversionError, Leaf, bind
from pusa_jax.files.staging import MARKER

SUBFOLDERS = ("transformer", "vae", "text_encoder")
"""Where the Diffusers layout keeps networks."""

TOKENIZERS = ("google/umt5-xxl", "tokenizer")
"""Where the two layouts keep the tokenizer."""

SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors")

TWO_EXPERTS = ("high_noise_model", "low_noise_model", "transformer_2")
"""Subfolders that only Wan2.2 pipelines with two DiTs have."""

_CLASSES: Mapping[str, Name] = {
    "WanModel": "dit", "WanTransformer3DModel": "dit", "AutoencoderKLWan": "vae",
    "UMT5EncoderModel": "text_encoder",
}  # fmt: skip
"""Class named in a config.json -> network it describes."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One network of a published folder.

    Attributes:
      name: which network.
      layout: its naming scheme.
      file: the file to open: a checkpoint, or the index of its shards.
      settings: content of the config.json that belongs to it; empty if there is none.
    """

    name: Name
    layout: Layout
    file: Path
    settings: Mapping[str, Any]

    def config(self) -> Config:
        """The configuration, read off tensors and settings.

        Raises:
          ValueError: not a network that is supported, or settings that do not fit.
        """
        try:
            return COMPONENTS[self.name].config_from_source(open_tensors(self.file), self.settings)
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from None

    def leaves(self, dtype: DTypeLike | None = None) -> list[Leaf]:
        """The leaves, bound to the tensors that fill them and not yet read.

        Raises:
          ValueError: see `config`; a `ConversionError` if tensors are missing, extra or misshaped.
        """
        config, component = self.config(), COMPONENTS[self.name]
        try:
            return bind(
                open_tensors(self.file),
                component.rules[self.layout](config),
                component.shapes(config),
                ignored=component.ignored,
                dtype=dtype,
            )
        except ConversionError as error:
            raise ConversionError(error.violations, str(self.file)) from None

    def sizes(self) -> dict[str, int]:
        """Name and bytes of the files that hold the tensors."""
        places = {stored.path for stored in open_tensors(self.file).stored.values()}
        return {path.name: path.stat().st_size for path in sorted(places)}


@dataclasses.dataclass(frozen=True)
class Published:
    """What lies in a published folder.

    Attributes:
      folder: the folder, or the single file, that was given.
      parts: the networks found.
      tokenizer: folder of the tokenizer, if there is one.
    """

    folder: Path
    parts: Mapping[Name, Part]
    tokenizer: Path | None

    def part(self, name: Name) -> Part:
        """One network.

        Raises:
          FileNotFoundError: it is not there; the message says what is.
        """
        if name not in self.parts:
            raise FileNotFoundError(f"{self.folder} has no {name}; it has {', '.join(self.parts)}.")
        return self.parts[name]

    def leaves(
        self, names: Iterable[Name] | None = None, dtype: DTypeLike | None = None
    ) -> dict[Name, list[Leaf]]:
        """The leaves of several networks, by default all, bound and not yet read.

        Raises:
          FileNotFoundError: a network is not there.
          ValueError: see `Part.config`; a `ConversionError` names what is wrong in all of them.
        """
        bound: dict[Name, list[Leaf]] = {}
        errors: dict[Path, ConversionError] = {}
        for part in map(self.part, self.parts if names is None else names):
            try:
                bound[part.name] = part.leaves(dtype)
            except ConversionError as error:
                errors[part.file] = error
        if len(errors) == 1:
            raise next(iter(errors.values()))
        if errors:
            wrong = [
                (kind, f"{what} in {file.relative_to(self.folder)}")
                for file, error in errors.items()
                for kind, what in error.violations
            ]
            raise ConversionError(wrong, str(self.folder))
        return bound


def inspect(folder: Path) -> Published:
    """Finds the networks and the tokenizer in a folder, or the network in a single file.

    Only tables of contents are read.

    Raises:
      FileNotFoundError: no such folder, or no network of a Wan2.1 pipeline in it.
      ValueError: several candidates for one network, a damaged file, a Wan2.2 pipeline, or what a
        killed conversion left.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no folder or file {folder}.")
    if (folder / MARKER).is_file():
        raise ValueError(f"{folder} is an unfinished conversion; convert again.")
    if experts := [name for name in TWO_EXPERTS if (folder / name).is_dir()]:
        raise ValueError(
            f"{folder} is a Wan2.2 pipeline with two DiTs ({', '.join(experts)}), which is not "
            "supported; use a Wan2.1 text-to-video model."
        )
    files = list(_checkpoint_files(folder))
    found: dict[Name, list[tuple[Path, Layout]]] = {}
    for file in files:
        for name, layout in _recognise(open_tensors(file)):
            found.setdefault(name, []).append((file, layout))
    for name, candidates in found.items():
        if len(candidates) > 1:
            paths = (str(file.relative_to(folder)) for file, _ in candidates)
            raise ValueError(
                f"{folder} has {len(candidates)} candidates for the {name}: {', '.join(paths)}; "
                "keep one, or give the file itself."
            )
    if not found:
        raise FileNotFoundError(
            f"{folder} has no DiT, VAE or text encoder of Wan2.1 in original or Diffusers layout "
            f"(checkpoint files there: {', '.join(file.name for file in files) or 'none'})."
        )
    parts: dict[Name, Part] = {}
    for name in COMPONENTS:
        for file, layout in found.get(name, []):
            parts[name] = Part(name, layout, file, _settings(file, name, len(found) == 1))
    tokenizers = (folder / place for place in TOKENIZERS)
    return Published(folder, parts, next((t for t in tokenizers if _is_tokenizer(t)), None))


def _is_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def _checkpoint_files(folder: Path) -> Iterator[Path]:
    """Checkpoints in the folder and its Diffusers subfolders; shards count as their index."""
    if folder.is_file():
        yield folder
        return
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        yield from sorted(place.glob("*.safetensors.index.json"))
        for file in sorted(
            f for kind in ("safetensors", "pth", "pt") for f in place.glob(f"*.{kind}")
        ):
            shard = SHARD.fullmatch(file.name)
            if shard is None:
                yield file
            elif not (index := place / f"{shard[1]}.safetensors.index.json").is_file():
                raise FileNotFoundError(f"{file} is one of several shards, but {index} is missing.")


def _recognise(source: FileTensors) -> Iterator[tuple[Name, Layout]]:
    for name, component in COMPONENTS.items():
        if layout := component.layout_of(source):
            yield name, layout


def _settings(file: Path, name: Name, is_alone: bool) -> Mapping[str, Any]:
    """The config.json beside a file, if it describes this network.

    In the original layout it lies beside all three files and names the class it belongs to; without
    a known class it belongs to the only network there is, or else to the DiT.
    """
    path = file.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error!r:.100}).") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is damaged: it is not a table of settings.")
    classes = [settings.get("_class_name"), *(settings.get("architectures") or [])]
    described = next((_CLASSES[c] for c in classes if c in _CLASSES), None)
    if described is None:
        described = name if is_alone else "dit"
    return settings if described == name else {}
