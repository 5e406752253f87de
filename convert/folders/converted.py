"""Converted folders: written once from a published folder, then loaded without translation.

    dst/pusa_jax.json   format, family, configuration and source files of each network
    dst/{dit,vae,text_encoder}/   their leaves
    dst/tokenizer/

`load_component` serves published and converted folders alike.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert.folders.published import Part, Published, inspect
from pusa_jax.convert.networks import COMPONENTS, Config, Name, config_from_json, config_to_json
from pusa_jax.convert.tables import Leaf
from pusa_jax.devices import processes
from pusa_jax.devices.sharding import cut_axis
from pusa_jax.files.staging import alone, staged
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.weights.store import check_tree, load_tree, read_pieces, save_tree, tree_shapes
from pusa_jax.weights.streaming import place

MANIFEST = "pusa_jax.json"
FORMAT = 2
"""Version of the manifest."""
FAMILY = "wan2.1"

Shapes = Mapping[str, jax.ShapeDtypeStruct]
Progress = Callable[[str, int, int], None]
"""Called with what is being worked on, how many bytes are done and how many there are."""


def is_converted(folder: Path) -> bool:
    """Whether a folder was written by `convert_folder`."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a converted folder.

    Raises:
      FileNotFoundError: not a converted folder.
      ValueError: damaged, or of another version.
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
    components = manifest.get("components")
    if not isinstance(components, dict) or not all(
        name in COMPONENTS and isinstance(entry, dict) and isinstance(entry.get("config"), dict)
        for name, entry in components.items()
    ):
        raise ValueError(
            f"{path} is damaged (its components have no configuration); convert again."
        )
    return manifest


def convert_folder(
    src: Path | str,
    dst: Path | str,
    *,
    dtype: DTypeLike | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Converts whatever a published folder or file holds.

    Everything is checked before anything is written; the result has its name only once it is
    complete. If `dst` already is this very conversion, nothing is done. Of several processes that
    convert to the same place at once, one does and the others wait for it.

    Args:
      src: published folder or file.
      dst: folder to make.
      dtype: float32 or bfloat16; default is what each file stores.
      overwrite: replace an earlier conversion.
      on_progress: told about the bytes of each network.

    Returns:
      dst.

    Raises:
      FileNotFoundError, ValueError: see `inspect` and `bind`; one line each.
      FileExistsError: dst is there and is something else.
      RuntimeError: this process has joined others: they save together, but convert apart.
    """
    if processes.have_joined():
        raise RuntimeError("convert before the processes join, with jax.distributed not started.")
    src, dst, report = Path(src), Path(dst), on_progress or (lambda what, done, total: None)
    if is_converted(src):
        raise ValueError(f"{src} is converted already; use it as it is.")
    published = inspect(src)
    leaves = published.leaves(dtype=dtype)
    manifest = {
        "format": FORMAT,
        "family": FAMILY,
        "components": {
            name: _describe(part, leaves[name], published.parts)
            for name, part in published.parts.items()
        },
        "tokenizer": published.tokenizer is not None,
    }
    waited: list[bool] = []

    def on_wait():
        waited.append(True)
        report("waiting for another process", 0, 1)

    with alone(dst, on_wait):
        if not _is_finished(dst, manifest, overwrite and not waited):
            _write(dst, published, leaves, manifest, report)
    return dst


def _write(
    dst: Path,
    published: Published,
    leaves: Mapping[Name, list[Leaf]],
    manifest: Mapping[str, Any],
    report: Progress,
) -> None:
    with staged(dst) as work:
        for name, bound in leaves.items():
            save_tree(
                work / name,
                _told(bound, name, report),
                manifest["components"][name],
                functools.partial(cut_axis, rules=COMPONENTS[name].placement),
            )
        if published.tokenizer is not None:
            shutil.copytree(published.tokenizer, work / "tokenizer")
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def _describe(part: Part, leaves: list[Leaf], parts: Mapping[Name, Part]) -> dict[str, Any]:
    return {
        "layout": part.layout,
        "files": part.sizes(),
        "dtypes": sorted({leaf.dtype.name for leaf in leaves}),
        "config": config_to_json(_config_of(part, parts)),
    }


def _config_of(part: Part, parts: Mapping[Name, Part]) -> Config:
    """Configuration of a part; a text encoder pads to the length that the DiT beside it wants."""
    config = part.config()
    if isinstance(config, TextConfig) and "dit" in parts:
        dit = parts["dit"].config()
        assert isinstance(dit, DiTConfig)
        return dataclasses.replace(config, text_len=dit.text_len)
    return config


def _told(leaves: list[Leaf], name: str, report: Progress) -> Iterator[tuple[str, Leaf]]:
    """Hands out leaves, to be read in pieces, and reports each when the next is asked for."""
    sizes = [int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves]
    done = 0
    report(name, done, sum(sizes))
    for leaf, size in zip(leaves, sizes, strict=True):
        yield leaf.path, leaf
        done += size
        report(name, done, sum(sizes))


def _is_finished(dst: Path, manifest: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether dst is this conversion already; raises if it must not be replaced."""
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return False
    if not is_converted(dst):
        raise FileExistsError(f"{dst} exists and is no conversion; choose another folder.")
    if overwrite:
        return False
    if json.loads((dst / MANIFEST).read_text("utf-8")) == manifest:
        return True
    raise FileExistsError(
        f"{dst} is a conversion of something else; choose another folder, or ask to overwrite it."
    )


def read_configs(folder: Path | str, names: Iterable[Name]) -> dict[Name, Any]:
    """Configurations of networks of a published or converted folder, reading no weights.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    folder = Path(folder)
    if not is_converted(folder):
        published = inspect(folder)
        return {name: published.part(name).config() for name in names}
    components, configs = read_manifest(folder)["components"], {}
    for name in names:
        if name not in components:
            raise FileNotFoundError(f"{folder} has no {name}; it has {', '.join(components)}.")
        try:
            configs[name] = config_from_json(name, components[name]["config"])
        except ValueError as error:
            raise ValueError(f"{folder / MANIFEST}, {name}: {error}") from None
    return configs


def read_config(folder: Path | str, name: Name) -> Any:
    """Configuration of one network; see `read_configs`."""
    return read_configs(folder, [name])[name]


def check_components(
    folder: Path | str, names: Iterable[Name], dtype: DTypeLike | None = None
) -> None:
    """Makes sure that networks of a folder can be loaded, reading none of their values.

    Args:
      folder: published or converted.
      names: the networks.
      dtype: what they are to be loaded in; default is what is stored.

    Raises:
      FileNotFoundError, ValueError: one line that names everything that is missing or wrong.
    """
    folder = Path(folder)
    if is_converted(folder):
        for name, config in read_configs(folder, names).items():
            check_tree(folder / name, COMPONENTS[name].shapes(config))
    else:
        inspect(folder).leaves(names, dtype)


def load_component(
    folder: Path | str,
    name: Name,
    dtype: DTypeLike | None = None,
    *,
    shard: Callable[[Shapes], Mapping[str, jax.sharding.Sharding]] | None = None,
) -> tuple[Any, dict[str, jax.Array]]:
    """Loads one network from a published or a converted folder.

    Args:
      folder: published folder or file, or converted folder.
      name: "dit", "vae" or "text_encoder".
      dtype: float32 or bfloat16; default is what is stored.
      shard: path -> shape of all leaves, to path -> sharding; every device then reads its own part.
        Default: all on the default device.

    Returns:
      its configuration, with `param_dtype` set to what the leaves are in, and its leaves.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    folder = Path(folder)
    if is_converted(folder):
        config = read_config(folder, name)
        shapes = COMPONENTS[name].shapes(config)
        stored = tree_shapes(folder / name)
        shardings = shard(shapes) if shard else {}
        abstract = {}
        for path, leaf in shapes.items():
            kept = stored.get(path, leaf).dtype if dtype is None else dtype
            abstract[path] = jax.ShapeDtypeStruct(leaf.shape, kept, sharding=shardings.get(path))
        leaves = load_tree(folder / name, abstract)
    else:
        parts = inspect(folder)
        part = parts.part(name)
        config = _config_of(part, parts.parts)
        bound = part.leaves(dtype)
        shardings = shard(COMPONENTS[name].shapes(config)) if shard else {}
        leaves = {
            leaf.path: place(leaf.read, leaf.shape, leaf.dtype, shardings.get(leaf.path))
            for leaf in bound
        }
    narrow = all(leaf.dtype == jnp.bfloat16 for leaf in leaves.values())
    return dataclasses.replace(config, param_dtype="bfloat16" if narrow else "float32"), leaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenComponent:
    """A network of a folder of which nothing is read yet.

    Attributes:
      shapes: path -> shape of every leaf.
      pieces: path -> that leaf on the host, as consecutive rows of it, one piece after the other.
    """

    shapes: Mapping[str, tuple[int, ...]]
    pieces: Callable[[str], Iterator[np.ndarray]]


def open_component(folder: Path | str, name: Name) -> OpenComponent:
    """Opens a network of a published or converted folder, to be read a layer or two at a time.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    folder = Path(folder)
    if not is_converted(folder):
        leaves = {leaf.path: leaf for leaf in inspect(folder).part(name).leaves()}

        def layers(path: str) -> Iterator[np.ndarray]:
            leaf = leaves[path]
            rows = range(leaf.shape[0]) if leaf.rule.is_stacked else []
            yield from (leaf[i : i + 1] for i in rows) if rows else [leaf[...]]

        return OpenComponent(shapes={p: leaf.shape for p, leaf in leaves.items()}, pieces=layers)
    read_config(folder, name)  # raises if it is not there
    stored = tree_shapes(folder / name)
    return OpenComponent(
        shapes={path: tuple(leaf.shape) for path, leaf in stored.items()},
        pieces=functools.partial(read_pieces, folder / name),
    )


def component_names(folder: Path | str) -> list[Name]:
    """Networks that a published or converted folder holds."""
    folder = Path(folder)
    if is_converted(folder):
        return list(read_manifest(folder)["components"])
    return list(inspect(folder).parts)


def tokenizer_folder(folder: Path | str) -> Path:
    """Folder of the tokenizer of a published or converted folder.

    Raises:
      FileNotFoundError: there is none.
    """
    folder = Path(folder)
    found = folder / "tokenizer" if is_converted(folder) else inspect(folder).tokenizer
    if found is None or not found.is_dir():
        raise FileNotFoundError(
            f"{folder} has no tokenizer; expected google/umt5-xxl or tokenizer in it."
        )
    return found
