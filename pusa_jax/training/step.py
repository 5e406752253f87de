"""One training step as a pure function: (state, frozen, batch) -> (state, metrics).

    batch --> noised latents, timesteps, target ---+
    params (float32) --cast--> compute dtype --+---+--> denoiser --> losses [B] --> mean
    frozen base (bfloat16, no gradients) ------+                                     |
                                   state <-- AdamW <-- gradients <-------------------+

With adapters the trained leaves are laid around the frozen base; without, they are the model.
Which model it is stands in the recipe: its family builds it, cuts it over a mesh and runs it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pusa_jax.devices.sharding import Rules, constrain_leaves, without_fsdp
from pusa_jax.diffusion.timesteps import clip_keys
from pusa_jax.models.adapters import AdapterConfig, attach, init_adapters
from pusa_jax.models.family import DenoiserConfig, Family, Name, Network
from pusa_jax.training.objective import (
    NoisedBatch,
    ObjectiveConfig,
    Statistics,
    clip_losses,
    frame_errors,
    noised_batch,
)
from pusa_jax.training.state import (
    OptimizerConfig,
    Params,
    TrainState,
    apply_gradients,
    fresh_state,
    learning_rate,
)
from pusa_jax.weights.leaves import assemble

LEVEL_BINS = 5
"""Bins of equal width in which the error is reported by noise level."""

Sharding = Literal["fsdp", "zero"]
"""Where weights lie while the network computes with them; masters and moments are cut in any case.

  fsdp  cut over data and context, gathered layer by layer where they are used
  zero  whole on every device, but for `tensor`: fewer collectives, where there is room
"""

Batch = Mapping[str, jax.Array]
"""`latents` [B, F, h, w, C] and `text` [B, L, E]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """What a run only reads: arrays, or in their places shapes or shardings.

    Attributes:
      base: leaves of the model that adapters are trained for; empty when all leaves are trained.
      no_text: features of the empty prompt, [1, L, E].
    """

    base: Any
    no_text: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, on what, and how: the static part of the step.

    Attributes:
      family: of the network.
      dit: configuration of the network; `compute_dtype` is what it computes in.
      expert: which denoiser of the family it is.
      adapter: which adapters are trained; None trains all leaves.
      objective: what is learned.
      statistics: of the latents, where the original noises them without their normalisation.
      optimizer: how it is learned.
      steps: length of the run, for the schedule of the learning rate.
      sharding: how the weights lie on a mesh.
    """

    family: Family
    dit: DenoiserConfig
    adapter: AdapterConfig | None
    expert: Name = "dit"
    objective: ObjectiveConfig = ObjectiveConfig()
    statistics: Statistics | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: int = 1
    sharding: Sharding = "fsdp"

    @property
    def network(self) -> Network:
        """How the network is built and cut."""
        return self.family.networks[self.expert]

    @property
    def master_rules(self) -> Rules:
        """How the leaves lie that are trained, their moments, averages and gradients."""
        return self.network.sharding

    @property
    def weight_rules(self) -> Rules:
        """How the weights lie that the network computes with."""
        rules = self.network.sharding
        return rules if self.sharding == "fsdp" else without_fsdp(rules)


def model_shapes(recipe: Recipe) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape of every leaf of the network without adapters, in the compute dtype."""
    dtype = jnp.dtype(recipe.dit.compute_dtype)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, dtype)
        for path, leaf in recipe.network.shapes(recipe.dit).items()
    }


def first_state(
    recipe: Recipe, base: Params, key: Key[Array, ""], adapters: Params | None = None
) -> TrainState:
    """The state before the first step.

    Args:
      recipe: what is trained.
      base: the leaves to be trained, where all are.
      key: of adapters and of the run.
      adapters: those of a file; default: fresh ones.
    """
    init_key, run_key = jax.random.split(key)
    if recipe.adapter is None:
        params = base
    elif adapters is not None:
        params = adapters
    else:
        params = init_adapters(model_shapes(recipe), recipe.adapter, init_key)
    return fresh_state(params, recipe.optimizer, recipe.steps, run_key)


def network(recipe: Recipe, params: Params, base: Params) -> Any:
    """The network with what is trained in it, cast to the compute dtype."""
    dtype = jnp.dtype(recipe.dit.compute_dtype)
    # The cast comes first: what is gathered layer by layer then has half the bytes.
    params = {path: leaf.astype(dtype) for path, leaf in params.items()}
    params = constrain_leaves(params, recipe.weight_rules)
    leaves = params if recipe.adapter is None else base
    dit = assemble(lambda: recipe.network.build(recipe.dit), leaves)
    if recipe.adapter is not None:
        attach(dit, params, recipe.adapter.scale)
    return dit


def loss_of(
    recipe: Recipe, params: Params, base: Params, batch: NoisedBatch
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean loss of a noised batch, and what it is made of by clip and by noise level."""
    family, dit = recipe.family, network(recipe, params, base)
    prepared = family.prepare(dit, batch.text)
    predicted = family.velocity(dit, batch.noised, batch.levels.timesteps, prepared)  # [B,F,h,w,C]
    errors = frame_errors(predicted, batch.target)  # [B, F]
    learned, further = errors, family.process.further_loss
    if further is not None:
        learned = errors + further(predicted, batch.clean, batch.noised, batch.levels)
    losses = clip_losses(learned, batch.levels, recipe.objective.weighting)  # [B]
    # Level 1 belongs to the last bin, which is closed on both sides.
    bins = jnp.clip((batch.levels.sigmas * LEVEL_BINS).astype(jnp.int32), 0, LEVEL_BINS - 1)
    is_in = jax.nn.one_hot(bins, LEVEL_BINS)  # [B, F, n]
    sums, counts = jnp.einsum("bfn,bf->n", is_in, errors), is_in.sum((0, 1))  # [n], [n]
    return losses.mean(), {"losses": losses, "error_sums": sums, "error_counts": counts}


def train_step(
    recipe: Recipe, state: TrainState, frozen: Frozen, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one optimizer step.

    Returns:
      the new state, and metrics: `loss`, `grad_norm` and `learning_rate` of the step, `losses` [B]
      of its clips, `error_sums` and `error_counts` [LEVEL_BINS] of the unweighted squared error of
      frames by noise level.
    """
    # One key per clip, [B], of the step and the clip's place in the whole batch: neither parts of a
    # batch nor devices change what is drawn.
    step_key = jax.random.fold_in(state.key, state.step)
    keys = clip_keys(step_key, jnp.arange(batch["latents"].shape[0]))
    parts = recipe.optimizer.accumulate

    def gradients(batch, keys):
        noised = noised_batch(
            keys,
            batch["latents"],
            batch["text"],
            frozen.no_text,
            recipe.objective,
            recipe.statistics,
            recipe.family.process,
            step_key,
        )
        (loss, details), grads = jax.value_and_grad(
            lambda params: loss_of(recipe, params, frozen.base, noised), has_aux=True
        )(state.params)
        # Cut as the masters are, gradients are reduced and scattered at once, never held whole.
        return constrain_leaves(grads, recipe.master_rules), details | {"loss": loss}

    if parts == 1:
        grads, metrics = gradients(batch, keys)
    else:
        grads, metrics = _in_parts(recipe, gradients, state.params, (dict(batch), keys))
    new, grad_norm = apply_gradients(state, grads, recipe.optimizer, recipe.steps)
    rate = learning_rate(recipe.optimizer, recipe.steps)(state.step)
    return new, metrics | {"grad_norm": grad_norm, "learning_rate": jnp.asarray(rate, jnp.float32)}


def _in_parts(recipe: Recipe, gradients, params: Params, inputs):
    """Mean gradient and joined metrics of a batch computed in parts.

    A part takes every `parts`-th clip, so that each stays spread over the devices.
    """
    parts = recipe.optimizer.accumulate
    # [B, ...] -> [B / parts, parts, ...] -> [parts, B / parts, ...]: clip i is in part i % parts.
    cut = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), inputs)

    def visit(total, part):
        grads, details = gradients(*part)
        return jax.tree.map(jnp.add, total, grads), details

    zeros = constrain_leaves(jax.tree.map(jnp.zeros_like, params), recipe.master_rules)
    total, details = jax.lax.scan(visit, zeros, cut)
    return jax.tree.map(lambda g: g / parts, total), {
        "loss": details["loss"].mean(),
        "losses": jnp.swapaxes(details["losses"], 0, 1).reshape(-1),  # back to the order of clips
        "error_sums": details["error_sums"].sum(0),
        "error_counts": details["error_counts"].sum(0),
    }
