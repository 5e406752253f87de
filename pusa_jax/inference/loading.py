"""From folders to models: reads configurations, weights and LoRA files, and writes weights back.

A folder may be published (original or Diffusers layout) or converted (`convert/folders/`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from pusa_jax.convert.folders.converted import (
    check_components,
    component_names,
    load_component,
    read_config,
    read_configs,
    tokenizer_folder,
)
from pusa_jax.convert.folders.export import export_folder
from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.networks import COMPONENTS, Layout, Name
from pusa_jax.devices.sharding import shardings
from pusa_jax.inference.mesh_choice import MeshLike, check_memory, choose_mesh
from pusa_jax.inference.settings import Configs
from pusa_jax.models import lora
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.text import Tokenizer
from pusa_jax.models.wan.vae import WanVAE
from pusa_jax.progress import Progress, no_progress
from pusa_jax.typing import Precision
from pusa_jax.weights.leaves import assemble

LoRAs = Sequence[tuple[str | Path, float]]
"""Files and strengths, merged in order."""


def check_configs(folder: str | Path) -> Configs:
    """What decides which clips a folder's model can sample.

    Raises:
      FileNotFoundError, ValueError: one line; also for a folder without text encoder or tokenizer,
        or with networks that do not belong together.
    """
    dit, vae, text = read_configs(folder, ("dit", "vae", "text_encoder")).values()
    tokenizer_folder(folder)
    for what, taken, giver, given in (
        ("latent channels", dit.in_dim, "VAE", vae.z_dim),
        ("text features", dit.text_dim, "text encoder", text.dim),
    ):
        if taken != given:
            raise ValueError(
                f"networks in {folder} do not belong together: its DiT takes {taken} {what}, its "
                f"{giver} gives {given}; put those of one published model there."
            )
    return Configs(dit=dit, vae=vae)


def check_model(folder: str | Path, dtype: Precision) -> None:
    """Makes sure that a folder can be loaded and sampled from, reading no weights.

    Args:
      folder: published or converted.
      dtype: what DiT and text encoder are to be loaded in.

    Raises:
      FileNotFoundError, ValueError: one line that names everything that is missing or wrong.
    """
    check_components(folder, COMPONENTS, dtype)
    config: TextConfig = read_config(folder, "text_encoder")
    words = Tokenizer(tokenizer_folder(folder), config.text_len).vocab_size
    if words > config.vocab:
        raise ValueError(
            f"tokenizer and text encoder in {folder} do not belong together: it has {words} words, "
            f"the encoder {config.vocab}; put those of one published model there."
        )


def check_loras(loras: LoRAs, config: DiTConfig) -> None:
    """Makes sure that LoRA files exist and fit the DiT, reading no weights.

    Raises:
      FileNotFoundError, ValueError: one line that names the file.
    """
    for path, strength in loras:
        if not math.isfinite(strength):
            raise ValueError(f"the strength of {path} must be a number, got {strength}.")
        try:
            lora.check_fit(COMPONENTS["dit"].shapes(config), read_lora(Path(path)))
        except ValueError as error:
            text = str(error)
            raise ValueError(text if str(path) in text else f"{path}: {text}") from None


def load_module(
    folder: str | Path,
    name: Name,
    dtype: Precision,
    loras: LoRAs = (),
    mesh: Mesh | None = None,
) -> Any:
    """Builds one network of a folder with its weights, held and computed in `dtype`.

    Args:
      folder: published or converted.
      name: which network.
      dtype: float32 or bfloat16.
      loras: merged into it.
      mesh: cut over it by the network's rules; default: all on one device.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    rules = COMPONENTS[name].placement
    shard = None if mesh is None else functools.partial(shardings, rules=rules, mesh=mesh)
    config, leaves = load_component(folder, name, dtype, shard=shard)
    for path, strength in loras:
        leaves = lora.merge(leaves, read_lora(Path(path)), strength)
    config = dataclasses.replace(config, param_dtype=dtype, compute_dtype=dtype)
    return assemble(lambda: COMPONENTS[name].build(config), leaves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a pipeline is made of, see `PusaPipeline`."""

    dit: WanDiT
    autoencoder: WanVAE
    text_encoder: Callable[[], T5Encoder]
    tokenizer: Tokenizer
    mesh: Mesh


def load_parts(
    folder: str | Path,
    *,
    dtype: Precision,
    lora: LoRAs,
    mesh: MeshLike,
    on_progress: Progress,
) -> Loaded:
    """Loads DiT and VAE; the text encoder is loaded when a prompt is met, and not kept.

    Args:
      folder: published or converted.
      dtype: of DiT and text encoder; the VAE runs in float32.
      lora: merged into the DiT.
      mesh: see `PusaPipeline.from_pretrained`.
      on_progress: told about the stage "load".

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    folder = Path(folder)
    configs = check_configs(folder)
    check_loras(lora, configs.dit)
    mesh = choose_mesh(mesh, configs.dit)
    check_memory(mesh, configs.dit, dtype)
    on_progress("load", 0, 2)
    autoencoder = load_module(folder, "vae", "float32")
    on_progress("load", 1, 2)
    dit = load_module(folder, "dit", dtype, lora, mesh)
    jax.block_until_ready(nnx.state(dit))
    on_progress("load", 2, 2)
    return Loaded(
        dit=dit,
        autoencoder=autoencoder,
        text_encoder=functools.partial(load_module, folder, "text_encoder", dtype, mesh=mesh),
        tokenizer=Tokenizer(tokenizer_folder(folder), configs.dit.text_len),
        mesh=mesh,
    )


def export(
    src: str | Path,
    dst: str | Path,
    layout: Layout,
    loras: LoRAs = (),
    on_progress: Progress = no_progress,
) -> list[Path]:
    """Writes the networks of a folder in a published layout, LoRA files merged into the DiT.

    Returns:
      the files written.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
      FileExistsError: dst is there and not empty.
    """
    names = component_names(src)
    check_components(src, names)
    if loras and "dit" in names:
        check_loras(loras, read_config(src, "dit"))

    def networks():
        for name in names:
            config, leaves = load_component(src, name)
            for path, strength in loras if name == "dit" else ():
                leaves = lora.merge(leaves, read_lora(Path(path)), strength)
            yield name, config, leaves

    try:
        tokenizer = tokenizer_folder(src)
    except FileNotFoundError:
        tokenizer = None
    return export_folder(
        networks(), dst, layout=layout, tokenizer=tokenizer, on_progress=on_progress
    )
