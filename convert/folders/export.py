"""Writes networks back in the published layouts, for the tools that load those.

The original layout is what Wan's own code and ComfyUI read, the Diffusers layout what Diffusers and
transformers read. Tensors are written one at a time; shards are cut as the Hugging Face libraries
cut them.
"""

import dataclasses
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.folders.destination import check_destination
from pusa_jax.convert.folders.lora_files import LoRAs
from pusa_jax.convert.folders.merging import Adapters, read_adapters, remarks
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.foreign import BOUNDARY, Layout
from pusa_jax.convert.networks import FOREIGN
from pusa_jax.convert.tables import LeafTensors, TensorInfo, TensorSource
from pusa_jax.files.staging import staged
from pusa_jax.models.family import Family, Name
from pusa_jax.models.lora import merge_all
from pusa_jax.progress import PusaWarning
from pusa_jax.weights.finite import nonfinite

Leaves = Mapping[str, jax.Array | np.ndarray]
Progress = Callable[[str, int, int], None]


def export_model(
    src: ModelFolder,
    dst: str | Path,
    layout: Layout,
    lora: LoRAs = (),
    low_lora: LoRAs = (),
    lightx2v: Sequence[str | Path] = (),
    on_progress: Progress | None = None,
    overwrite: bool = False,
    *,
    add_differences: bool = True,
) -> list[Path]:
    """Writes the networks of a folder in a published layout, LoRA files merged into the denoisers.

    Files and differences: see `convert.folders.merging.read_adapters`; `overwrite`: see
    `export_folder`; what people should know of the files is a `PusaWarning`.

    Returns:
      the files written.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
      FileExistsError: dst is there and not empty.
    """
    files = (*(file for file, _ in (*lora, *low_lora)), *lightx2v)
    check_destination(Path(dst), overwrite=overwrite, sources=[src.path, *files])
    src.check()
    experts: list[Name] = [name for name in src.family.experts if name in src.names]
    adapters: Adapters = {}
    if lora or low_lora or lightx2v:
        if len(experts) < len(src.family.experts):
            raise FileNotFoundError(f"{src.path} has no denoiser to merge LoRA files into.")
        config = src.config(experts[0])
        adapters = read_adapters(
            src.family, config, lora, low_lora, lightx2v, add_differences=add_differences
        )
        for remark in remarks(adapters):
            warnings.warn(remark, PusaWarning, stacklevel=2)

    def networks():
        for name in src.names:
            config, leaves = src.load(name)
            yield name, config, merge_all(leaves, adapters.get(name, ()))

    try:
        tokenizer = src.tokenizer()
    except FileNotFoundError:
        tokenizer = None
    return export_folder(
        networks(),
        dst,
        family=src.family,
        layout=layout,
        tokenizer=tokenizer,
        boundary=src.boundary,
        on_progress=on_progress,
        overwrite=overwrite,
    )


def export_folder(
    networks: Iterable[tuple[Name, Any, Leaves]],
    dst: Path | str,
    *,
    family: Family,
    layout: Layout = "original",
    tokenizer: Path | None = None,
    texts: Mapping[str, str] | None = None,
    boundary: float | None = None,
    shard_bytes: int | None = None,
    on_progress: Progress | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes networks to a folder, which has its name only once it is complete.

    Args:
      networks: (name, configuration, leaves), taken one after the other.
      dst: folder to make.
      family: of the networks.
      layout: naming scheme and arrangement.
      tokenizer: folder to copy, if any.
      texts: further files, name -> content.
      boundary: noise level at which experts change; default as published.
      shard_bytes: largest safetensors file; default as published.
      on_progress: told about the bytes of each network.
      overwrite: whether an earlier export at dst is replaced, once the new one is complete.

    Returns:
      The files written.

    Raises:
      FileExistsError: dst is there and not empty.
      ValueError: leaves that do not belong to the configuration.
    """
    dst, report = Path(dst), on_progress or (lambda what, done, total: None)
    check_destination(dst, overwrite=overwrite)
    foreign = FOREIGN[family.name]
    size = shard_bytes or foreign.shard_bytes[layout]
    with staged(dst) as work:
        names: set[Name] = set()
        for name, config, leaves in networks:
            network = foreign.networks[name]
            if layout not in network.rules:
                raise ValueError(
                    f"the {name} of {family.name} has no {layout} layout; use "
                    f"{' or '.join(network.rules)}."
                )
            path = work / network.files[layout]
            source = _Watched(LeafTensors(leaves, network.rules[layout](config)), name, report)
            path.parent.mkdir(exist_ok=True)
            if "{piece}" in path.name:
                for piece in network.pieces:
                    file = path.with_name(path.name.replace("{piece}", piece))
                    _write(file, _Piece(source, f"{piece}."), size)
            else:
                _write(path, source, size, network.entry)
            if write_settings := foreign.networks[name].settings.get(layout):
                _write_json(path.with_name("config.json"), write_settings(config))
            names.add(name)
            del leaves, source  # or they would stay in memory while the next ones are loaded
        if tokenizer is not None:
            shutil.copytree(tokenizer, work / foreign.tokenizer[layout])
        for name, text in (texts or {}).items():
            (work / name).write_text(text, "utf-8")
        if names == foreign.networks.keys():
            for file, content in foreign.extras[layout].items():
                (work / file).parent.mkdir(exist_ok=True)
                own = {} if boundary is None or BOUNDARY not in content else {BOUNDARY: boundary}
                _write_json(work / file, {**content, **own})
    return sorted(file for file in dst.rglob("*") if file.is_file())


class _Watched:
    """A source that reports how many bytes have been read."""

    def __init__(self, source: TensorSource, name: str, report: Progress):
        self._source, self._name, self._report, self._done = source, name, report, 0
        self._total = sum(_nbytes(info) for info in source.tensors.values())

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._source.tensors

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        tensor = self._source.read(name, index)
        if count := nonfinite(tensor):
            raise ValueError(
                f"{count} of {tensor.size} values of {name} ({self._name}) are NaN or infinite; "
                "nothing is written."
            )
        self._done += tensor.nbytes
        self._report(self._name, self._done, self._total)
        return tensor


@dataclasses.dataclass(frozen=True)
class _Piece:
    """The tensors of a source whose names begin with a prefix, without it."""

    source: TensorSource
    prefix: str

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        named = self.source.tensors.items()
        return {n.removeprefix(self.prefix): i for n, i in named if n.startswith(self.prefix)}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return self.source.read(self.prefix + name, index)


def _nbytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize


def _write(path: Path, source: TensorSource, shard_bytes: int, entry: str = "") -> None:
    """Writes PyTorch's files whole, safetensors in shards with an index if one does not suffice."""
    if path.suffix in (".pth", ".pt"):
        write_torch_zip(path, source, entry)
        return
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in source.tensors.items():
        if shards[-1] and size + _nbytes(info) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _nbytes(info)
    if len(shards) == 1:
        write_safetensors(path, source)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        shard = f"{path.stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(path.with_name(shard), source, names)
        weight_map |= dict.fromkeys(names, shard)
    total = sum(_nbytes(info) for info in source.tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(path.with_name(path.name + ".index.json"), index)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
