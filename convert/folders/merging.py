"""Which LoRA files are merged into which denoiser, in which order and by which rule.

Files of a distillation come first, as in Pusa's scripts, then the others in the order given. Of a
model with two experts every file belongs to one of them; nothing in its tensors says to which, but
its name or its metadata often does.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pusa_jax.convert.folders.lora_files import LoRAs
from pusa_jax.convert.lora import open_lora, parse_lora, read_lora
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.listing import listed
from pusa_jax.models import lora as low_rank
from pusa_jax.models.family import DenoiserConfig, Family, Name
from pusa_jax.models.lora import LoRA

EXPERTS: Mapping[Name, str] = {"dit": "high-noise expert", "dit_low": "low-noise expert"}
"""Denoisers of a model that has two, in words."""

FEW_STEPS = re.compile(r"(?i)lightx2v|lightning|causvid|distill|(?<!\d)4[-_ ]?steps?")
"""What names of LoRA files have that were distilled for a few steps without guidance."""

LONGEST_NAME = 300
"""Characters of an entry of metadata that may be a name; longer ones are prompts or settings."""


class Adapter(NamedTuple):
    """A LoRA file and how it is merged, see `models.lora.merge`."""

    lora: LoRA
    strength: float
    rule: str = "file_alpha"


Adapters = Mapping[Name, tuple[Adapter, ...]]
"""Denoiser -> what is merged into it, in order."""


def read_adapters(
    family: Family,
    config: DenoiserConfig,
    lora: LoRAs = (),
    low_lora: LoRAs = (),
    lightx2v: Sequence[str | Path] = (),
    *,
    add_differences: bool = True,
) -> Adapters:
    """LoRA files that fit the denoisers of a model; their factors are mapped, not read.

    Args:
      family: of the model.
      config: of its denoisers, which have one shape.
      lora: for the only denoiser, or for the high-noise expert.
      low_lora: for the low-noise expert.
      lightx2v: files for few steps: see `files_of_experts`.
      add_differences: whether full differences in them (diff, diff_b, diff_m) are added, as their
        authors mean, or left out, as Pusa's own loaders do.

    Raises:
      FileNotFoundError, ValueError: one line that names the file: no LoRA, none of this model, or
        one of the other expert.
    """
    experts: list[Name] = [*family.experts]
    first, *others = experts
    if low_lora and not others:
        raise ValueError(
            f"{low_lora[0][0]} is given for the low-noise expert, but {family.name} has only one "
            "denoiser; give it as its LoRA."
        )
    asked: dict[Name, LoRAs] = {first: lora, **dict.fromkeys(others, low_lora)}
    found: dict[Name, tuple[Adapter, ...]] = {}
    distilled = files_of_experts(family, lightx2v) if lightx2v else {}
    for name, files in asked.items():
        early = [distilled[name]] if name in distilled else []
        read = functools.partial(_read, family, name, config, add_differences=add_differences)
        found[name] = (
            *(read(path, 1.0, is_distilled=True) for path in early),
            *(read(Path(path), strength) for path, strength in files),
        )
    return found


def remarks(adapters: Adapters) -> tuple[str, ...]:
    """What people should know of LoRA files before they are merged, a line each."""
    merged = (adapter.lora for several in adapters.values() for adapter in several)
    lines = (f"{lora.file}: {remark}" for lora in merged for remark in lora.remarks)
    return tuple(dict.fromkeys(lines))


def _read(
    family: Family,
    name: Name,
    config: DenoiserConfig,
    path: Path,
    strength: float,
    *,
    add_differences: bool,
    is_distilled: bool = False,
) -> Adapter:
    if not math.isfinite(strength):
        raise ValueError(f"the strength of {path} must be a number, got {strength}.")
    check_expert(family, name, path)
    try:
        found = read_lora(path, FOREIGN[family.name].lora.of(config))
        low_rank.check_fit(family.networks[name].shapes(config), found)
    except ValueError as error:
        text = _other_model(path, family) or str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from None
    if not add_differences:
        found = _without_differences(found)
    # Pusa's loader takes a file without alpha for alpha 1, a scale of 1 / rank: nobody means that.
    is_scaled = all(module.alpha is not None for module in found.modules.values())
    # It ignores full differences as well, which their authors mean to be added.
    is_parity = is_distilled and is_scaled and not found.differences
    return Adapter(found, strength, "lightx2v" if is_parity else "file_alpha")


def _without_differences(lora: LoRA) -> LoRA:
    """A LoRA as Pusa's own loaders see it."""
    names = [difference.name for difference in lora.differences.values()]
    if not names:
        return lora
    remark = f"{len(names)} full differences (diff, diff_b, diff_m) are left out, as asked."
    return dataclasses.replace(
        lora,
        differences={},
        ignored={**lora.ignored, **dict.fromkeys(names, "a full difference, left out as asked")},
        remarks=(*lora.remarks, remark),
    )


def _other_model(path: Path, family: Family) -> str:
    """Which model a LoRA file is of, where it is not one of this family; empty if that is open."""
    source, config = open_lora(path)
    own = FOREIGN[family.name].lora
    for other in FOREIGN.values():
        if other.lora.model == own.model:
            continue
        try:
            parse_lora(source, other.lora, config)
        except ValueError:
            continue
        return f"it is a LoRA of {other.lora.model}, not of {own.model}."
    return ""


def files_of_experts(family: Family, paths: Sequence[str | Path]) -> dict[Name, Path]:
    """The file of a distillation for each denoiser.

    Args:
      family: of the model.
      paths: a file for each denoiser, that for high noise first, or a folder whose files say by
        their names for which they are.

    Raises:
      FileNotFoundError, ValueError: one line; there are too few, too many, or none that says so.
    """
    experts: list[Name] = [*family.experts]
    given = [Path(path) for path in paths]
    if len(given) == 1 and given[0].is_dir() and not (given[0] / "adapter_config.json").is_file():
        files = sorted(given[0].glob("*.safetensors"))
        if len(files) == len(experts) == 1:
            return {experts[0]: files[0]}
        marks: dict[Name, str] = {
            name: FOREIGN[family.name].networks[name].lora_mark for name in experts
        }
        marked: dict[Name, list[Path]] = {
            name: [f for f in files if re.search(marks[name], f.stem)] for name in experts
        }
        if all(len(found) == 1 for found in marked.values()):
            return {name: found for name, (found,) in marked.items()}
        there = listed([file.name for file in files])
        raise FileNotFoundError(
            f"{given[0]} must hold one LoRA file for each denoiser of {family.name}, with "
            f"high_noise or low_noise in its name; files there: {there}."
        )
    if len(given) != len(experts):
        lost = [str(path) for path in given if not path.exists()]
        raise (FileNotFoundError if lost else ValueError)(
            f"{f'there is no file or folder {listed(lost)}; ' if lost else ''}{family.name} needs "
            f"{len(experts)} LightX2V file{'s' * (len(experts) > 1)}, one for each denoiser, high "
            f"noise first, or their folder; got {len(given)}."
        )
    return dict(zip(experts, given, strict=True))


def check_expert(family: Family, name: Name, path: Path) -> None:
    """Raises ValueError if a LoRA file says that it is for another expert than the one given."""
    told = told_experts(family, path)
    if name not in told and told:
        other, how = next(iter(told.items()))
        raise ValueError(
            f"{path} looks like a LoRA of the {EXPERTS[other]} by its {how}, but is given for the "
            f"{EXPERTS[name]}: exchange them."
        )


def told_experts(family: Family, path: Path) -> dict[Name, str]:
    """Experts of a family that a LoRA file says it is for -> by its "name" or "metadata".

    Raises:
      FileNotFoundError, ValueError: it cannot be opened.
    """
    if len(family.experts) == 1:
        return {}
    networks = FOREIGN[family.name].networks
    marks: dict[Name, str] = {name: networks[name].lora_mark for name in family.experts}
    told: dict[Name, str] = {}
    for how, texts in _names(path):
        found: list[Name] = [
            name for name, mark in marks.items() if any(re.search(mark, t) for t in texts)
        ]
        if len(found) == 1:  # a text that names both says nothing
            told.setdefault(found[0], how)
    return told


def _names(path: Path) -> Iterator[tuple[str, list[str]]]:
    """What a LoRA file is called: by its name, or that of its folder, and by its metadata."""
    yield "name", [path.stem]
    source, _ = open_lora(path)
    metadata: Mapping[str, str] = getattr(source, "metadata", {})
    yield "metadata", [text for text in metadata.values() if len(text) <= LONGEST_NAME]


def is_for_few_steps(path: Path) -> bool:
    """Whether a LoRA file, by its name or that of its folder, was distilled for a few steps."""
    return bool(FEW_STEPS.search(f"{path.absolute().parent.name} {path.name}"))
