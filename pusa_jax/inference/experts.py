"""Denoisers that share the noise levels of a run, all on the devices or one at a time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

WAITING, WORKING = "pinned_host", "device"
"""Kinds of memory: where a denoiser waits, and where it computes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expert:
    """A denoiser and the noise levels it serves.

    Attributes:
      dit: the denoiser.
      first_level: it serves scheduled levels from this one up to the next expert's.
    """

    dit: nnx.Module
    first_level: float = 0.0


def waiting(dit: nnx.Module) -> nnx.Module:
    """The denoiser in the host's memory, cut as it was; its arrays on the devices are freed."""
    return _move(dit, WAITING, frees=True)


def working(module: nnx.Module) -> nnx.Module:
    """A copy of what waits, on the devices."""
    return _move(module, WORKING)


class Experts:
    """The experts of a model, that for the highest noise levels first.

    One at a time: each has a copy that waits in the memory of its host, and one is copied to the
    devices when it is asked for, in place of the one that was there. That costs a transfer of its
    weights whenever the expert changes, and the same program runs them all.
    """

    def __init__(self, experts: Sequence[Expert], *, one_at_a_time: bool = False):
        """Takes experts of one shape; one at a time, theirs are the copies that wait."""
        ordered = sorted(experts, key=lambda expert: -expert.first_level)
        self.first_levels = [expert.first_level for expert in ordered]
        self.one_at_a_time = one_at_a_time
        self._dits = [expert.dit for expert in ordered]
        if one_at_a_time:
            self._dits = [d if _kind(d) == WAITING else waiting(d) for d in self._dits]
        self._here: dict[int, Any] = {}
        config: Any = ordered[0].dit
        self.config = config.config

    def __len__(self) -> int:
        return len(self._dits)

    def __getitem__(self, index: int) -> Expert:
        """An expert whose denoiser is on the devices."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Expert(dit=self.take(index), first_level=self.first_levels[index])

    def serving(self, level: float, boundary: float | None = None) -> int:
        """Which expert serves a scheduled noise level: the first whose range it reaches.

        Args:
          level: before multipliers.
          boundary: where the low-noise expert takes over, instead of where it does by itself.
        """
        firsts = self.first_levels if boundary is None else [boundary, 0.0][-len(self) :]
        return next(i for i, first in enumerate(firsts) if level >= first)

    def take(self, index: int) -> Any:
        """The denoiser, on the devices; one at a time, whichever was there is freed first."""
        if not self.one_at_a_time:
            return self._dits[index]
        for other in [i for i in self._here if i != index]:
            jax.tree.map(lambda leaf: leaf.delete(), self._here.pop(other))
        if index not in self._here:
            self._here[index] = _move(self._dits[index], WORKING)
        return self._here[index]

    def fetch(self, index: int) -> None:
        """Starts to copy an expert while another still computes, where the devices have room."""
        if self.one_at_a_time and index not in self._here and _has_room(self._dits[index]):
            self._here[index] = _move(self._dits[index], WORKING)


def _kind(dit: nnx.Module) -> str | None:
    return jax.tree.leaves(dit)[0].sharding.memory_kind


def _move(dit: nnx.Module, kind: str, *, frees: bool = False) -> Any:
    def move(leaf: jax.Array) -> jax.Array:
        moved = jax.device_put(leaf, leaf.sharding.with_memory_kind(kind))
        if frees:
            moved.block_until_ready()
            leaf.delete()
        return moved

    return jax.tree.map(move, dit)


def _has_room(dit: nnx.Module) -> bool:
    """Whether every device of this process has room for its part; False if it does not say."""
    needed: dict[jax.Device, int] = {}
    for leaf in jax.tree.leaves(dit):
        for shard in leaf.addressable_shards:
            needed[shard.device] = needed.get(shard.device, 0) + shard.data.nbytes
    for device, size in needed.items():
        stats = device.memory_stats() or {}
        free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
        if free < size:
            return False
    return True
