"""Accelerators by name, whether they are here or not: their limits, and devices to compile for.

    v6e:2x4   a TPU slice of 2 x 4 chips, described by libtpu
    h100:8    a box of 8 GPUs, described to XLA by the texts made here
    local     the devices jax sees

Peaks are the vendors' figures for dense bfloat16 products; memory bandwidth and what a chip can
send to its neighbours (one way, all links together) are theirs too. Usable memory of TPUs is what
libtpu names when a program does not fit; of a GPU it is the share that jax takes.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Literal

import jax
import numpy as np
from jax.experimental import topologies

GIB = 2**30
GPUS_PER_HOST = 8
DEFAULT_GPU_SHARE = 0.75
"""Share of a GPU's memory that jax takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator chip.

    Attributes:
      kind: what jax calls a device of it.
      memory: bytes of HBM, of a TPU those that a program can use; None where that is not known.
      flops: dense bfloat16 FLOP/s, or None where that is not known.
      bandwidth: bytes per second between chip and HBM.
      link: bytes per second it can send to other chips.
      devices: jax devices per chip; a mesh is made of devices.
      grid: axes of a TPU slice, 0 for others.
    """

    platform: Literal["tpu", "gpu", "cpu"]
    kind: str
    memory: int | None = None
    flops: float | None = None
    bandwidth: float | None = None
    link: float | None = None
    devices: int = 1
    grid: int = 0


def _tpu(kind, memory_gib, tflops, gb_per_s, link_gb_per_s, grid, devices=1) -> Chip:
    return Chip(
        platform="tpu",
        kind=kind,
        memory=round(memory_gib * GIB),
        flops=tflops * 1e12,
        bandwidth=gb_per_s * 1e9,
        link=link_gb_per_s * 1e9,
        grid=grid,
        devices=devices,
    )


def _gpu(kind, memory, tflops, gb_per_s, link_gb_per_s) -> Chip:
    return Chip(
        platform="gpu",
        kind=f"NVIDIA {kind}",
        memory=memory,
        flops=tflops * 1e12,
        bandwidth=gb_per_s * 1e9,
        link=link_gb_per_s * 1e9,
    )


CHIPS = {
    "v4": _tpu("TPU v4", 30.75, 275, 1228, 300, 3),
    "v5e": _tpu("TPU v5 lite", 15.75, 197, 819, 200, 2),
    "v5p": _tpu("TPU v5", 95.74, 459, 2765, 600, 3),
    "v6e": _tpu("TPU v6 lite", 31.25, 918, 1640, 400, 2),
    "tpu7x": _tpu("TPU7x", 2 * 94.75, 2307, 7380, 600, 3, devices=2),
    "a100": _gpu("A100", 85_100_068_864, 312, 2039, 300),
    "h100": _gpu("H100", 84_942_979_072, 989, 3352, 450),
    "h200": _gpu("H200", 151_397_597_184, 989, 4800, 450),
    "b200": _gpu("B200", 191_514_411_008, 2250, 7672, 900),
    "rtx4090": _gpu("GeForce RTX 4090", 25_757_220_864, 165, 1008, 32),
}
"""Name -> chip. GPUs are the SXM forms, but for the RTX; A100 is the one with 80 GB."""

_GPU_DETAILS = {
    "a100": {"cores": 108, "lanes": 64, "core_smem": 167936, "block_smem": 166912,
             "l2": 41943040, "ghz": 1.41, "compute": "major: 8 minor: 0"},
    "h100": {"cores": 132, "lanes": 128, "core_smem": 233472, "block_smem": 232448,
             "l2": 52428800, "ghz": 1.98,
             "compute": "major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES"},
    "h200": {"cores": 132, "lanes": 128, "core_smem": 233472, "block_smem": 232448,
             "l2": 52428800, "ghz": 1.98,
             "compute": "major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES"},
    "b200": {"cores": 148, "lanes": 128, "core_smem": 233472, "block_smem": 232448,
             "l2": 132644864, "ghz": 1.965,
             "compute": "major: 10 minor: 0 feature_extension: ACCELERATED_FEATURES"},
    "rtx4090": {"cores": 128, "lanes": 128, "core_smem": 102400, "block_smem": 101376,
                "l2": 75497472, "ghz": 2.52, "compute": "major: 8 minor: 9"},
}  # fmt: skip
"""What the compiler asks of a GPU besides the above: multiprocessors, lanes, bytes of caches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """So many chips of one kind.

    Attributes:
      name: as given: "v6e:2x4", "h100:8", "local".
      shape: chips along each axis of a TPU slice, or (count,).
      limit: bytes that programs may use on one chip, or None where there is no limit of its own.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    limit: int | None

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def is_local(self) -> bool:
        """Whether the devices are those of this process."""
        return self.name == "local"

    def devices(self) -> list[jax.Device]:
        """Devices to make a mesh of; those that are not here can be compiled for, not run on.

        Raises:
          ImportError: the plugin that describes them is not installed.
          ValueError: the chips cannot be arranged that way.
        """
        if self.is_local:
            return jax.devices()
        describe = _describe_tpus if self.chip.platform == "tpu" else _describe_gpus
        return list(describe(self).devices)


def known_names() -> str:
    """One line that names every topology."""
    grids = {2: "AxB", 3: "AxBxC"}
    tpus = [f"{name}:{grids[chip.grid]}" for name, chip in CHIPS.items() if chip.grid]
    gpus = [f"{name}:COUNT" for name, chip in CHIPS.items() if chip.platform == "gpu"]
    return ", ".join([*tpus, *gpus, "local"])


def parse_topology(name: str) -> Topology:
    """Reads "v6e:2x4", "h100:8" or "local".

    Raises:
      ValueError: no such chip, or the sizes do not fit it; the message lists the known ones.
    """
    if name == "local":
        return local_topology()
    family, _, sizes = name.partition(":")
    chip = CHIPS.get(family)
    if chip is None:
        raise ValueError(f"unknown topology {name!r}; known: {known_names()}.")
    axes = chip.grid or 1
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or sizes.count("x") != axes - 1:
        example = "x".join("2" * axes) if chip.grid else "8"
        raise ValueError(
            f"topology {name!r} must give {axes} size{'s' * (axes > 1)} for {family}, like "
            f"{family}:{example}; known: {known_names()}."
        )
    shape = tuple(int(size) for size in sizes.split("x"))
    if chip.platform == "gpu" and shape[0] > GPUS_PER_HOST and shape[0] % GPUS_PER_HOST:
        raise ValueError(
            f"{name!r}: more than {GPUS_PER_HOST} GPUs come in whole boxes of {GPUS_PER_HOST}."
        )
    return Topology(name=name, chip=chip, shape=shape, limit=_limit(chip))


def _limit(chip: Chip) -> int | None:
    """Of a TPU all of its memory, of a GPU the share that jax takes."""
    if chip.memory is None or chip.platform != "gpu":
        return chip.memory
    share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
    return int(chip.memory * (float(share) if share else DEFAULT_GPU_SHARE))


def local_topology() -> Topology:
    """The devices jax sees, with the figures of their kind where those are known."""
    device = jax.devices()[0]
    known = [chip for chip in CHIPS.values() if device.device_kind.startswith(chip.kind)]
    chip = max(known, key=lambda chip: len(chip.kind), default=None)
    if chip is None:
        platform = device.platform if device.platform in ("tpu", "gpu") else "cpu"
        chip = Chip(platform=platform, kind=device.device_kind)
    stats = None if chip.platform == "cpu" else device.memory_stats()
    limit = stats["bytes_limit"] * chip.devices if stats else _limit(chip)
    count = len(jax.devices()) // chip.devices
    return Topology(name="local", chip=chip, shape=(count,), limit=limit)


def prepare_process(topology: Topology) -> None:
    """Sets what the plugins read when they start; call it before jax starts its back ends.

    No accelerator of this machine is claimed, so one can plan while another process computes.
    """
    if topology.is_local:
        return
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if topology.chip.platform == "tpu":
        for name, value in _LIBTPU_WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
        return
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    flags = os.environ.get("XLA_FLAGS", "")
    for flag, value in _GPU_FLAGS.items():
        if flag not in flags:
            flags += f" {flag}={value}"
    os.environ["XLA_FLAGS"] = flags.strip()


_GPU_FLAGS = {"--xla_gpu_autotune_level": "0", "--xla_gpu_enable_triton_gemm": "false"}
"""Autotuning would run kernels; without it XLA picks tiles for Triton's products blindly, and some
do not fit their product."""

_LIBTPU_WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v6e-8",
    "TPU_MIN_LOG_LEVEL": "3",
}
"""Lets libtpu be loaded while another process holds the TPU, and keeps it from asking a metadata
server and complaining that there is none; the type is not looked at when a topology is named."""


def _describe_tpus(topology: Topology):
    _require("libtpu", "tpu", topology)
    host = [2 - size % 2 for size in topology.shape[:2]] + [1]
    options: dict = {"chips_per_host_bounds": host}
    if topology.chip.kind == "TPU v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as jax runs it
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu refuses topology {topology.name!r}: {error}") from None


def _describe_gpus(topology: Topology):
    _require("jax_cuda13_plugin", "cuda", topology)
    per_host = min(topology.chips, GPUS_PER_HOST)
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name=topology.name,
        topology=f"1x{topology.chips // per_host}x{per_host}",
        target_config=_target_config(topology),
    )


def _require(module: str, extra: str, topology: Topology) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"topology {topology.name!r} needs {module}, which is not installed: "
            f'pip install "pusa_jax[{extra}]".'
        )


def _target_config(topology: Topology) -> str:
    """XLA's GpuTargetConfig in protobuf text form."""
    chip, more = topology.chip, _GPU_DETAILS[topology.name.partition(":")[0]]
    assert chip.memory is not None and chip.bandwidth is not None
    return f"""
      platform_name: "CUDA"
      device_description_str: "{chip.kind}"
      dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
      gpu_device_info {{
        cuda_compute_capability {{ {more["compute"]} }}
        core_count: {more["cores"]}
        fpus_per_core: {more["lanes"]}
        clock_rate_ghz: {more["ghz"]}
        device_memory_size: {int(chip.memory)}
        memory_bandwidth: {int(chip.bandwidth)}
        l2_cache_size: {more["l2"]}
        shared_memory_per_core: {more["core_smem"]}
        shared_memory_per_block: 49152
        shared_memory_per_block_optin: {more["block_smem"]}
        registers_per_core_limit: 65536
        registers_per_block_limit: 65536
        threads_per_core_limit: 2048
        threads_per_block_limit: 1024
        threads_per_warp: 32
        block_dim_limit_x: {np.iinfo(np.int32).max}
        block_dim_limit_y: 65535
        block_dim_limit_z: 65535
      }}"""
