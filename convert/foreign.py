"""What is known of a family's files elsewhere: the records that `networks.py` lists by family.

The house half of a network (its configuration, module and sharding) is in `models/family.py`; here
is the foreign half: how published files name, arrange and describe it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pusa_jax.convert.tables import Rule, TensorSource, Transform
from pusa_jax.models.family import Name

Layout = Literal["original", "diffusers"]
"""How a folder names and arranges things: as the authors published it, or as Diffusers does."""

MODEL_INDEX, BOUNDARY = "model_index.json", "boundary_ratio"
"""What Diffusers calls the file that describes a folder, and the level in it at which experts
change."""


LORA_FILE = "pusa_lora.safetensors"
"""What the LoRA file of a model with one denoiser is called that a run exports."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignNetwork:
    """How one network is recognised, read and written in foreign files.

    Attributes:
      layout_of: naming scheme of a checkpoint; None if it holds another network.
      config_from_source: configuration of a checkpoint, given the config.json beside it.
      rules: naming scheme -> configuration -> table.
      files: layout -> file in the folder; in shards it is their common name, in pieces `{piece}`
        stands for the name of each.
      classes: names in config.json that say that it describes this network.
      settings: layout -> configuration -> content of the config.json beside the file, for layouts
        that keep one.
      place: regular expression on the place of a file in its folder, for networks whose tensors are
        those of another one; a file that is elsewhere holds the other.
      lora_mark: regular expression on what LoRA files are called that are for this one of several
        denoisers; of a family with one, on the file of a set of several that is taken.
      pieces: for a network that the original layout keeps in several files: name of each, which is
        put before the names of its tensors -> a tensor that no other file has.
      lora_file: what a LoRA file of this denoiser is called that a run exports.
      tuned: name of a published file that is taken where it lies beside the one it was tuned from.
      ignored: tensors that may be there and are not read -> reason.
      entry: under which the written PyTorch file keeps the tensors; empty for none.
      beside_dit: (own configuration, the denoiser's) -> own, with what the denoiser decides.
    """

    layout_of: Callable[[TensorSource], Layout | None]
    config_from_source: Callable[[TensorSource, Mapping[str, Any]], Any]
    rules: Mapping[Layout, Callable[[Any], list[Rule]]]
    files: Mapping[Layout, str]
    classes: tuple[str, ...]
    settings: Mapping[Layout, Callable[[Any], dict[str, Any]]]
    place: str = ".*"
    lora_mark: str = ".*"
    pieces: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lora_file: str = LORA_FILE
    tuned: str = ""
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    entry: str = ""
    beside_dit: Callable[[Any, Any], Any] = lambda config, dit: config


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRANames:
    """Names of the layers that LoRA files hold adapters of.

    Attributes:
      model: what has these layers, in words.
      layers: rows of (name in the file that is written, other names, path here); `{i}` stands for
        the number of a layer, and `{last}` for that of the last one where it has a path of its own.
      convolutions: path -> layout, for layers that are convolutions elsewhere.
      ignored: pattern of entries that may be there and are not used -> what they are.
      fused: rows of (name, paths), for layers that are one elsewhere: equal parts of its outputs.
      depth: layers of the model.
      prefix: what the written names begin with.
      tensors: tables of all tensors, to which full differences may be added.
      inputs: channels that the first layer of another kind of model takes -> that kind.
    """

    model: str
    layers: tuple[tuple[str, ...], ...]
    convolutions: Mapping[str, Transform]
    ignored: Mapping[str, str]
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    depth: int = 0
    prefix: str = "diffusion_model"
    tensors: tuple[Rule, ...] = ()
    inputs: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def of(self, config: Any) -> "LoRANames":
        """The names in a model of another size than the published one's."""
        return dataclasses.replace(self, depth=config.num_layers)

    def numbered(self, name: str) -> str:
        """A name with the number of the last layer in it."""
        return name.replace("{last}", str(self.depth - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignFamily:
    """How the models of one family are published.

    Attributes:
      networks: by the names of the house.
      tokenizer: layout -> its folder.
      shard_bytes: layout -> largest safetensors file.
      extras: layout -> further files of a folder that holds all networks -> content.
      claims: content of Diffusers' model_index.json -> whether it describes a model of this family
        and of no other.
      lora: names in LoRA files.
      base: what LoRA files belong to, in their metadata.
      in_both_layouts: whether it is published in one folder with both, of which the original is
        taken; a folder of others that holds two of a network is refused.
      beside: networks that the file of a denoiser finds in their places beside it, for families
        whose denoisers lie several in one folder.
    """

    networks: Mapping[Name, ForeignNetwork]
    tokenizer: Mapping[Layout, str]
    shard_bytes: Mapping[Layout, int]
    extras: Mapping[Layout, Mapping[str, Mapping[str, Any]]]
    claims: Callable[[Mapping[str, Any]], bool]
    lora: LoRANames
    base: str
    in_both_layouts: bool = False
    beside: tuple[Name, ...] = ()
