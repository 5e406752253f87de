"""Where everything of a training run lies on a mesh: shapes and shardings before any array is made.

Trained leaves, their moments and their average are cut by the rules of the network, the base
as `step.Sharding` says, clips over the axis `data`. The same shapes serve the run, its checkpoints
and its plan.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pusa_jax.devices.sharding import shardings
from pusa_jax.devices.topologies import GIB
from pusa_jax.inference.mesh_choice import device_limit
from pusa_jax.training.state import TrainState
from pusa_jax.training.step import Frozen, Recipe, first_state, model_shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Shapes with shardings of what the training step takes.

    Attributes:
      mesh: the devices.
      state: shapes in the places of a `state.TrainState`.
      frozen: shapes in the places of a `step.Frozen`.
      batch: shapes of `latents` [B, F, h, w, C] and `text` [B, L, E].
    """

    mesh: Mesh
    state: TrainState
    frozen: Frozen
    batch: dict[str, jax.ShapeDtypeStruct]

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, P())

    def rows(self, devices: Collection[jax.Device] | None = None) -> tuple[int, ...]:
        """Which clips of a batch this process has to provide, in order; they may have gaps.

        Args:
          devices: those that need clips; the ones of this process, if not given.
        """
        leaf = self.batch["latents"]
        assert isinstance(leaf.sharding, NamedSharding)
        devices = leaf.sharding.addressable_devices if devices is None else devices
        slices = leaf.sharding.devices_indices_map(leaf.shape)
        needed = (range(*slices[device][0].indices(leaf.shape[0])) for device in devices)
        return tuple(sorted(set(itertools.chain.from_iterable(needed))))

    def global_batch(self, host: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Arrays of the whole batch from the shares of all processes."""
        return {
            name: jax.make_array_from_process_local_data(
                leaf.sharding, host[name].astype(leaf.dtype), leaf.shape
            )
            for name, leaf in self.batch.items()
        }


def placement(
    recipe: Recipe,
    mesh: Mesh,
    batch_size: int,
    clip_shape: tuple[int, ...],
    text_shape: tuple[int, ...],
) -> Placement:
    """Plans a run on a mesh.

    Args:
      recipe: what is trained.
      mesh: its `data` axis must divide each part of a batch.
      batch_size: clips per optimizer step, on all devices together.
      clip_shape: [F, h, w, C].
      text_shape: [L, E].

    Raises:
      ValueError: the batch cannot be cut into parts over the devices, or a leaf does not go with
        the mesh.
    """
    data, parts = mesh.shape["data"], recipe.optimizer.accumulate
    if batch_size < 1 or batch_size % (data * parts):
        raise ValueError(
            f"batch_size must be a multiple of mesh data={data} times accumulate={parts}, got "
            f"{batch_size}; devices that have no clip of their own can share one over mesh.context."
        )
    leaves = model_shapes(recipe)
    state = jax.eval_shape(lambda base, key: first_state(recipe, base, key), leaves, _root_key())
    base = {} if recipe.adapter is None else leaves
    no_text = jax.ShapeDtypeStruct((1, *text_shape), jnp.bfloat16)

    def placed(tree, table):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings(tree, table, mesh),
        )

    return Placement(
        mesh=mesh,
        state=placed(state, recipe.master_rules),
        frozen=Frozen(
            base=placed(base, recipe.weight_rules),
            no_text=jax.ShapeDtypeStruct(
                no_text.shape, no_text.dtype, sharding=NamedSharding(mesh, P())
            ),
        ),
        batch={
            name: jax.ShapeDtypeStruct(
                (batch_size, *shape), jnp.bfloat16, sharding=NamedSharding(mesh, P("data"))
            )
            for name, shape in (("latents", clip_shape), ("text", text_shape))
        },
    )


def check_memory(placed: Placement) -> None:
    """Makes sure that what stays on the devices all the time has room there; makes no array.

    What else a step needs is known once it is compiled: that is what `pusa-jax plan train` is for.

    Raises:
      ValueError: one line that says how much is needed and how much there is.
    """
    leaves = jax.tree.leaves((placed.state, placed.frozen))
    needed = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
    )
    limit = device_limit(placed.mesh)
    if limit is not None and needed > limit:
        what = "adapters and their frozen base" if placed.frozen.base else "the weights"
        raise ValueError(
            f"{what}, with the optimizer's state, take {needed / GIB:.1f} GiB of each of "
            f"{placed.mesh.size} devices, which have {limit / GIB:.1f}, before any step: use more "
            "devices or a smaller model; pusa-jax plan train says what fits."
        )


def shardings_of(tree: Any) -> Any:
    """The shardings of a tree of shapes."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def _root_key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
