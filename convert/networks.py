"""The three networks of a Wan pipeline, each with its tables: all that folders and export ask for.

Names are those of the folders: `dit`, `vae`, `text_encoder`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
from flax import nnx

from pusa_jax.convert.tables import Rule, TensorSource
from pusa_jax.convert.wan import dit, text, vae
from pusa_jax.devices.sharding import Rules
from pusa_jax.files.records import rebuild
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan import sharding as rules
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.weights.leaves import shapes_for

Name = Literal["dit", "vae", "text_encoder"]
Layout = Literal["original", "diffusers"]
Config = DiTConfig | VAEConfig | TextConfig

RUNTIME_FIELDS = ("param_dtype", "compute_dtype", "numerics", "remat")
"""Fields of configurations that say how a network runs, not what it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """How one network is recognised, converted and built.

    Attributes:
      config: its configuration class.
      build: configuration -> module, with any parameters.
      layout_of: naming scheme of a checkpoint; None if it holds another network.
      config_from_source: configuration of a checkpoint, given the config.json beside it.
      rules: naming scheme -> table.
      placement: how its leaves are cut over a mesh.
      ignored: tensors that may be there and are not read -> reason.
    """

    config: type
    build: Callable[[Any], nnx.Module]
    layout_of: Callable[[TensorSource], Layout | None]
    config_from_source: Callable[[TensorSource, Mapping[str, Any]], Any]
    rules: Mapping[Layout, Callable[[Any], list[Rule]]]
    placement: Rules
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def shapes(self, config: Config) -> dict[str, jax.ShapeDtypeStruct]:
        """Path -> shape of every leaf."""
        return shapes_for(self.build, config)


COMPONENTS: Mapping[Name, Component] = {
    "dit": Component(
        config=DiTConfig,
        build=lambda config: WanDiT(config, rngs=nnx.Rngs(0)),
        layout_of=dit.layout_of,
        config_from_source=dit.config_from_source,
        rules={"original": dit.original_rules, "diffusers": dit.diffusers_rules},
        placement=rules.DIT,
    ),
    "vae": Component(
        config=VAEConfig,
        build=vae.build,
        layout_of=vae.layout_of,
        config_from_source=vae.config_from_source,
        rules={"original": vae.original_rules, "diffusers": vae.diffusers_rules},
        placement=rules.VAE,
    ),
    "text_encoder": Component(
        config=TextConfig,
        build=lambda config: T5Encoder(config, rngs=nnx.Rngs(0)),
        layout_of=text.layout_of,
        config_from_source=text.config_from_source,
        rules={"original": text.original_rules, "diffusers": text.transformers_rules},
        placement=rules.TEXT,
        ignored=text.TRANSFORMERS_IGNORED,
    ),
}
"""Folder name -> network."""


def config_to_json(config: Config) -> dict[str, Any]:
    """What a network is, as plain values; how it runs is left out."""
    fields = dataclasses.asdict(config)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if name not in RUNTIME_FIELDS
    }


def config_from_json(name: Name, values: Mapping[str, Any]) -> Config:
    """The inverse of `config_to_json`.

    Raises:
      ValueError: a field is unknown, missing or of another type.
    """
    return rebuild(COMPONENTS[name].config, values)
