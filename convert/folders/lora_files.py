"""LoRA files of any dialect, written in one of the forms that are written."""

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from pusa_jax.convert.folders.destination import check_destination
from pusa_jax.convert.foreign import ForeignFamily
from pusa_jax.convert.lora import Naming, open_lora, parse_lora, write_lora
from pusa_jax.convert.lora_settings import HEADER_ALPHAS, HEADER_RANKS
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.models.lora import LoRA, stored_dtype
from pusa_jax.progress import PusaWarning

LoRAs = Sequence[tuple[str | Path, float]]
"""Files and strengths, merged in order."""


def recognise_lora(path: Path) -> tuple[LoRA, ForeignFamily]:
    """Reads a LoRA of which nothing is known: it belongs to the first family that has its layers.

    Raises:
      FileNotFoundError, ValueError: one line, see `read_lora`.
    """
    source, config = open_lora(path)
    reasons = []
    for family in FOREIGN.values():
        try:
            found = parse_lora(source, family.lora, config)
            return dataclasses.replace(found, file=str(path)), family
        except ValueError as error:
            reasons.append(str(error))
    # A family of which not one entry is known says nothing about the file.
    telling = [text for text in reasons if not re.match(r"(\d+) of \1 entries ", text)]
    raise ValueError(f"{path}: {' '.join(dict.fromkeys(telling or reasons))}")


def check_lora_destination(
    dst: Path, *, overwrite: bool = False, sources: Sequence[str | Path] = ()
) -> None:
    """Makes sure that a LoRA can be written to a file; see `check_destination`.

    Raises:
      ValueError: the name does not end in .safetensors, or is that of a source.
      FileExistsError: the file is there.
      FileNotFoundError: there is no such folder.
    """
    if dst.suffix != ".safetensors":
        raise ValueError(f"a LoRA is written to a file that ends in .safetensors, got {dst}.")
    check_destination(dst, overwrite=overwrite, sources=sources)
    if not dst.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {dst.parent} to write {dst.name} to.")


def export_lora(
    src: str | Path, dst: str | Path, naming: Naming = "comfy", *, overwrite: bool = False
) -> Path:
    """Writes a LoRA file of any dialect in one of the forms that are written.

    An alpha is multiplied in; see `models.lora.stored_dtype` for what is stored.
    `naming`: see `convert.lora.NAMING`. `overwrite`: whether dst may be replaced.

    Raises:
      FileNotFoundError, ValueError: no LoRA, or dst does not end in .safetensors.
      FileExistsError: dst is there.
    """
    src, dst = Path(src), Path(dst)
    check_lora_destination(dst, overwrite=overwrite, sources=[src])
    adapters, family = recognise_lora(src)
    for remark in adapters.remarks:
        warnings.warn(f"{src}: {remark}", PusaWarning, stacklevel=2)
    ranks = sorted({module.rank for module in adapters.modules.values()})
    dtype = stored_dtype(adapters)
    metadata = {"made_from": src.name, "rank": ", ".join(map(str, ranks)), **_origin(src, family)}
    metadata = _training(src, adapters) | metadata
    write_lora(dst, adapters, family.lora, dtype=dtype, naming=naming, metadata=metadata)
    return dst


def _origin(path: Path, family: ForeignFamily) -> dict[str, str]:
    """Base model and expert of a LoRA, as its file says; models of one shape leave it to names."""
    source, _ = open_lora(path)
    said: dict[str, str] = getattr(source, "metadata", {})
    for other in FOREIGN.values():
        if other.lora is family.lora and "dit_low" in other.networks:
            marks = [other.networks[name].lora_mark for name in ("dit", "dit_low")]
            if any(re.search(mark, path.stem) for mark in marks):
                family = other
    kept = {key: said[key] for key in ("base", "expert") if key in said}
    return {"base": family.base, **kept}


def _training(path: Path, adapters: LoRA) -> dict[str, str]:
    """Header entries that say how a LoRA without alpha was trained; no loader applies them."""
    if any(module.alpha is not None for module in adapters.modules.values()):
        return {}
    source, _ = open_lora(path)
    said: dict[str, str] = getattr(source, "metadata", {})
    return {key: said[key] for key in (*HEADER_ALPHAS, *HEADER_RANKS) if key in said}
