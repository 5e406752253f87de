"""LoRA files of any dialect, written in one of the forms that are written."""

from pathlib import Path

from pusa_jax.convert.lora import Naming, read_lora, write_lora


def check_lora_destination(dst: Path) -> None:
    """Makes sure that a LoRA can be written to a file.

    Raises:
      ValueError: the name does not end in .safetensors.
      FileExistsError: the file is there.
      FileNotFoundError: there is no such folder.
    """
    if dst.suffix != ".safetensors":
        raise ValueError(f"a LoRA is written to a file that ends in .safetensors, got {dst}.")
    if dst.exists():
        raise FileExistsError(f"{dst} exists already; choose another name.")
    if not dst.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {dst.parent} to write {dst.name} to.")


def export_lora(src: str | Path, dst: str | Path, naming: Naming = "comfy") -> Path:
    """Writes a LoRA file of any dialect in one of the forms that are written.

    Factors keep their dtype; an alpha is multiplied in. `naming`: see `convert.lora.NAMING`.

    Raises:
      FileNotFoundError, ValueError: no LoRA, or dst does not end in .safetensors.
      FileExistsError: dst is there.
    """
    src, dst = Path(src), Path(dst)
    check_lora_destination(dst)
    adapters = read_lora(src)
    ranks = sorted({module.rank for module in adapters.modules.values()})
    dtype = next(iter(adapters.modules.values())).down.dtype
    metadata = {"made_from": src.name, "rank": ", ".join(map(str, ranks)), "base": "Wan2.1-T2V"}
    write_lora(dst, adapters, dtype=dtype, naming=naming, metadata=metadata)
    return dst
