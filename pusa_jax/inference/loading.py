"""From a folder to built networks: opened and checked once, read straight to where they lie."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from pusa_jax.convert.folders.belonging import check_belonging
from pusa_jax.convert.folders.lora_files import LoRAs
from pusa_jax.convert.folders.merging import Adapters, read_adapters, remarks
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.devices.sharding import shardings
from pusa_jax.diffusion.config import Tiling
from pusa_jax.inference import packaged
from pusa_jax.inference.experts import Expert, waiting
from pusa_jax.inference.mesh_choice import (
    ROOM,
    MeshLike,
    Resident,
    check_memory,
    choose_mesh,
    choose_resident,
    device_limit,
    weight_bytes,
)
from pusa_jax.inference.settings import Configs
from pusa_jax.inference.text_place import Place, free_on_host, kept
from pusa_jax.models.family import Family, Name, Tokenizer
from pusa_jax.models.lora import merge_all
from pusa_jax.progress import Progress
from pusa_jax.typing import Precision
from pusa_jax.weights.leaves import abstract, fill


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A folder and LoRA files that belong together; no weights are read yet.

    Attributes:
      folder: where the networks are.
      configs: what decides which clips can be sampled.
      adapters: contents of the LoRA files and how they are merged into each denoiser.
    """

    folder: ModelFolder
    configs: Configs
    adapters: Adapters = dataclasses.field(default_factory=dict)

    @property
    def family(self) -> Family:
        """Family of the networks."""
        return self.folder.family

    @property
    def remarks(self) -> tuple[str, ...]:
        """What people should know of the LoRA files before they are merged, a line each."""
        return remarks(self.adapters)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Prompts -> ids of the length that the denoiser takes; read once, when first needed.

        Raises:
          FileNotFoundError, ValueError: it is not there, or not of this family.
        """
        folder = self.folder.tokenizer() if self.family.reads_text else None
        return self.family.tokenizer(folder, self.configs.dit.text_len)


def open_model(
    path: str | Path | ModelFolder,
    lora: LoRAs = (),
    low_lora: LoRAs = (),
    lightx2v: Sequence[str | Path] = (),
    *,
    add_differences: bool = True,
) -> Model:
    """Opens a folder and LoRA files, and finds out whether they belong together.

    Args:
      path: published or converted, or opened already; or a name, see `packaged`.
      lora: files, or their names, and strengths, for the only denoiser or the high-noise expert.
      low_lora: for the low-noise expert.
      lightx2v: files for a few steps, see `convert.folders.merging`.
      add_differences: of LoRA files, see `read_adapters`.

    Raises:
      FileNotFoundError, ValueError: one line; also for a folder without text encoder or tokenizer,
        or with networks that do not belong together.
    """
    folder = path if isinstance(path, ModelFolder) else ModelFolder(packaged.found(path))
    family = folder.family
    configs: dict[Name, Any] = {name: folder.config(name) for name in family.networks}
    if family.reads_text:
        folder.tokenizer()
    check_belonging(folder.path, family, configs)
    dit = configs["dit"]
    lora = [(packaged.found(path, "lora"), strength) for path, strength in lora]
    low_lora = [(packaged.found(path, "lora"), strength) for path, strength in low_lora]
    lightx2v = [packaged.found(path, "loras") for path in lightx2v]
    return Model(
        folder=folder,
        configs=Configs(dit=dit, vae=configs["vae"]),
        adapters=read_adapters(
            family, dit, lora, low_lora, lightx2v, add_differences=add_differences
        ),
    )


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
    if not model.family.reads_text:
        return
    words, known = model.tokenizer.vocab_size, folder.config("text_encoder").vocab
    if words > known:
        raise ValueError(
            f"tokenizer and text encoder in {folder.path} do not belong together: it has {words} "
            f"words, the encoder {known}; put those of one published model there."
        )


def check_tiles(model: Model, tiled: Tiling) -> None:
    """Raises ValueError where the original's tiles are asked of an autoencoder that is not its.

    The tensors of Diffusers' Mochi are the same, its decoder makes other first frames: whoever
    compares with it by these tiles would look for a fault that is none.
    """
    is_asked = tiled == "original" and model.family.codec.original_tiles is not None
    if is_asked and model.folder.layout("vae") == "diffusers":
        raise ValueError(
            f"the VAE in {model.folder.path} is Diffusers', which decodes the first frames "
            "otherwise than the original; for parity give encoder.safetensors and "
            "decoder.safetensors, else leave --original_tiles out."
        )


def load_module(model: Model, name: Name, dtype: Precision, mesh: Mesh | None = None) -> Any:
    """Builds one network with its weights, held and computed in `dtype`.

    Args:
      model: opened; its LoRA files are merged into the denoisers.
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
    leaves = merge_all(leaves, model.adapters.get(name, ()))
    config = dataclasses.replace(config, param_dtype=dtype, compute_dtype=dtype)
    return fill(abstract(network.build, config), leaves)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a pipeline is made of, see `PusaPipeline`."""

    family: Family
    dit: Sequence[Expert]
    autoencoder: nnx.Module
    text_encoder: Callable[[], nnx.Module | None]
    text_place: Place
    tokenizer: Tokenizer
    mesh: Mesh
    one_at_a_time: bool


def place_for_text(model: Model, mesh: Mesh, dtype: Precision, resident: Resident) -> Place:
    """Where the text encoder is kept between prompts.

    On the devices where it fits beside the denoisers and leaves `ROOM` for the rest of a run, else
    on the host where that has room for it, else nowhere.
    """
    if not model.family.reads_text:
        return "nowhere"
    size = functools.partial(weight_bytes, mesh, model.family)
    text = size(model.folder.config("text_encoder"), dtype, "text_encoder")
    count = len(model.family.experts) if resident == "all" else 1
    limit = device_limit(mesh)
    if limit is not None and text + count * size(model.configs.dit, dtype) <= (1 - ROOM) * limit:
        return "devices"
    on_this_host = text * len(mesh.local_devices)
    return "host" if on_this_host <= (1 - ROOM) * free_on_host() else "files"


def load_parts(
    model: Model,
    *,
    dtype: Precision,
    mesh: MeshLike,
    resident: Resident | None = None,
    on_progress: Progress,
) -> Loaded:
    """Loads denoisers and autoencoder; the text encoder is loaded when a new prompt is met.

    Between prompts it is where `place_for_text` says.

    Args:
      model: opened.
      dtype: of denoiser and text encoder; the autoencoder runs in float32.
      mesh: see `PusaPipeline.from_pretrained`.
      resident: of several denoisers; see `choose_resident`.
      on_progress: told about the stage "load".

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    config = model.configs.dit
    mesh = choose_mesh(mesh, model.family, config)
    resident = choose_resident(resident, mesh, model.family, config, dtype, device_limit(mesh))
    check_memory(mesh, model.family, config, dtype, resident)
    levels = model.folder.first_levels
    total = 1 + len(levels)
    on_progress("load", 0, total)
    autoencoder = load_module(model, "vae", "float32")
    experts = []
    for done, (name, level) in enumerate(levels.items(), 1):
        on_progress("load", done, total)
        dit = load_module(model, name, dtype, mesh)
        jax.block_until_ready(nnx.state(dit))
        dit = waiting(dit) if resident == "one" else dit  # before the next one is read
        experts.append(Expert(dit=dit, first_level=level))
    on_progress("load", total, total)
    text_place = place_for_text(model, mesh, dtype, resident)
    load_text = functools.partial(load_module, model, "text_encoder", dtype, mesh)
    return Loaded(
        family=model.family,
        dit=experts,
        autoencoder=autoencoder,
        text_encoder=kept(load_text, text_place),
        text_place=text_place,
        tokenizer=model.tokenizer,
        mesh=mesh,
        one_at_a_time=resident == "one",
    )
