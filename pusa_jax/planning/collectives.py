"""Counts what a compiled program sends between devices, from its HLO text.

An operation inside a loop counts as often as the loop runs, one inside a fusion or an asynchronous
wrapper once. Bytes are what one device sends with the ring algorithm: among g devices and for a
whole array of n bytes, all-gather and reduce-scatter send n (g-1)/g, all-reduce twice that,
all-to-all (g-1)/g of the device's own part, collective-permute all of it.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

OPS: tuple[str, ...] = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OP = re.compile(r"\s(?:ragged-)?(" + "|".join(OPS) + r")(-start)?\(")
_SHAPE = re.compile(r"\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations|\w+_computation)=")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")

Computations = dict[str, list[str]]
"""Name -> lines of its instructions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """All operations of one kind: how many, and the bytes that one device sends for them."""

    count: int
    bytes: int


def collectives(hlo: str, unknown_trips: int = 1) -> dict[str, Traffic]:
    """Operation -> traffic of one run of a program; operations that do not occur are left out.

    Args:
      hlo: `compiled.as_text()`.
      unknown_trips: how often a loop runs whose count is not in the text.
    """
    computations, entry = _parse(hlo)
    devices = _device_count(hlo)
    counts, sizes = dict.fromkeys(OPS, 0), dict.fromkeys(OPS, 0)

    def visit(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            if match := _OP.search(line):
                counts[match[1]] += times
                sizes[match[1]] += times * _sent(line, match, devices)
            loop = " while(" in line
            inner = times * _trips(line, computations, unknown_trips) if loop else times
            for callee in _callees(line):
                visit(callee, inner)

    visit(entry, 1)
    return {op: Traffic(count=counts[op], bytes=sizes[op]) for op in OPS if counts[op]}


def _parse(hlo: str) -> tuple[Computations, str]:
    """All computations, and the name of the one that is run."""
    computations: Computations = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations[match[2]] = []
            entry = match[2] if match[1] else entry
        elif " = " in line:
            lines.append(line)
    return computations, entry


def _device_count(hlo: str) -> int:
    return math.prod(int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", hlo))


def _callees(line: str) -> Iterator[str]:
    if " async-done(" in line or " async-update(" in line:
        return  # what they name was counted where it was started
    for match in _CALLED.finditer(line):
        rest = line[match.end() :]
        yield from _NAME.findall(rest[: rest.index("}")] if rest[0] == "{" else rest.split(",")[0])


def _trips(line: str, computations: Computations, unknown: int) -> int:
    """How often a loop runs: stated, or the one constant that its condition compares with."""
    if match := _TRIPS.search(line):
        return int(match[1])
    condition = re.search(r"condition=%([\w.\-]+)", line)
    pending, constants = [condition[1]] if condition else [], []
    while pending:
        for inner in computations.get(pending.pop(), ()):
            constants += [int(n) for n in _CONSTANT.findall(inner)]
            pending += _callees(inner)
    return constants[0] if len(constants) == 1 else unknown


def _sent(line: str, match: re.Match, devices: int) -> int:
    """Bytes that one device sends for one operation."""
    shapes = (_bytes(shape) for shape in _SHAPE.finditer(line[: match.start()]))
    op, started, group = match[1], match[2] is not None, _group_size(line, devices)
    total = sum(shapes)  # of the result; a started operation may name its operand before it
    if started and op == "all-gather":
        total = total * group / (group + 1)
    elif started and op == "reduce-scatter":
        total = total / (group + 1)
    elif started and op in ("all-to-all", "collective-permute"):
        total = total / 2
    factor = {
        "all-gather": (group - 1) / group,
        "all-reduce": 2 * (group - 1) / group,
        "reduce-scatter": group - 1,
        "all-to-all": (group - 1) / group,
        "collective-permute": 1,
    }
    return round(total * factor[op])


def _bytes(shape: re.Match) -> int:
    bits = int(shape[1] or 8)
    return math.prod(int(n) for n in shape[2].split(",") if n) * bits // 8


def _group_size(line: str, devices: int) -> int:
    """Devices that take part together, in each of the ways HLO writes groups."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", match[2]))
    return devices
