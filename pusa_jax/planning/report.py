"""What a program needs on the chips it was compiled for, read from the compiled program.

Nothing is run. Memory is the compiler's own account: what must lie in HBM at the same time, which
is arguments + results - results that reuse arguments + temporaries. What the runtime keeps besides
(kernel workspaces, fragmentation) is not in it.
"""

import dataclasses
import math
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from pusa_jax.devices.topologies import GIB, Topology
from pusa_jax.planning.collectives import Traffic, collectives

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TOO_MUCH = re.compile(
    r"\(([\d.]+)([KMGT]?)\) exceeds available|Used ([\d.]+)([KMGT]?)i?B? of|([\d]+)() bytes"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """The least seconds a run can take, and the peaks that this assumes.

    Attributes:
      compute: model FLOPs at the peak of dense bfloat16 products.
      memory: every byte that is held moved between HBM and chip once.
      link: all collectives at the bandwidth to other chips.
    """

    compute: float
    memory: float
    link: float
    peak_flops: float
    peak_bandwidth: float
    peak_link: float

    @property
    def seconds(self) -> float:
        """The longest of the three: as if they overlapped perfectly."""
        return max(self.compute, self.memory, self.link)

    def parts(self) -> list[tuple[str, str]]:
        """Name and text of each of the three."""
        return [
            ("compute", f"{self.compute:.3g} s at {self.peak_flops / 1e12:.4g} TFLOP/s (bfloat16)"),
            ("memory", f"{self.memory:.3g} s at {self.peak_bandwidth / 1e9:.4g} GB/s"),
            ("link", f"{self.link:.3g} s at {self.peak_link / 1e9:.4g} GB/s one way"),
        ]

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        return max(("compute", "memory", "link"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One compiled program. Bytes and FLOPs are per chip, for one run of the program.

    Attributes:
      program: what was compiled, in words.
      mesh: axis -> size.
      resident_bytes: weights that lie on the chip besides, while the program runs.
      temporary_bytes: None where the compiler gave up for lack of memory.
      peak_bytes: what one chip must hold at once.
      limit_bytes: what a program may use, or None where there is no limit of its own.
      model_flops: by formula, not by the compiler's count.
      traffic: collective operation -> how many and what one chip sends.
    """

    program: str
    topology: Topology
    mesh: dict[str, int]
    resident_bytes: int = 0
    argument_bytes: int
    output_bytes: int | None
    temporary_bytes: int | None
    peak_bytes: int
    model_flops: float
    traffic: dict[str, Traffic]
    compile_seconds: float

    @property
    def limit_bytes(self) -> int | None:
        """Bytes that a program may use on one chip, or None."""
        return self.topology.limit

    @property
    def margin_bytes(self) -> int | None:
        """What is left, negative where it does not fit."""
        return None if self.limit_bytes is None else self.limit_bytes - self.peak_bytes

    @property
    def fits(self) -> bool:
        """Whether the compiler managed and stayed within the limit."""
        return self.temporary_bytes is not None and (self.margin_bytes or 0) >= 0

    @property
    def roofline(self) -> Roofline | None:
        """None where the chip's peaks are not known."""
        chip = self.topology.chip
        if chip.flops is None or chip.bandwidth is None or chip.link is None:
            return None
        return Roofline(
            compute=self.model_flops / chip.flops,
            memory=self.peak_bytes / chip.bandwidth,
            link=sum(traffic.bytes for traffic in self.traffic.values()) / chip.link,
            peak_flops=chip.flops,
            peak_bandwidth=chip.bandwidth,
            peak_link=chip.link,
        )

    def record(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        roofline = self.roofline
        return {
            "program": self.program,
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "devices": self.topology.chips * self.topology.chip.devices,
            "mesh": self.mesh,
            "fits": self.fits,
            "peak_bytes": self.peak_bytes,
            "resident_bytes": self.resident_bytes,
            "argument_bytes": self.argument_bytes,
            "output_bytes": self.output_bytes,
            "temporary_bytes": self.temporary_bytes,
            "limit_bytes": self.limit_bytes,
            "margin_bytes": self.margin_bytes,
            "model_flops": self.model_flops,
            "collectives": {op: dataclasses.asdict(t) for op, t in self.traffic.items()},
            "roofline": roofline
            and dataclasses.asdict(roofline)
            | {"seconds": roofline.seconds, "bound": roofline.bound},
            "compile_seconds": round(self.compile_seconds, 1),
        }

    def text(self) -> str:
        """The report for people."""
        chip, rows = self.topology.chip, [("program", self.program)]
        cores = f", {chip.devices} devices each" if chip.devices > 1 else ""
        mesh = ",".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1)
        rows.append(("chips", f"{self.topology.chips} x {chip.kind}{cores}; mesh {mesh or 'none'}"))
        rows.append(("HBM per chip", self._memory_text()))
        rows.append(("model FLOPs", f"{self.model_flops / 1e12:.4g} TFLOP per chip"))
        rows += [
            (op, f"{traffic.count} x, {_size(traffic.bytes)} sent per chip")
            for op, traffic in self.traffic.items()
        ]
        if roofline := self.roofline:
            rows.append(("roofline", f"{roofline.seconds:.3g} s, bound by {roofline.bound}"))
            rows += [(f"  {name}", text) for name, text in roofline.parts()]
        rows.append(("compile", f"{self.compile_seconds:.1f} s"))
        rows.append(("verdict", self._verdict()))
        return "\n".join(f"{name:18}  {text}" for name, text in rows)

    def _memory_text(self) -> str:
        temporaries = "unknown" if self.temporary_bytes is None else _size(self.temporary_bytes)
        outputs = "unknown" if self.output_bytes is None else _size(self.output_bytes)
        limit = "no limit known"
        if self.limit_bytes is not None and self.margin_bytes is not None:
            limit = f"limit {_size(self.limit_bytes)}, margin {_size(self.margin_bytes)}"
        besides = f"resident {_size(self.resident_bytes)}, " if self.resident_bytes else ""
        arguments = _size(self.argument_bytes)
        return (
            f"{_size(self.peak_bytes)} ({besides}arguments {arguments}, temporaries {temporaries}, "
            f"results {outputs}); {limit}"
        )

    def _verdict(self) -> str:
        if self.fits:
            return "fits" if self.limit_bytes is not None else "compiles"
        missing = -(self.margin_bytes or 0)
        return f"does NOT fit: {_size(missing)} too much"


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if abs(count) >= GIB / 100 else f"{count / 2**20:.2f} MiB"


def compile_report(
    program: str,
    jitted: jax.stages.Wrapped,
    args: tuple,
    *,
    topology: Topology,
    mesh: Mesh,
    model_flops: float,
    sharers: int | None = None,
    resident: Any = (),
    unknown_trips: int = 1,
) -> Report:
    """Compiles a program for a topology and reads off what it needs.

    Args:
      program: name for the report.
      jitted: what `jax.jit` returned.
      args: shapes with shardings on `mesh`.
      topology: the mesh's devices belong to it.
      mesh: entered while tracing.
      model_flops: of the whole program, on all chips together.
      sharers: devices that share these out; all, if not given.
      resident: shapes with shardings of what lies on the chips besides.
      unknown_trips: how often loops run whose count is decided at run time.

    Raises:
      ValueError: the program does not go with the mesh.
    """
    since = time.perf_counter()
    per_chip = min(topology.chip.devices, mesh.size)  # a program on one device uses half a TPU7x
    besides = topology.chip.devices * bytes_per_device(resident)
    with jax.set_mesh(mesh):
        lowered = jitted.lower(*args)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            memory = {
                "argument_bytes": per_chip * bytes_per_device(args),
                "output_bytes": None,
                "temporary_bytes": None,
                "peak_bytes": besides + round(per_chip * _bytes_wanted(error)),
            }
            traffic = {}
        else:
            stats: Any = compiled.memory_analysis()
            memory = {
                "argument_bytes": per_chip * stats.argument_size_in_bytes,
                "output_bytes": per_chip * stats.output_size_in_bytes,
                "temporary_bytes": per_chip * stats.temp_size_in_bytes,
                "peak_bytes": besides + per_chip * peak(stats),
            }
            found = collectives(compiled.as_text() or "", unknown_trips)
            traffic = {
                op: Traffic(count=t.count, bytes=per_chip * t.bytes) for op, t in found.items()
            }
    return Report(
        program=program,
        topology=topology,
        mesh=dict(mesh.shape),
        resident_bytes=besides,
        **memory,
        model_flops=per_chip * model_flops / (mesh.size if sharers is None else sharers),
        traffic=traffic,
        compile_seconds=time.perf_counter() - since,
    )


def peak(stats: Any) -> int:
    """Bytes held at once, from `compiled.memory_analysis()`."""
    return (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _bytes_wanted(error: Exception) -> float:
    """How much memory a refused program asked for; raises `error` again if that is not why."""
    message = str(error)
    match = _TOO_MUCH.search(message)
    if "RESOURCE_EXHAUSTED" not in message or match is None:
        raise error
    number, unit = (group for group in match.groups() if group is not None)
    return float(number) * UNITS[unit]
