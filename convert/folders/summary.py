"""What a model folder or a LoRA file holds, in words."""

from pathlib import Path

from pusa_jax.convert.folders.lora_files import recognise_lora
from pusa_jax.convert.folders.opened import ModelFolder


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
            *(f"  not used: {name} ({why})" for name, why in sorted(adapters.ignored.items())),
        ]
        return "\n".join(lines)
    folder = ModelFolder(path)
    lines = [f"{'converted' if folder.is_converted else 'published'} folder {path}"]
    for name in folder.names:
        shapes = folder.shapes(name)
        count = sum(leaf.size for leaf in shapes.values())
        lines.append(
            f"  {name}: {count:,} parameters in {len(shapes)} leaves; {folder.config(name)}"
        )
    try:
        lines.append(f"  tokenizer: {folder.tokenizer()}")
    except FileNotFoundError:
        lines.append("  tokenizer: none")
    return "\n".join(lines)
