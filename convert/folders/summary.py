"""What a model folder or a LoRA file holds, in words."""

from pathlib import Path

from pusa_jax.convert.folders.converted import (
    is_converted,
    read_config,
    read_manifest,
    tokenizer_folder,
)
from pusa_jax.convert.folders.published import inspect
from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.networks import COMPONENTS


def summary(path: Path) -> str:
    """What a model folder or a LoRA file holds, for people.

    Raises:
      FileNotFoundError, ValueError: neither the one nor the other.
    """
    if path.is_file():
        adapters = read_lora(path)
        ranks = sorted({module.rank for module in adapters.modules.values()})
        alphas = sorted({str(module.alpha) for module in adapters.modules.values()})
        lines = [
            f"LoRA with {len(adapters.modules)} modules, rank {ranks}, alpha {', '.join(alphas)}",
            *(f"  not used: {name} ({why})" for name, why in sorted(adapters.ignored.items())),
        ]
        return "\n".join(lines)
    names = read_manifest(path)["components"] if is_converted(path) else inspect(path).parts
    lines = [f"{'converted' if is_converted(path) else 'published'} folder {path}"]
    for name in names:
        config = read_config(path, name)
        shapes = COMPONENTS[name].shapes(config)
        count = sum(leaf.size for leaf in shapes.values())
        lines.append(f"  {name}: {count:,} parameters in {len(shapes)} leaves; {config}")
    try:
        lines.append(f"  tokenizer: {tokenizer_folder(path)}")
    except FileNotFoundError:
        lines.append("  tokenizer: none")
    return "\n".join(lines)
