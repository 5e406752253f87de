"""What programs put before the names of tensors: dropped, and files of several networks cut up."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from pusa_jax.convert.files.mapped import FileTensor, FileTensors

WRAPPERS = (
    "model.", "diffusion_model.", "module.", "_orig_mod.", "net.", "pipe.dit.", "dit.",
    "transformer.",
)  # fmt: skip
"""Prefixes that repacked files, compiled and distributed models put before every name."""

BARE = re.compile(r"scaled_fp8|spiece_model|logit_scale")
"""Names that have no prefix although all others have one."""

PARTS = (
    ("model.diffusion_model.", "diffusion_model.", "transformer.", "dit.", "model.", "unet."),
    ("first_stage_model.", "vae."),
    ("text_encoders.umt5xxl.transformer.", "text_encoders.umt5xxl.",
     "text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.", "text_encoder.",
     "cond_stage_model.transformer.", "cond_stage_model.", "conditioner.embedders.0.transformer."),
)  # fmt: skip
"""What files of several networks put before the names of the denoiser, autoencoder and text
encoder; the first that fits."""

Tensor = TypeVar("Tensor")


def without_wrappers(entries: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Entries without the prefixes that all names have."""
    for prefix in WRAPPERS:
        own = [name for name in entries if not BARE.fullmatch(name)]
        if own and all(name.startswith(prefix) and name != prefix for name in own):
            return without_wrappers({n.removeprefix(prefix): t for n, t in entries.items()})
    return entries


def networks_in(source: FileTensors) -> Iterator[FileTensors]:
    """The networks of a file that says so by prefixes, each with its own names; else the file.

    What belongs to none of them goes with the first, so that it is reported and not lost.
    """
    groups: dict[int, dict[str, FileTensor]] = {}
    left: dict[str, FileTensor] = {}
    for name, tensor in source.entries.items():
        for number, prefixes in enumerate(PARTS):
            prefix = next((p for p in prefixes if name.startswith(p)), None)
            if prefix:
                groups.setdefault(number, {})[name.removeprefix(prefix)] = tensor
                break
        else:
            left[name] = tensor
    if not groups:
        yield source
        return
    groups[min(groups)] |= left
    for entries in groups.values():
        yield dataclasses.replace(source, entries=without_wrappers(entries))
