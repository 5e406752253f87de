"""Makes converted folders: written once from a published folder, then loaded by `manifest.py`."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from pusa_jax.convert.folders.belonging import check_belonging
from pusa_jax.convert.folders.manifest import FORMAT, MANIFEST, damage, is_converted
from pusa_jax.convert.folders.published import Published, PublishedNetwork, open_published
from pusa_jax.convert.networks import config_to_json
from pusa_jax.convert.tables import Leaf
from pusa_jax.devices import processes
from pusa_jax.devices.sharding import cut_axis
from pusa_jax.files import sums
from pusa_jax.files.staging import alone, staged
from pusa_jax.models.family import Name

Progress = Callable[[str, int, int], None]
"""Called with what is being worked on, how many bytes are done and how many there are."""


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
    complete. If `dst` already is this very conversion and whole, to the last byte, nothing is done;
    if it is damaged, it is made again. Of several processes that
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
      FileNotFoundError, ValueError: see `open_published` and `bind`; one line each.
      FileExistsError: dst is there and is something else.
      RuntimeError: this process has joined others: they save together, but convert apart.
    """
    if processes.have_joined():
        raise RuntimeError("convert before the processes join, with jax.distributed not started.")
    src, dst, report = Path(src), Path(dst), on_progress or (lambda what, done, total: None)
    if is_converted(src):
        raise ValueError(f"{src} is converted already; use it as it is.")
    published = open_published(src)
    configs: dict[Name, Any] = {
        name: network.config for name, network in published.networks.items()
    }
    check_belonging(src, published.family, configs)
    leaves = published.leaves(dtype=dtype)
    manifest = {
        "format": FORMAT,
        "family": published.family.name,
        "components": {
            name: _describe(network, leaves[name]) for name, network in published.networks.items()
        },
        "tokenizer": published.tokenizer is not None,
    }
    if published.boundary is not None:
        manifest["boundary"] = published.boundary
    waited: list[bool] = []

    def on_wait(who: str):
        waited.append(True)
        report(f"waiting for {who}", 0, 1)

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
    from pusa_jax.weights.store import save_tree  # Orbax, which published weights do not need

    with staged(dst) as work:
        for name, bound in leaves.items():
            save_tree(
                work / name,
                _told(bound, name, report),
                manifest["components"][name],
                functools.partial(cut_axis, rules=published.family.networks[name].sharding),
            )
        if published.tokenizer is not None:
            shutil.copytree(published.tokenizer, work / "tokenizer")
        copied = [str(f.relative_to(work)) for f in (work / "tokenizer").rglob("*") if f.is_file()]
        signed = sums.signed({**manifest, "sums": sums.of_files(work, copied)})
        (work / MANIFEST).write_text(json.dumps(signed, indent=1) + "\n", "utf-8")


def _describe(network: PublishedNetwork, leaves: list[Leaf]) -> dict[str, Any]:
    return {
        "layout": network.layout,
        "files": network.source.sizes(),
        "dtypes": sorted({leaf.dtype.name for leaf in leaves}),
        "config": config_to_json(network.config),
    }


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
    if overwrite or (found := _readable(dst)) is None:
        return False
    if {name: found.get(name) for name in manifest} == manifest:
        return not damage(dst)
    raise FileExistsError(
        f"{dst} is a conversion of something else; choose another folder, or ask to overwrite it."
    )


def _readable(dst: Path) -> Mapping[str, Any] | None:
    """The manifest, of whatever version; None if it is damaged, so that nothing can load it."""
    try:
        manifest = json.loads((dst / MANIFEST).read_text("utf-8"))
    except (ValueError, RecursionError):
        return None
    return None if not isinstance(manifest, dict) or sums.is_damaged(manifest) else manifest
