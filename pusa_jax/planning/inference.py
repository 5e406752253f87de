"""Says what fits before anything is queued: compiles the real programs for chips that need not be.

The program is the one that `pipeline` runs for every step, for the shapes, dtypes and shardings it
would have; only the arrays are missing.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from pusa_jax.devices.sharding import Entry, fit, make_mesh, shardings
from pusa_jax.devices.topologies import Topology
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.sampling import Row, rows_of
from pusa_jax.diffusion.solvers import Solver
from pusa_jax.inference.mesh_choice import PASSES, Resident, is_together, sensible_meshes
from pusa_jax.inference.settings import Configs, latent_shape
from pusa_jax.inference.step import jitted_step
from pusa_jax.models.family import DenoiserConfig, Name, NetworkConfig, Preset
from pusa_jax.planning.report import Report, compile_report
from pusa_jax.typing import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be sampled.

    Attributes:
      name: of the preset, for the report.
      preset: the networks; its family says whether there are several experts.
      settings: size and guidance.
      dtype: of the DiT's weights and matrix products.
      resident: whether the chips hold the one expert at work, and the others wait in host memory,
        or all.
    """

    name: str
    preset: Preset
    settings: SamplingConfig = SamplingConfig()
    dtype: Precision = "bfloat16"
    resident: Resident = "one"

    @property
    def idle(self) -> int:
        """How many experts lie on the chips while another one computes."""
        return len(self.preset.family.experts) - 1 if self.resident == "all" else 0

    @property
    def dit(self) -> DenoiserConfig:
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
    def text_encoder(self) -> NetworkConfig:
        """The text encoder in this run's dtype."""
        return dataclasses.replace(
            self.preset.text, param_dtype=self.dtype, compute_dtype=self.dtype
        )

    @property
    def solver(self) -> Solver:
        """What takes the steps."""
        return self.preset.family.process.solver

    @property
    def row(self) -> Row:
        """One step, of a run whose first latent frame is given."""
        family = self.preset.family
        multipliers = np.ones(self.latent_shape[1], np.float32)
        multipliers[0] = 0
        table = family.table(
            dataclasses.replace(self.settings, solver=family.sampling.solver),
            multipliers,
            is_conditioned=True,
            compute_dtype=self.dtype,
        )
        return rows_of(table, self.solver)[0]

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one solver step."""
        return float(self.passes * self.preset.family.flops.velocity(self.dit, self.latent_shape))

    def __str__(self) -> str:
        """The run in words."""
        used = self.settings
        guidance = "guidance" if self.passes == PASSES else "no guidance"
        count = len(self.preset.family.experts)
        experts = f", {self.resident} of {count} experts on the chips" if count > 1 else ""
        return (
            f"{self.name}, {used.height}x{used.width}, {used.num_frames} frames, {self.dtype}, "
            f"{guidance}{experts}"
        )


def abstract(run: Run, name: Name, config: NetworkConfig, mesh: Mesh) -> Any:
    """A network of shapes, with the shardings that its family's rules give its leaves."""
    network = run.preset.family.networks[name]
    module = nnx.eval_shape(lambda: network.build(config))
    return _placed(module, shardings(module, network.sharding, mesh))


def abstract_dit(run: Run, mesh: Mesh) -> Any:
    """The denoiser's shapes and shardings."""
    return abstract(run, "dit", run.dit, mesh)


def abstract_step(run: Run, mesh: Mesh) -> tuple:
    """Shapes and shardings of the arguments of one step, as `step.jitted_step` takes them."""
    family, config = run.preset.family, run.dit

    def shape(dims: Sequence[int], dtype: DTypeLike, *axes: Entry) -> Any:
        sharding = NamedSharding(mesh, fit(dims, axes, mesh.shape))
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    dit = abstract_dit(run, mesh)
    together = is_together(mesh)
    text = jax.ShapeDtypeStruct(
        (PASSES if together else 1, config.text_len, config.text_dim), config.compute_dtype
    )
    stack = () if together else (PASSES,)

    def of_prompts(leaf: Any, cut: PartitionSpec) -> Any:
        axes = cut if together else (None if axis == "data" else axis for axis in cut)
        return shape((*stack, *leaf.shape), leaf.dtype, *(None,) * len(stack), *axes)

    text_of_blocks = jax.eval_shape(family.prepare, dit, text)
    prepared = jax.tree.map(of_prompts, text_of_blocks, family.prepared_axes)
    row = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), run.row)
    scale, latents = shape((), jnp.float32), shape(run.latent_shape, jnp.float32)
    return dit, prepared, scale, run.solver.init(latents), row


def _placed(tree: Any, where: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        where,
    )


def plan_inference(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles one sampling step for a topology and mesh.

    Raises:
      ValueError: the run cannot be sampled, or the mesh does not go with the chips or the model.
      ImportError: the plugin for the topology is missing.
    """
    mesh = make_mesh(mesh_shape, topology.devices())
    step = abstract_step(run, mesh)
    dit, prepared, *_ = step
    return compile_report(
        f"one step of {run}",
        jitted_step(run.preset.family, mesh),
        step,
        topology=topology,
        mesh=mesh,
        model_flops=run.step_flops,
        sharers=_sharers(run, mesh),
        resident=[(dit, prepared)] * run.idle,
        unknown_trips=run.passes,
    )


def _sharers(run: Run, mesh: Mesh) -> int:
    """Devices that share one step's work; a longer `data` axis only cuts weights further."""
    passes = run.passes if is_together(mesh) else 1
    return passes * mesh.shape["context"] * mesh.shape["tensor"]


def plan_text(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles the text encoder for one prompt; the DiT is on the chips already.

    Raises:
      ValueError, ImportError: see `plan_inference`.
    """
    if not run.preset.family.reads_text:
        raise ValueError(f"{run.name} has no text encoder: prompts are numbers of classes.")
    mesh, config = make_mesh(mesh_shape, topology.devices()), run.text_encoder
    family, everywhere = run.preset.family, NamedSharding(mesh, PartitionSpec())
    ids = jax.ShapeDtypeStruct((1, run.dit.text_len), jnp.int32, sharding=everywhere)
    encoder = abstract(run, "text_encoder", config, mesh)
    return compile_report(
        f"the text encoder for one prompt of {run}",
        jax.jit(family.encode_prompt, out_shardings=everywhere),
        (encoder, ids, ids),
        topology=topology,
        mesh=mesh,
        model_flops=float(family.flops.text_encoder(config)),
        resident=[abstract_dit(run, mesh)] * (1 + run.idle),
    )


def plan_decode(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles the VAE for a latent frame of one tile, on one device beside its part of the DiT.

    Raises:
      ValueError, ImportError: see `plan_inference`.
    """
    mesh, config = make_mesh(mesh_shape, topology.devices()), run.preset.vae
    family, codec = run.preset.family, run.preset.family.codec
    alone = make_mesh({}, mesh.devices.flatten()[:1])
    sharding = NamedSharding(alone, PartitionSpec())
    autoencoder = abstract(run, "vae", config, alone)
    tile = jax.ShapeDtypeStruct(
        (1, 1, *codec.sampling_tiles.size, config.z_dim), jnp.float32, sharding=sharding
    )
    pixels, cache = jax.eval_shape(codec.decode.first, autoencoder, tile)
    cache = _placed(cache, jax.tree.map(lambda leaf: sharding, cache))
    size = math.prod(pixels.shape[2:4]) * config.temporal_stride
    return compile_report(
        f"the VAE for four frames of one tile of {run}",
        jax.jit(codec.decode.next),
        (autoencoder, tile, cache),
        topology=topology,
        mesh=alone,
        model_flops=family.flops.decode_per_pixel * size,
        resident=[abstract_dit(run, mesh)] * (1 + run.idle),
    )


STAGES = {"denoise": plan_inference, "text": plan_text, "decode": plan_decode}
"""What a run does one after the other: each has the chips to itself, but for the DiT's weights."""


def plan_meshes(
    run: Run, topology: Topology, on_report: Callable[[Report], None] = lambda report: None
) -> list[Report]:
    """Compiles a step for each sensible mesh; the recommended one comes first.

    Recommended is, of those that fit, the one that computes and sends for the shortest time, and of
    equals the one that needs least memory.
    """
    reports = []
    for shape in _meshes(run, topology):
        reports.append(plan_inference(run, topology, shape))
        on_report(reports[-1])
    return sorted(reports, key=_cost)


def usual_mesh(run: Run, topology: Topology) -> dict[str, int]:
    """The mesh that a run takes if none is asked for."""
    return next(_meshes(run, topology))


def _meshes(run: Run, topology: Topology) -> Iterator[dict[str, int]]:
    num_devices = topology.chips * topology.chip.devices
    return iter(sensible_meshes(num_devices, run.dit.num_heads, run.passes == PASSES))


def _cost(report: Report) -> tuple:
    roofline = report.roofline
    seconds = roofline.compute + roofline.link if roofline else 0.0
    return (not report.fits, seconds, report.peak_bytes)
