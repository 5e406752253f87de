"""Which mesh a sampling run uses: those worth trying, the one taken when none is asked for, checks.

The two passes of guidance need nothing from each other, so a mesh with an even `data` axis runs
them beside each other (`is_together`); any other runs them in turn. The remaining devices share the
tokens over `context`.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
from jax.sharding import AbstractMesh, Mesh

from pusa_jax.devices.sharding import make_mesh, shardings
from pusa_jax.devices.topologies import GIB
from pusa_jax.models.family import DenoiserConfig, Family, Name
from pusa_jax.typing import Precision

PASSES = 2
"""Forwards of one step with guidance: prompt and negative prompt."""

Resident = Literal["one", "all"]
"""Which experts of a model lie on the devices: all, or the one at work, the others on the host."""

ROOM = 0.25
"""Part of a device's memory that is left to all but the weights of denoisers."""

MeshLike = Mapping[str, int] | Mesh | None
"""Sizes of the axes, a mesh, or None for the one that `choose_mesh` finds sensible."""


def is_together(mesh: Mesh | AbstractMesh) -> bool:
    """Whether the two passes of guidance run beside each other, on different devices."""
    return mesh.shape.get("data", 1) % PASSES == 0


def sensible_meshes(num_devices: int, num_heads: int, guided: bool) -> Iterator[dict[str, int]]:
    """Meshes worth compiling for: tokens over `context`, guidance over `data`, a little `tensor`.

    The two passes of guidance need nothing from each other, so splitting them comes first. Heads
    over `tensor` are tried where they divide and leave room for `context`.
    """
    for data in (2, 1) if guided and num_devices % 2 == 0 else (1,):
        rest = num_devices // data
        for tensor in (1, 2) if rest % 2 == 0 and num_heads % 2 == 0 and rest > 2 else (1,):
            yield {"data": data, "context": rest // tensor, "tensor": tensor}


def choose_mesh(
    asked: MeshLike, family: Family, config: DenoiserConfig, *, guided: bool = True
) -> Mesh:
    """The mesh of a run, found to go with devices and model before anything is loaded.

    Args:
      asked: None takes all devices: guidance over `data`, tokens over `context`. A `Mesh` may have
        fewer.
      family: of the DiT.
      config: of the DiT.
      guided: whether both passes of guidance are needed; matters only for None.

    Raises:
      ValueError: one line; the mesh does not go with the devices, or an axis does not divide what
        it must.
    """
    if isinstance(asked, Mesh):
        mesh = asked
    elif asked is None:
        count = jax.device_count()
        mesh = make_mesh(next(sensible_meshes(count, config.num_heads, guided)))
    else:
        mesh = make_mesh(asked)
    check_mesh(mesh, family, config)
    return mesh


def check_mesh(mesh: Mesh, family: Family, config: DenoiserConfig) -> None:
    """Raises ValueError, in one line, if an axis of the mesh does not divide what it must."""
    tensor, heads = mesh.shape["tensor"], config.num_heads
    if heads % tensor:
        fits = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ValueError(f"tensor={tensor} does not divide the {heads} heads; use one of {fits}.")
    network = family.networks["dit"]
    shardings(network.shapes(config), network.sharding, mesh)


def choose_resident(
    asked: Resident | None,
    mesh: Mesh,
    family: Family,
    config: DenoiserConfig,
    dtype: Precision,
    limit: int | None,
) -> Resident:
    """Which experts of a model lie on the devices: those asked for, or all if they fit.

    Args:
      asked: None takes "all" where the weights of all leave `ROOM` for the rest of a run.
      mesh: of the run.
      family: of the denoisers.
      config: of each.
      dtype: that they are loaded in.
      limit: bytes of a device, see `device_limit`; None if not known.
    """
    if len(family.experts) == 1:
        return "all"
    if asked is not None:
        return asked
    needed = len(family.experts) * weight_bytes(mesh, family, config, dtype)
    return "all" if limit is None or needed <= (1 - ROOM) * limit else "one"


def check_memory(
    mesh: Mesh,
    family: Family,
    config: DenoiserConfig,
    dtype: Precision,
    resident: Resident = "all",
) -> None:
    """Raises ValueError, in one line, if the DiT's weights alone are more than a device holds.

    What else a run needs is known once it is compiled: that is what `pusa-jax plan` is for.
    """
    count = len(family.experts) if resident == "all" else 1
    needed, limit = count * weight_bytes(mesh, family, config, dtype), device_limit(mesh)
    if limit is not None and needed > limit:
        what = f"of {count} experts " if count > 1 else ""
        instead = (
            "use more, or keep one there at a time (--resident one)" if count > 1 else "use more"
        )
        raise ValueError(
            f"the DiT's weights {what}in {dtype} take {needed / GIB:.1f} GiB of each of "
            f"{mesh.size} devices, which have {limit / GIB:.1f}: {instead}; pusa-jax plan says "
            "what fits."
        )


@functools.lru_cache(maxsize=64)
def weight_bytes(
    mesh: Mesh, family: Family, config: Any, dtype: Precision, name: Name = "dit"
) -> int:
    """What a network, if nothing else is said one denoiser, takes of each device."""
    network = family.networks[name]
    leaves = network.shapes(dataclasses.replace(config, param_dtype=dtype))
    placed = shardings(leaves, network.sharding, mesh)
    return sum(
        math.prod(placed[path].shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for path, leaf in leaves.items()
    )


def device_limit(mesh: Mesh) -> int | None:
    """Bytes that the smallest device of this process holds; None if not known."""
    limits = [memory_of(device, len(mesh.local_devices)) for device in mesh.local_devices]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_of(device: jax.Device, sharers: int) -> int | None:
    """Bytes a device can hold; None if not known. CPU devices in use share those of the machine."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return machine // sharers
    return (device.memory_stats() or {}).get("bytes_limit")
