"""From a folder to built networks: opened and checked once, read straight to where they lie."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from pusa_jax.convert.folders.lora_files import LoRAs, read_loras
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.devices.sharding import shardings
from pusa_jax.inference.mesh_choice import MeshLike, check_memory, choose_mesh
from pusa_jax.inference.settings import Configs
from pusa_jax.models import lora
from pusa_jax.models.family import Family, Name, Tokenizer
from pusa_jax.models.lora import LoRA
from pusa_jax.progress import Progress
from pusa_jax.typing import Precision
from pusa_jax.weights.leaves import assemble


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A folder and LoRA files that belong together; no weights are read yet.

    Attributes:
      folder: where the networks are.
      configs: what decides which clips can be sampled.
      adapters: contents of the LoRA files and their strengths, merged in order.
    """

    folder: ModelFolder
    configs: Configs
    adapters: tuple[tuple[LoRA, float], ...] = ()

    @property
    def family(self) -> Family:
        """Family of the networks."""
        return self.folder.family

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Prompts -> ids of the length that the denoiser takes; read once, when first needed.

        Raises:
          FileNotFoundError, ValueError: it is not there, or not of this family.
        """
        return self.family.tokenizer(self.folder.tokenizer(), self.configs.dit.text_len)


def open_model(path: str | Path, loras: LoRAs = ()) -> Model:
    """Opens a folder and LoRA files, and finds out whether they belong together.

    Raises:
      FileNotFoundError, ValueError: one line; also for a folder without text encoder or tokenizer,
        or with networks that do not belong together.
    """
    folder = ModelFolder(path)
    dit, vae, text = (folder.config(name) for name in ("dit", "vae", "text_encoder"))
    folder.tokenizer()
    for what, taken, giver, given in (
        ("latent channels", dit.in_dim, "VAE", vae.z_dim),
        ("text features", dit.text_dim, "text encoder", text.dim),
    ):
        if taken != given:
            raise ValueError(
                f"networks in {path} do not belong together: its DiT takes {taken} {what}, its "
                f"{giver} gives {given}; put those of one published model there."
            )
    configs = Configs(dit=dit, vae=vae)
    return Model(folder=folder, configs=configs, adapters=read_loras(loras, folder.family, dit))


def check_model(model: Model, dtype: Precision) -> None:
    """Makes sure that a model can be loaded and sampled from, reading no weights.

    Args:
      model: opened.
      dtype: what denoiser and text encoder are to be loaded in.

    Raises:
      FileNotFoundError, ValueError: one line that names everything that is missing or wrong.
    """
    folder = model.folder
    folder.check(dtype=dtype)
    words, known = model.tokenizer.vocab_size, folder.config("text_encoder").vocab
    if words > known:
        raise ValueError(
            f"tokenizer and text encoder in {folder.path} do not belong together: it has {words} "
            f"words, the encoder {known}; put those of one published model there."
        )


def load_module(model: Model, name: Name, dtype: Precision, mesh: Mesh | None = None) -> Any:
    """Builds one network with its weights, held and computed in `dtype`.

    Args:
      model: opened; its LoRA files are merged into the denoiser.
      name: which network.
      dtype: float32 or bfloat16.
      mesh: cut over it by the network's rules; default: all on one device.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    network = model.family.networks[name]
    shard = None
    if mesh is not None:
        shard = functools.partial(shardings, rules=network.sharding, mesh=mesh)
    config, leaves = model.folder.load(name, dtype, shard=shard)
    if name == "dit":
        leaves = lora.merge_all(leaves, model.adapters)
    config = dataclasses.replace(config, param_dtype=dtype, compute_dtype=dtype)
    return assemble(lambda: network.build(config), leaves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a pipeline is made of, see `PusaPipeline`."""

    family: Family
    dit: nnx.Module
    autoencoder: nnx.Module
    text_encoder: Callable[[], nnx.Module]
    tokenizer: Tokenizer
    mesh: Mesh


def load_parts(model: Model, *, dtype: Precision, mesh: MeshLike, on_progress: Progress) -> Loaded:
    """Loads denoiser and autoencoder; the text encoder is loaded when a prompt is met, not kept.

    Args:
      model: opened.
      dtype: of denoiser and text encoder; the autoencoder runs in float32.
      mesh: see `PusaPipeline.from_pretrained`.
      on_progress: told about the stage "load".

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    config = model.configs.dit
    mesh = choose_mesh(mesh, model.family, config)
    check_memory(mesh, model.family, config, dtype)
    on_progress("load", 0, 2)
    autoencoder = load_module(model, "vae", "float32")
    on_progress("load", 1, 2)
    dit = load_module(model, "dit", dtype, mesh)
    jax.block_until_ready(nnx.state(dit))
    on_progress("load", 2, 2)
    return Loaded(
        family=model.family,
        dit=dit,
        autoencoder=autoencoder,
        text_encoder=functools.partial(load_module, model, "text_encoder", dtype, mesh),
        tokenizer=model.tokenizer,
        mesh=mesh,
    )
