"""Opens a converted folder, which loads without translation.

folder/pusa_jax.json   format, family, configuration and source files of each network
folder/{dit,dit_low,vae,text_encoder}/   their leaves
folder/tokenizer/
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert.networks import config_from_json
from pusa_jax.files import sums
from pusa_jax.models.families import family_named
from pusa_jax.models.family import Family, Name, Network

MANIFEST = "pusa_jax.json"
FORMAT = 2
"""Version of the manifest."""


def is_converted(folder: Path) -> bool:
    """Whether a folder was written by `convert_folder`."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a converted folder.

    Raises:
      FileNotFoundError: not a converted folder.
      ValueError: damaged, of another version, or of an unknown family.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no converted folder (no {MANIFEST}).") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error!r:.100}); convert again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{folder} was converted by another version of pusa_jax; convert again.")
    if sums.is_damaged(manifest):
        raise ValueError(f"{path} is damaged (it is not as it was written); convert again.")
    try:
        networks = family_named(str(manifest.get("family"))).networks
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    components = manifest.get("components")
    if not isinstance(components, dict) or not all(
        name in networks and isinstance(entry, dict) and isinstance(entry.get("config"), dict)
        for name, entry in components.items()
    ):
        raise ValueError(
            f"{path} is damaged (its components have no configuration); convert again."
        )
    boundary = manifest.get("boundary", 0.0)
    if not isinstance(boundary, float) or not 0 <= boundary <= 1:
        raise ValueError(f"{path} is damaged (its boundary is {boundary!r:.40}); convert again.")
    if not isinstance(manifest.get("sums", {}), dict):
        raise ValueError(f"{path} is damaged (its sums are no table); convert again.")
    return manifest


def damage(folder: Path) -> str:
    """What is wrong with a converted folder, every byte of which is read; empty if it is whole."""
    try:
        manifest = read_manifest(folder)
        open_converted(folder)
        from pusa_jax.weights.store import SavedTree  # Orbax, which published weights do not need

        trees = {name: SavedTree(folder / name) for name in manifest["components"]}
    except (OSError, ValueError) as error:
        return str(error)
    found = (f"{folder / name}: {tree.damage}" for name, tree in trees.items() if tree.damage)
    return next(found, "")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedNetwork:
    """One network of a converted folder; nothing of it is read yet.

    Attributes:
      name: which network.
      network: how it is built.
      values: its configuration as the manifest has it.
      path: of the converted folder.
    """

    name: Name
    network: Network
    values: Mapping[str, Any]
    path: Path

    @functools.cached_property
    def config(self) -> Any:
        """The configuration.

        Raises:
          ValueError: it is not understood.
        """
        try:
            return config_from_json(self.network.config, self.values)
        except ValueError as error:
            raise ValueError(f"{self.path / MANIFEST}, {self.name}: {error}") from None

    @functools.cached_property
    def tree(self) -> Any:
        """The leaves, a `weights.store.SavedTree`; raises as that does."""
        from pusa_jax.weights.store import SavedTree

        return SavedTree(self.path / self.name)

    def check(self) -> None:
        """Raises FileNotFoundError or ValueError if the leaves are not those of the network."""
        self.tree.check(self.network.shapes(self.config))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """What lies in a converted folder.

    Attributes:
      path: the folder.
      family: of the networks.
      networks: those there are.
      tokenizer: its folder, if there is one.
      boundary: noise level at which its experts change; None is the family's.
    """

    path: Path
    family: Family
    networks: Mapping[Name, ConvertedNetwork]
    tokenizer: Path | None
    boundary: float | None = None

    def config(self, name: Name) -> Any:
        """See `ConvertedNetwork.config`."""
        return self.networks[name].config

    def check(self, names: Iterable[Name], dtype: DTypeLike | None) -> None:
        """Raises FileNotFoundError or ValueError if networks cannot be loaded, in any dtype."""
        for name in names:
            self.networks[name].check()

    def load(
        self,
        name: Name,
        dtype: DTypeLike | None,
        shardings: Mapping[str, jax.sharding.Sharding],
    ) -> dict[str, jax.Array]:
        """Reads the leaves of a network to where they are to lie; raises as `check`."""
        network = self.networks[name]
        stored = network.tree.shapes
        return network.tree.load(
            {
                path: jax.ShapeDtypeStruct(
                    leaf.shape,
                    stored.get(path, leaf).dtype if dtype is None else dtype,
                    sharding=shardings.get(path),
                )
                for path, leaf in network.network.shapes(network.config).items()
            }
        )

    def pieces(self, name: Name, path: str) -> Iterator[np.ndarray]:
        """Reads a leaf to the host in the pieces it was saved in; raises as `check`."""
        return self.networks[name].tree.pieces(path)


def open_converted(path: Path) -> Converted:
    """Reads the manifest.

    Raises:
      FileNotFoundError, ValueError: see `read_manifest`; or the tokenizer is damaged.
    """
    manifest, tokenizer = read_manifest(path), path / "tokenizer"
    if changed := sums.damaged(path, manifest.get("sums", {})):
        raise ValueError(f"{path / changed[0]} is missing or damaged; convert again.")
    family = family_named(manifest["family"])
    return Converted(
        path=path,
        family=family,
        networks={
            name: ConvertedNetwork(
                name=name, network=family.networks[name], values=entry["config"], path=path
            )
            for name, entry in manifest["components"].items()
        },
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        boundary=manifest.get("boundary"),
    )
