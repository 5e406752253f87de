"""What a model folder or a LoRA file holds, in words."""

from collections.abc import Iterator
from pathlib import Path

from pusa_jax.convert.folders.lora_files import recognise_lora
from pusa_jax.convert.folders.merging import EXPERTS, told_experts
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.listing import LIMIT
from pusa_jax.models.families import FAMILIES
from pusa_jax.models.lora import LoRA


def summary(path: Path) -> str:
    """What a model folder or a LoRA file holds, for people.

    Raises:
      FileNotFoundError, ValueError: neither the one nor the other.
    """
    if path.is_file():
        adapters, _ = recognise_lora(path)
        ranks = sorted({module.rank for module in adapters.modules.values()})
        alphas = sorted({str(module.alpha) for module in adapters.modules.values()})
        lines = [
            f"LoRA with {len(adapters.modules)} modules, rank {ranks}, alpha {', '.join(alphas)}",
            *(
                f"  looks like one for the {EXPERTS[name]} of {family.name}, by its {how}"
                for family in FAMILIES.values()
                for name, how in told_experts(family, path).items()
            ),
            *_extras(adapters),
        ]
        return "\n".join(lines)
    folder = ModelFolder(path)
    kind = "converted" if folder.is_converted else "published"
    lines = [f"{kind} folder {path}, {folder.family.name}"]
    for name in folder.names:
        shapes = folder.shapes(name)
        count = sum(leaf.size for leaf in shapes.values())
        lines.append(
            f"  {name}: {count:,} parameters in {len(shapes)} leaves; {folder.config(name)}"
        )
    if len(folder.family.experts) > 1:
        first = next(iter(folder.first_levels.values()))
        lines.append(f"  below noise level {first} the expert for low noise takes over")
    try:
        lines.append(f"  tokenizer: {folder.tokenizer()}")
    except FileNotFoundError:
        lines.append("  tokenizer: none")
    return "\n".join(lines)


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
