"""Says what a training run needs on chips that need not be here: compiles the step of the loop."""

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.devices.topologies import Topology
from pusa_jax.planning.report import Report, compile_report
from pusa_jax.training.config import RunConfig
from pusa_jax.training.layout import placement
from pusa_jax.training.loop import jit_step
from pusa_jax.training.metrics import step_flops


def plan_training(run: RunConfig, topology: Topology) -> Report:
    """Compiles one optimizer step for a topology, on the mesh that the run's settings ask for.

    Raises:
      ValueError: mesh, batch and model do not go together.
      ImportError: the plugin for the topology is missing.
    """
    devices = topology.devices()
    mesh = make_mesh(run.mesh.shape(len(devices)), devices)
    placed = placement(run.recipe, mesh, run.data.batch_size, run.clip_shape, run.text_shape)
    return compile_report(
        describe(run),
        jit_step(run.recipe, placed),
        (placed.state, placed.frozen, placed.batch),
        topology=topology,
        mesh=mesh,
        model_flops=step_flops(run.recipe, placed.batch["latents"].shape),
    )


def describe(run: RunConfig) -> str:
    """A step of a run in words."""
    data, what = run.data, "all weights"
    if run.adapter is not None:
        what = f"adapters of rank {run.adapter.rank}"
    return (
        f"training step of {run.model.preset or 'a model of its own'}, {what}, batch "
        f"{data.batch_size} of {data.height}x{data.width}, {data.num_frames} frames, "
        f"{run.model.dtype}, remat {run.model.remat}"
    )
