"""From a run to files that other tools load: a LoRA or a model, with a model card."""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from pusa_jax.convert.folders.destination import check_destination
from pusa_jax.convert.folders.export import Leaves, export_folder
from pusa_jax.convert.folders.merging import EXPERTS
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.foreign import Layout
from pusa_jax.convert.lora import Naming, write_lora
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.files.staging import staged
from pusa_jax.inference import packaged
from pusa_jax.models.family import Name
from pusa_jax.progress import PusaWarning
from pusa_jax.training.config import RANDOM, RunConfig
from pusa_jax.training.finished import Result
from pusa_jax.typing import Precision

CARD = "README.md"


def export_adapters(
    result: Result,
    dst: Path,
    *,
    naming: Naming = "comfy",
    dtype: Precision = "bfloat16",
    overwrite: bool = False,
) -> list[Path]:
    """Writes trained adapters as `dst/pusa_lora.safetensors`, with a card.

    Those of an expert get the name that Pusa publishes: high_noise_pusa, low_noise_pusa.

    Args:
      result: of a run that trained adapters.
      dst: folder to make; has its name only once it is complete.
      naming: of the tensors, see `pusa_jax.convert.lora.NAMING`.
      dtype: of the factors, with alpha / rank multiplied in.
      overwrite: whether an earlier export at dst is replaced, once the new one is complete.

    Returns:
      the files written.

    Raises:
      FileExistsError: dst is there and not empty.
      ValueError: the run trained all weights.
    """
    lora, file = result.lora(), dst / _lora_file(result)
    names = FOREIGN[result.run.recipe.family.name].lora.of(result.run.recipe.dit)
    check_destination(dst, overwrite=overwrite)
    with staged(dst) as work:
        metadata = _metadata(result)
        write_lora(work / file.name, lora, names, dtype=dtype, naming=naming, metadata=metadata)
        (work / CARD).write_text(model_card(result), "utf-8")
    return [file, dst / CARD]


def export_model(
    result: Result,
    dst: Path,
    *,
    layout: Layout = "original",
    dtype: Precision = "bfloat16",
    with_base: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Writes a model of which all weights were trained, as published ones are, with a card.

    Args:
      result: of a run that trained all weights.
      dst: folder to make; has its name only once it is complete.
      layout: original or Diffusers.
      dtype: of the DiT.
      with_base: whether VAE, text encoder and tokenizer of the folder that training began with come
        along, so that the new folder can be sampled as it is; a run from random weights has none,
        which is a warning.
      overwrite: whether an earlier export at dst is replaced, once the new one is complete.

    Returns:
      the files written.

    Raises:
      FileExistsError: dst is there and not empty.
      ValueError: the run trained adapters.
      FileNotFoundError: the folder that training began with is not there any more.
    """
    run = result.run
    if run.adapter is not None:
        raise ValueError("this run trained adapters; export them, or merge them into their base.")
    is_fresh = run.model.weights == RANDOM
    base = ModelFolder(packaged.found(run.model.weights)) if with_base and not is_fresh else None
    check_destination(dst, overwrite=overwrite, sources=[base.path] if base else [])
    if with_base and is_fresh:
        place = FOREIGN[run.recipe.family.name].networks["vae"].files[layout]
        warnings.warn(
            "this run began with random weights: no VAE comes along; put the one its clips were "
            f"encoded by at {dst / place}.",
            PusaWarning,
            stacklevel=2,
        )
    trained, dit = run.recipe.expert, run.recipe.dit
    others: list[Name] = [name for name in base.names if name != trained] if base else []

    def networks() -> Iterator[tuple[Name, Any, Leaves]]:
        yield trained, dit, _in_dtype(result, dtype)
        for name in others:
            assert base is not None
            yield name, *base.load(name)

    return export_folder(
        networks(),
        dst,
        family=run.recipe.family,
        layout=layout,
        tokenizer=base.tokenizer() if base and others and base.family.reads_text else None,
        texts={CARD: model_card(result)},
        overwrite=overwrite,
    )


def _in_dtype(result: Result, dtype: Precision) -> dict[str, Any]:
    """The leaves, each rounded before the next is read: float32 would be twice as much."""
    return {path: leaf.astype(jnp.dtype(dtype)) for path, leaf in result.leaves()}


def model_card(result: Result) -> str:
    """A card as the Hugging Face Hub shows it: what it is, how it was trained, how to use it."""
    is_lora = result.run.adapter is not None
    header: dict[str, Any] = {
        "base_model": result.base if "/" in result.base else None,
        "base_model_relation": "adapter" if is_lora else "finetune",
        "library_name": "pusa-jax",
        "pipeline_tag": "image-to-video",
        "tags": ["pusa", "video", *(["lora"] if is_lora else [])],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in header.items() if value]
    family = result.run.recipe.family
    kind, prompt = ("text-to-video", "TEXT") if family.reads_text else ("video", "CLASS")
    what = "Low-rank adapters" if is_lora else "All weights"
    model = f"--model BASE {_flags(result)}" if is_lora else "--model THIS_FOLDER"
    facts = "\n".join(f"- {name}: {value}" for name, value in _metadata(result).items())
    return (
        "---\n" + "\n".join(lines) + "\n---\n\n"
        f"{what} of a {family.name} {kind} model with one timestep per latent frame (Pusa, arXiv "
        f"2507.16116), trained for {result.step} steps with pusa_jax.\n\n{facts}\n\n"
        f"    pusa-jax i2v {model} --image_paths IMAGE --prompt {prompt}\n\n"
        f"All settings:\n\n```json\n{json.dumps(_public(result.run), indent=1)}\n```\n"
    )


def _metadata(result: Result) -> dict[str, str]:
    recipe = result.run.recipe
    expert = {"expert": EXPERTS[recipe.expert]} if len(recipe.family.experts) > 1 else {}
    return result.metadata() | expert


def _lora_file(result: Result) -> str:
    recipe = result.run.recipe
    return FOREIGN[recipe.family.name].networks[recipe.expert].lora_file


def _flags(result: Result) -> str:
    """Flags of `pusa-jax` that merge the adapters."""
    recipe, kind = result.run.recipe, "lora"
    if len(recipe.family.experts) > 1:
        kind = "high_lora" if recipe.expert == next(iter(recipe.family.experts)) else "low_lora"
    return f"--{kind}_path {_lora_file(result)} --{kind}_alpha 1"


def _public(run: RunConfig) -> dict[str, Any]:
    """The settings with names of folders in place of paths on the machine that trained."""

    def named(settings: Any, field: str) -> Any:
        return dataclasses.replace(settings, **{field: Path(getattr(settings, field)).name})

    return dataclasses.replace(
        run,
        model=named(run.model, "weights"),
        data=named(named(run.data, "folder"), "validation"),
        checkpoint=named(run.checkpoint, "resume"),
    ).record()
