"""Says what fits before anything is queued: compiles the real programs for chips that need not be.

The program is the one that `pipeline` runs for every step, for the shapes, dtypes and shardings it
would have; only the arrays are missing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.flops import velocity_flops
from pusa_jax.meshes import PASSES, is_together, sensible_meshes
from pusa_jax.models.wan import rules
from pusa_jax.models.wan.config import DiTConfig, Precision, Preset
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.pipeline import Configs, Settings, jitted_step, latent_shape
from pusa_jax.report import Report, compile_report
from pusa_jax.sharding import Entry, fit, make_mesh, shardings
from pusa_jax.topologies import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be sampled.

    Attributes:
      name: of the preset, for the report.
      dtype: of the DiT's weights and matrix products.
    """

    name: str
    preset: Preset
    settings: Settings = Settings()
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
        return latent_shape(self.settings, Configs(dit=self.dit, vae=self.preset.vae))

    @property
    def passes(self) -> int:
        """Forwards of a step: prompt and negative prompt, or the prompt alone."""
        return 1 if self.settings.guidance_scale == 1 else PASSES

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one solver step."""
        return float(self.passes * velocity_flops(self.dit, self.latent_shape))

    def __str__(self) -> str:
        """What one step is, in words."""
        used = self.settings
        guidance = "guidance" if self.passes == PASSES else "no guidance"
        return (
            f"one step of {self.name}, {used.height}x{used.width}, {used.num_frames} frames, "
            f"{self.dtype}, {guidance}"
        )


def abstract_step(run: Run, mesh: Mesh) -> tuple:
    """Shapes and shardings of the arguments of one step, as `pipeline.jitted_step` takes them."""
    config, latents = run.dit, run.latent_shape

    def shape(dims: Sequence[int], dtype: DTypeLike, *axes: Entry) -> Any:
        sharding = NamedSharding(mesh, fit(dims, axes, mesh.shape))
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    dit = nnx.eval_shape(lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    dit = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        dit,
        shardings(dit, rules.DIT, mesh),
    )
    layers, *prompt = config.num_layers, config.text_len, config.num_heads, config.head_dim
    axes = ("context", "tensor", None)
    if is_together(mesh):
        text = shape((layers, PASSES, *prompt), config.compute_dtype, None, "data", *axes)
    else:
        text = shape((PASSES, layers, 1, *prompt), config.compute_dtype, None, None, None, *axes)
    f = latents[1]
    table = NoiseTable(sigmas=shape((2, f), jnp.float32), timesteps=shape((1, f), jnp.float32))
    return dit, (text, text), shape((), jnp.float32), shape(latents, jnp.float32), table


def plan_inference(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles one sampling step for a topology and mesh.

    Raises:
      ValueError: the run cannot be sampled, or the mesh does not go with the chips or the model.
      ImportError: the plugin for the topology is missing.
    """
    mesh = make_mesh(mesh_shape, topology.devices())
    return compile_report(
        str(run),
        jitted_step(mesh),
        abstract_step(run, mesh),
        topology=topology,
        mesh=mesh,
        model_flops=run.step_flops,
        unknown_trips=run.passes,
    )


def plan_meshes(
    run: Run, topology: Topology, on_report: Callable[[Report], None] = lambda report: None
) -> list[Report]:
    """Compiles for each sensible mesh; the recommended one comes first.

    Recommended is, of those that fit, the one that computes and sends for the shortest time, and of
    equals the one that needs least memory.
    """
    num_devices = topology.chips * topology.chip.devices
    reports = []
    for shape in sensible_meshes(num_devices, run.dit.num_heads, run.passes == PASSES):
        reports.append(plan_inference(run, topology, shape))
        on_report(reports[-1])
    return sorted(reports, key=_cost)


def _cost(report: Report) -> tuple:
    roofline = report.roofline
    seconds = roofline.compute + roofline.link if roofline else 0.0
    return (not report.fits, seconds, report.peak_bytes)
