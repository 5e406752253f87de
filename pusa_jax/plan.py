"""Says what fits before anything is queued: compiles the real programs for chips that need not be.

The program is the one that `pipeline` runs for every step, for the shapes, dtypes and shardings it
would have; only the arrays are missing.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.tasks import latent_frames
from pusa_jax.flops import velocity_flops
from pusa_jax.models.wan import rules
from pusa_jax.models.wan.config import DiTConfig, Precision, Preset
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.pipeline import denoise_part
from pusa_jax.report import Report, compile_report
from pusa_jax.sharding import fit, make_mesh, shardings
from pusa_jax.topologies import Topology

PASSES = 2
"""Forwards of one step with guidance: prompt and negative prompt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be sampled.

    Attributes:
      name: of the preset, for the report.
      height, width: pixels.
      num_frames: pixel frames.
      guided: whether the guidance scale is not 1.
      dtype: of the DiT's weights and matrix products.
    """

    name: str
    preset: Preset
    height: int = 480
    width: int = 832
    num_frames: int = 81
    guided: bool = True
    dtype: Precision = "bfloat16"

    @property
    def dit(self) -> DiTConfig:
        """The DiT in this run's dtype."""
        return dataclasses.replace(
            self.preset.dit, param_dtype=self.dtype, compute_dtype=self.dtype
        )

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """[1, F, h, w, C].

        Raises:
          ValueError: a size or the number of frames does not fit.
        """
        vae, patch = self.preset.vae, self.preset.dit.patch_size[1]
        for name, size in (("height", self.height), ("width", self.width)):
            multiple = vae.spatial_stride * patch
            if size < multiple or size % multiple:
                raise ValueError(f"{name} must be divisible by {multiple}, got {size}.")
        f = latent_frames(self.num_frames, vae.temporal_stride)
        h, w = (size // vae.spatial_stride for size in (self.height, self.width))
        return (1, f, h, w, vae.z_dim)

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one solver step."""
        passes = PASSES if self.guided else 1
        return float(passes * velocity_flops(self.dit, self.latent_shape))

    def __str__(self) -> str:
        guidance = "guidance" if self.guided else "no guidance"
        return (
            f"one step of {self.name}, {self.height}x{self.width}, {self.num_frames} frames, "
            f"{self.dtype}, {guidance}"
        )


def abstract_step(run: Run, mesh: Mesh) -> tuple:
    """Shapes and shardings of the arguments of `pipeline.denoise_part` for one step."""
    config, latents = run.dit, run.latent_shape

    def shape(dims: Sequence[int], dtype: DTypeLike, *axes: str) -> Any:
        sharding = NamedSharding(mesh, fit(dims, axes, mesh.shape))
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    dit = nnx.eval_shape(lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    dit = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        dit,
        shardings(dit, rules.DIT, mesh),
    )
    heads = (config.num_heads, config.head_dim)
    text_kv = shape(
        (PASSES, config.num_layers, 1, config.text_len, *heads), config.compute_dtype, "data"
    )
    f = latents[1]
    table = NoiseTable(sigmas=shape((2, f), jnp.float32), timesteps=shape((1, f), jnp.float32))
    return dit, (text_kv, text_kv), shape((), jnp.float32), shape(latents, jnp.float32), table


def plan_inference(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles one sampling step for a topology and mesh.

    Raises:
      ValueError: the run cannot be sampled, or the mesh does not go with the chips or the model.
      ImportError: the plugin for the topology is missing.
    """
    mesh = make_mesh(mesh_shape, topology.devices())
    return compile_report(
        str(run),
        jax.jit(denoise_part, keep_unused=True),  # weights of the projected text stay resident
        abstract_step(run, mesh),
        topology=topology,
        mesh=mesh,
        model_flops=run.step_flops,
        unknown_trips=PASSES if run.guided else 1,
    )


def sensible_meshes(num_devices: int, num_heads: int, guided: bool) -> Iterator[dict[str, int]]:
    """Meshes worth compiling for: tokens over `context`, guidance over `data`, a little `tensor`.

    The two passes of guidance need nothing from each other, so splitting them comes first. Heads
    over `tensor` are tried where they divide and leave room for `context`.
    """
    for data in (2, 1) if guided and num_devices % 2 == 0 else (1,):
        rest = num_devices // data
        for tensor in (1, 2) if rest % 2 == 0 and num_heads % 2 == 0 and rest > 2 else (1,):
            yield {"data": data, "context": rest // tensor, "tensor": tensor}


def plan_meshes(
    run: Run, topology: Topology, on_report: Callable[[Report], None] = lambda report: None
) -> list[Report]:
    """Compiles for each sensible mesh; the recommended one comes first.

    Recommended is, of those that fit, the one that computes and sends for the shortest time, and of
    equals the one that needs least memory.
    """
    num_devices = topology.chips * topology.chip.devices
    reports = []
    for shape in sensible_meshes(num_devices, run.dit.num_heads, run.guided):
        reports.append(plan_inference(run, topology, shape))
        on_report(reports[-1])
    return sorted(reports, key=_cost)


def _cost(report: Report) -> tuple:
    roofline = report.roofline
    seconds = roofline.compute + roofline.link if roofline else 0.0
    return (not report.fits, seconds, report.peak_bytes)
