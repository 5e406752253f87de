"""Where a run begins: its own newest checkpoint, else another run's, else the weights of a model.

workdir has checkpoints        -> everything continues as if it had never stopped
checkpoint.resume names a run  -> its state, with this run's settings
model.weights is a folder      -> converted or published weights
model.weights is "random"      -> weights as drawn from the seed
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pusa_jax.convert.folders.converted import load_component
from pusa_jax.convert.networks import config_to_json
from pusa_jax.files.fingerprints import of_placed_weights
from pusa_jax.files.records import differing_fields
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import FREE_TO_CHANGE, HOW_IT_RUNS, RANDOM, SHAPES, RunConfig
from pusa_jax.training.layout import Placement, shardings_of
from pusa_jax.training.state import Params, TrainState
from pusa_jax.training.step import Frozen, first_state
from pusa_jax.training.workdir import CHECKPOINTS
from pusa_jax.weights.leaves import leaves_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What the loop goes on from.

    Attributes:
      state: lies as placed.
      frozen: lies as placed.
      step: already taken.
      info: what was saved with the checkpoint; empty in a fresh run.
      source: where it comes from, in words.
    """

    state: TrainState
    frozen: Frozen
    step: int
    info: Mapping[str, Any]
    source: str


Jit = Callable[..., Callable[..., Any]]


def begin(
    run: RunConfig, placed: Placement, checkpoints: RunCheckpoints, no_text: Any, jit: Jit
) -> Start:
    """Finds or makes the state a run goes on from.

    Args:
      run: its settings.
      placed: where arrays are to lie.
      checkpoints: of this run.
      no_text: features of the empty prompt, [L, E].
      jit: `jax.jit`; the loop owns what is compiled.

    Raises:
      ValueError: a checkpoint of other settings, or weights of another model; says what differs.
      FileNotFoundError: no checkpoint or weights where they should be.
    """
    recipe, is_lora = run.recipe, run.adapter is not None
    empty_prompt = jax.device_put(
        np.asarray(no_text).astype(jnp.bfloat16)[None], placed.frozen.no_text.sharding
    )
    saved = _saved(run, checkpoints)
    base: Params = {}
    if is_lora or saved is None:
        base = _weights(run, placed, jit)
    frozen = Frozen(base=base if is_lora else {}, no_text=empty_prompt)
    base_fingerprint = int(jit(of_placed_weights)(base)) if is_lora else 0
    if saved is not None:
        source, step, info, restore = saved
        if is_lora and info["base_fingerprint"] != base_fingerprint:
            raise ValueError(
                f"the weights in {run.model.weights} are not those that {source} was trained on; "
                "set model.weights to the folder it started from."
            )
        return Start(
            state=restore(placed.state), frozen=frozen, step=step, info=info, source=source
        )
    make = jit(
        functools.partial(first_state, recipe),
        out_shardings=shardings_of(placed.state),
        donate_argnums=() if is_lora else 0,
    )
    state = make({} if is_lora else base, jax.random.key(run.seed))
    info = {"base_fingerprint": base_fingerprint}
    return Start(state=state, frozen=frozen, step=0, info=info, source=run.model.weights)


def _saved(run: RunConfig, checkpoints: RunCheckpoints):
    """(in words, step, info, how to restore) of the checkpoint to go on from, if there is one."""
    settings = run.record()
    if steps := checkpoints.steps:
        info = checkpoints.info(steps[-1])
        parts = frozenset(settings) - FREE_TO_CHANGE
        differences = differing_fields(info["config"], settings, parts, HOW_IT_RUNS)
        _refuse(differences, "this workdir's checkpoint")
        restore = functools.partial(checkpoints.restore, steps[-1])
        return f"own checkpoint of step {steps[-1]}", steps[-1], info, restore
    if not run.checkpoint.resume:
        return None
    folder = Path(run.checkpoint.resume) / CHECKPOINTS
    if not folder.is_dir():
        raise FileNotFoundError(f"checkpoint.resume: {folder} does not exist; name a workdir.")
    others = RunCheckpoints(folder, keep_last=0)
    if not others.steps:
        raise FileNotFoundError(f"checkpoint.resume: {folder} holds no complete checkpoint.")
    step = others.steps[-1]
    info = others.info(step)
    differences = differing_fields(info["config"], settings, SHAPES, HOW_IT_RUNS)
    _refuse(differences, f"the checkpoint in {folder}")
    return (
        f"checkpoint of step {step} in {folder}",
        step,
        info,
        functools.partial(others.restore, step),
    )


def _refuse(differences: list[str], what: str) -> None:
    if differences:
        raise ValueError(
            f"{what} is of another config: {'; '.join(differences)}. Give the same settings, or "
            "another --workdir."
        )


def _weights(run: RunConfig, placed: Placement, jit: Jit) -> Params:
    """Leaves of the model a run starts from: the frozen base, or what is trained in float32."""
    dit = run.recipe.dit
    if run.adapter is not None:
        dtype, where = dit.compute_dtype, shardings_of(placed.frozen.base)
    else:
        dtype, where = "float32", shardings_of(placed.state.params)
    if run.model.weights == RANDOM:

        def draw(key):
            drawn = leaves_of(WanDiT(dit, rngs=nnx.Rngs(key)))
            return {path: leaf.astype(dtype) for path, leaf in drawn.items()}

        return jit(draw, out_shardings=where)(jax.random.key(run.seed))
    found, leaves = load_component(run.model.weights, "dit", dtype, shard=lambda shapes: where)
    differences = differing_fields(
        {"dit": config_to_json(found)}, {"dit": config_to_json(dit)}, frozenset({"dit"})
    )
    if differences:
        raise ValueError(
            f"{run.model.weights} holds another model than model.preset or model.dit says: "
            f"{'; '.join(differences)}."
        )
    return leaves
