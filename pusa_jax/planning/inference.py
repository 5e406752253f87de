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
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from pusa_jax.devices.sharding import Entry, Rules, fit, make_mesh, shardings
from pusa_jax.devices.topologies import Topology
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.inference.mesh_choice import PASSES, is_together, sensible_meshes
from pusa_jax.inference.pipeline import TILE
from pusa_jax.inference.settings import Configs, Settings, latent_shape
from pusa_jax.inference.step import jitted_step
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan import sharding as rules
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import DiTConfig, Preset
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.flops import VAE_DECODE_PER_PIXEL, text_encoder_flops, velocity_flops
from pusa_jax.models.wan.text import encode_prompt
from pusa_jax.planning.report import Report, compile_report
from pusa_jax.typing import Precision


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
    def text_encoder(self) -> TextConfig:
        """The text encoder in this run's dtype."""
        return dataclasses.replace(
            self.preset.text, param_dtype=self.dtype, compute_dtype=self.dtype
        )

    @property
    def step_flops(self) -> float:
        """Model FLOPs of one solver step."""
        return float(self.passes * velocity_flops(self.dit, self.latent_shape))

    def __str__(self) -> str:
        """The run in words."""
        used = self.settings
        guidance = "guidance" if self.passes == PASSES else "no guidance"
        return (
            f"{self.name}, {used.height}x{used.width}, {used.num_frames} frames, {self.dtype}, "
            f"{guidance}"
        )


def abstract(build: Callable[[], nnx.Module], table: Rules, mesh: Mesh) -> Any:
    """A network of shapes, with the shardings that a rule table gives its leaves."""
    module = nnx.eval_shape(build)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        module,
        shardings(module, table, mesh),
    )


def abstract_dit(run: Run, mesh: Mesh) -> Any:
    """The DiT's shapes and shardings."""
    return abstract(lambda: WanDiT(run.dit, rngs=nnx.Rngs(0)), rules.DIT, mesh)


def abstract_step(run: Run, mesh: Mesh) -> tuple:
    """Shapes and shardings of the arguments of one step, as `pipeline.jitted_step` takes them."""
    config, f = run.dit, run.latent_shape[1]

    def shape(dims: Sequence[int], dtype: DTypeLike, *axes: Entry) -> Any:
        sharding = NamedSharding(mesh, fit(dims, axes, mesh.shape))
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    layers, *prompt = config.num_layers, config.text_len, config.num_heads, config.head_dim
    axes = ("context", "tensor", None)
    if is_together(mesh):
        text = shape((layers, PASSES, *prompt), config.compute_dtype, None, "data", *axes)
    else:
        text = shape((PASSES, layers, 1, *prompt), config.compute_dtype, None, None, None, *axes)
    table = NoiseTable(sigmas=shape((2, f), jnp.float32), timesteps=shape((1, f), jnp.float32))
    scale, latents = shape((), jnp.float32), shape(run.latent_shape, jnp.float32)
    return abstract_dit(run, mesh), (text, text), scale, latents, table


def plan_inference(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles one sampling step for a topology and mesh.

    Raises:
      ValueError: the run cannot be sampled, or the mesh does not go with the chips or the model.
      ImportError: the plugin for the topology is missing.
    """
    mesh = make_mesh(mesh_shape, topology.devices())
    return compile_report(
        f"one step of {run}",
        jitted_step(mesh),
        abstract_step(run, mesh),
        topology=topology,
        mesh=mesh,
        model_flops=run.step_flops,
        sharers=_sharers(run, mesh),
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
    mesh, config = make_mesh(mesh_shape, topology.devices()), run.text_encoder
    everywhere = NamedSharding(mesh, PartitionSpec())
    ids = jax.ShapeDtypeStruct((1, config.text_len), jnp.int32, sharding=everywhere)
    encoder = abstract(lambda: T5Encoder(config, rngs=nnx.Rngs(0)), rules.TEXT, mesh)
    return compile_report(
        f"the text encoder for one prompt of {run}",
        jax.jit(encode_prompt, out_shardings=everywhere),
        (encoder, ids, ids),
        topology=topology,
        mesh=mesh,
        model_flops=float(text_encoder_flops(config)),
        resident=abstract_dit(run, mesh),
    )


def plan_decode(run: Run, topology: Topology, mesh_shape: Mapping[str, int]) -> Report:
    """Compiles the VAE for a latent frame of one tile, on one device beside its part of the DiT.

    Raises:
      ValueError, ImportError: see `plan_inference`.
    """
    mesh, config = make_mesh(mesh_shape, topology.devices()), run.preset.vae
    alone = make_mesh({}, mesh.devices.flatten()[:1])
    sharding = NamedSharding(alone, PartitionSpec())
    autoencoder = abstract(lambda: vae.WanVAE(config, rngs=nnx.Rngs(0)), rules.VAE, alone)
    tile = jax.ShapeDtypeStruct((1, 1, *TILE, config.z_dim), jnp.float32, sharding=sharding)
    pixels, cache = jax.eval_shape(vae.decode_first, autoencoder, tile)
    cache = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), cache
    )
    size = math.prod(pixels.shape[2:4]) * config.temporal_stride
    return compile_report(
        f"the VAE for four frames of one tile of {run}",
        jax.jit(vae.decode_next),
        (autoencoder, tile, cache),
        topology=topology,
        mesh=alone,
        model_flops=VAE_DECODE_PER_PIXEL * size,
        resident=abstract_dit(run, mesh),
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
