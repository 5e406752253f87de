"""What a model folder or a LoRA file holds, in words."""

from collections.abc import Iterator
from pathlib import Path

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.folders.lora_files import recognise_lora
from pusa_jax.convert.folders.merging import EXPERTS, told_experts
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import find_lora, open_lora
from pusa_jax.listing import LIMIT, listed
from pusa_jax.models.families import FAMILIES
from pusa_jax.models.lora import LoRA


def summary(path: Path) -> str:
    """What a model folder, a file of weights or a LoRA file holds, for people.

    Raises:
      FileNotFoundError, ValueError: none of them.
    """
    try:
        return "\n".join(_model(ModelFolder(path)))
    except FileNotFoundError:
        if not path.exists():
            raise
    if path.is_dir() and not find_lora(path):
        ModelFolder(path)  # says what is missing
    try:
        return "\n".join(_lora(path))
    except ValueError as error:
        tensors = open_tensors(path).tensors if path.is_file() else {}
        raise ValueError(
            f"{path} is neither a network of {', '.join(FAMILIES)} nor a LoRA for one: it holds "
            f"{len(tensors)} tensors, {listed(list(tensors), 5)} ({error!s:.300})"
        ) from None


def _lora(path: Path) -> Iterator[str]:
    adapters, family = recognise_lora(path)
    ranks = sorted({module.rank for module in adapters.modules.values()})
    alphas = sorted({str(module.alpha) for module in adapters.modules.values()})
    yield f"LoRA with {len(adapters.modules)} modules, rank {ranks}, alpha {', '.join(alphas)}"
    yield f"  {_strength(adapters)}"
    said: dict[str, str] = getattr(open_lora(path)[0], "metadata", {})
    for name in SAID:
        if said.get(name):
            yield f"  {name.replace('_', ' ')}: {said[name]:.200}"
    if "base" not in said:
        yield f"  for models of the layers of {family.base}"
    for other in FAMILIES.values():
        for name, how in told_experts(other, path).items():
            yield f"  looks like one for the {EXPERTS[name]} of {other.name}, by its {how}"
    yield from _extras(adapters)


SAID = ("base", "expert", "made_from", "steps", "trained_with", "strength", "captured_energy")
"""What LoRA files of ours say of themselves."""


def _strength(adapters: LoRA) -> str:
    """What a strength of 1 does, in words."""
    scales = sorted(
        {1.0 if m.alpha is None else m.alpha / m.rank for m in adapters.modules.values()}
    )
    if scales == [1.0]:
        why = (
            "it has no alpha"
            if None in {m.alpha for m in adapters.modules.values()}
            else ("alpha is the rank")
        )
        return f"strength 1 is as trained and adds up @ down as it is: {why}; Pusa samples with 1.4"
    shown = ", ".join(f"{scale:g}" for scale in scales[:4])
    return f"strength 1 is as trained and adds alpha / rank = {shown} times up @ down"


def _model(folder: ModelFolder) -> Iterator[str]:
    kind = "converted" if folder.is_converted else "published"
    kind = f"{kind} folder" if folder.path.is_dir() else "file"
    yield f"{kind} {folder.path}, {folder.family.name}"
    for name in folder.names:
        shapes = folder.shapes(name)
        count = sum(leaf.size for leaf in shapes.values())
        stored = folder.stored(name)
        yield (
            f"  {name}: {count:,} parameters in {len(shapes)} leaves{stored}; {folder.config(name)}"
        )
    if len(folder.family.experts) > 1:
        first = next(iter(folder.first_levels.values()))
        yield f"  below noise level {first} the expert for low noise takes over"
    try:
        yield f"  tokenizer: {folder.tokenizer()}"
    except FileNotFoundError:
        if folder.family.reads_text:
            yield "  tokenizer: none"
    yield from (f"  passed over: {line}" for line in folder.unreadable[:LIMIT])


def _extras(adapters: LoRA) -> Iterator[str]:
    """What a LoRA has beside its modules."""
    if count := len(adapters.differences):
        yield (
            f"  {count} full differences, which are added to their tensors (Pusa's own loader "
            "ignores them, as do the merge rules pusa and lightx2v)"
        )
    used = sorted(adapters.ignored.items())
    yield from (f"  not used: {name} ({why})" for name, why in used[:LIMIT])
    if len(used) > LIMIT:
        yield f"  not used: {len(used) - LIMIT} more"
    yield from (f"  careful: {remark}" for remark in adapters.remarks if "info lists" not in remark)
