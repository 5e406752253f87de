"""What is said of the strength of a LoRA beside its tensors: by PEFT, Diffusers, or a header.

PEFT and Diffusers keep settings that give each module its alpha and rank. Trainers of other kinds
write entries such as `ss_network_alpha` into the header of a file, which no loader applies.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pusa_jax.models.lora import rank_stabilised

Config = Mapping[str, Any]
"""PEFT's settings: `r`, `lora_alpha`, `rank_pattern`, `alpha_pattern`, `use_rslora`."""

ADAPTER, ADAPTER_SETTINGS = "adapter_model", "adapter_config.json"
"""What PEFT calls an adapter, without its ending, and its settings."""

DEFAULT_ALPHA = 8
"""What PEFT takes where its settings do not name an alpha."""

MODULE_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")
"""What stands before the names by which patterns know the modules; one of them is dropped."""

HEADER_ALPHAS = ("ss_network_alpha", "network_alpha", "lora_alpha", "alpha")
HEADER_RANKS = ("ss_network_dim", "network_dim", "lora_rank", "lora_dim", "rank", "r")
"""Header entries by which trainers say how they trained, most telling first."""

WAY_OUT = (
    "merge it into its model with the tool that made it, and load the merged model or take a LoRA "
    "of it with pusa-jax extract-lora"
)
"""What to do with an adapter of another kind."""

CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` with which PEFT changes the weights beside the adapter."""


def settings_of(path: Path, metadata: Mapping[str, str]) -> Config:
    """The settings that PEFT keeps beside a file, or Diffusers in it; empty if there are none.

    Raises:
      ValueError: they are damaged, or of another kind of adapter.
    """
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        beside = path.with_name(ADAPTER_SETTINGS)
        if path.stem == ADAPTER and beside.is_file():
            config = json.loads(beside.read_text("utf-8"))
        config = {k.removeprefix("transformer."): v for k, v in config.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its settings are damaged ({error!r:.100}).") from None
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise ValueError(
            f"{path}: its settings say {kind!r:.40}; only LoRA can be merged: {WAY_OUT}."
        )
    return config


def configured_alpha(module: str, rank: int, config: Config) -> float | None:
    """Alpha of a layer by PEFT's settings, of several patterns by the first that matches.

    Args:
      module: as the file calls it.
      rank: of its factors.
      config: the settings.

    Returns:
      alpha; None if the settings do not say.

    Raises:
      ValueError: settings that do not belong to the factors, or that are no LoRA.
    """
    if config.get("use_dora"):
        raise ValueError(f"its settings say DoRA; only LoRA can be merged: {WAY_OUT}.")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(CHANGED_BASES):
        raise ValueError(
            f"its settings say init_lora_weights={init!r:.40}, which changes the base as well; "
            "export it as a plain LoRA with PEFT's path_initial_model_for_weight_conversion."
        )
    prefix = next((p for p in MODULE_PREFIXES if module.startswith(p)), "")
    module = module.removeprefix(prefix)
    default = DEFAULT_ALPHA if "peft_type" in config else None
    alpha = _patterned(module, config, "alpha_pattern", config.get("lora_alpha", default))
    if alpha is None:
        return None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"its settings have lora_alpha={alpha!r:.40}, which must be a number.")
    said = _patterned(module, config, "rank_pattern", config.get("r"))
    if said is not None and said != rank:
        raise ValueError(
            f"its settings give {module} rank {said!r:.40}, its factors have {rank}: they do not "
            "belong together."
        )
    return rank_stabilised(float(alpha), rank) if config.get("use_rslora") else float(alpha)


def _patterned(module: str, config: Config, table: str, default: Any) -> Any:
    """The value of the first pattern that matches a module to its end, as PEFT matches it."""
    patterns = config.get(table) or {}
    if not isinstance(patterns, Mapping):
        raise ValueError(f"its settings have {table}={patterns!r:.40}, which must be a table.")
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise ValueError(
                f"its settings have the pattern {pattern!r:.60} in {table}, which is no regular "
                f"expression ({error})."
            ) from None
    return default


def header_remark(metadata: Mapping[str, str], ranks: tuple[int, ...]) -> str | None:
    """What to say of a file without alpha whose header speaks of one; None if there is nothing.

    Diffusers, ComfyUI, PEFT and kohya's own loaders show these entries and do not apply them.

    Args:
      metadata: the header.
      ranks: of the factors.
    """
    alpha_entry = next((k for k in HEADER_ALPHAS if k in metadata), None)
    rank_entry = next((k for k in HEADER_RANKS if k in metadata), None)
    if alpha_entry is None or "strength" in metadata:  # our own files say that it is inside
        return None
    alpha = _number(metadata[alpha_entry])
    rank = _number(metadata[rank_entry]) if rank_entry else None
    rank = rank or (float(ranks[0]) if len(set(ranks)) == 1 else None)
    said = f"its header says {alpha_entry}={metadata[alpha_entry]:.20}"
    said += f", {rank_entry}={metadata[rank_entry]:.20}" if rank_entry else ""
    if alpha is None or rank is None:
        return f"{said}, which no loader applies; 1 is the strength of its factors."
    if alpha == rank:
        return None
    return (
        f"{said}, but there is no alpha among its tensors, and loaders do not apply the header: 1 "
        f"is the strength of its factors; as the header says it was trained is {alpha / rank:g}."
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
