"""Where a run begins: its own newest checkpoint, else another run's, else the weights of a model.

workdir has checkpoints        -> everything continues as if it had never stopped
checkpoint.resume names a run  -> its state, with this run's settings
model.weights is a folder      -> converted or published weights
model.weights is "random"      -> weights as drawn from the seed
"""

# The order of a start, in `loop.train`, here and in `loop.Loop`. What can be refused is refused
# before what takes longer, and a workdir gets nothing but its lock before a run has its state:
#
#    1  packages that the run is to be recorded with       missing ones are named
#    2  clips against the run's shapes and its VAE         reads one VAE
#    3  mesh, lock of the workdir, layout of all arrays    shapes only, no array is made; held
#                                                          against the memory there is
#    4  settings against those of the checkpoint           plain values only; a finished run ends
#    5  the base, read to where it lies                    minutes at full size
#    6  its fingerprint against the checkpoint's           one pass over the base
#    7  the state: restored, or made where it lies         most of a device's memory
#    8  config.json, records, position in the data         the first that is written
#    9  the step, compiled for exactly these arrays        minutes at full size
#   10  the renderer, where pictures are wanted            a VAE on one device

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pusa_jax.convert.folders.merging import check_expert
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.networks import FOREIGN, config_to_json
from pusa_jax.devices import processes
from pusa_jax.files.fingerprints import of_placed_weights
from pusa_jax.files.records import differing_fields, rebuild
from pusa_jax.inference import packaged
from pusa_jax.listing import listed
from pusa_jax.models.adapters import from_lora
from pusa_jax.progress import Progress, PusaWarning, no_progress
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import FREE_TO_CHANGE, HOW_IT_RUNS, RANDOM, SHAPES, RunConfig
from pusa_jax.training.layout import Placement, shardings_of
from pusa_jax.training.state import Params, TrainState
from pusa_jax.training.step import Frozen, first_state, model_shapes
from pusa_jax.training.workdir import CHECKPOINTS, all_drawn
from pusa_jax.weights.leaves import drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What the loop goes on from.

    Attributes:
      state: what is trained, placed on the mesh.
      frozen: what is only read, placed on the mesh.
      step: number of steps already taken.
      info: what was saved with the checkpoint; in a fresh run `base_fingerprint` alone.
      source: where the state comes from, in words.
    """

    state: TrainState
    frozen: Frozen
    step: int
    info: Mapping[str, Any]
    source: str


def open_weights(run: RunConfig) -> ModelFolder | None:
    """The folder of a run's weights; None where they are drawn.

    Raises:
      FileNotFoundError, ValueError: it is not there, or of another family than the run.
    """
    if run.model.weights == RANDOM:
        return None
    folder, family = ModelFolder(packaged.found(run.model.weights)), run.recipe.family
    if folder.family is not family:
        raise ValueError(
            f"{run.model.weights} is a {folder.family.name} model, the run trains {family.name}; "
            "set model.preset or model.family to the model in the folder."
        )
    return folder


def sized_by(run: RunConfig, weights: ModelFolder) -> RunConfig:
    """The run with the sizes of the model in a folder, where its own are others.

    Raises:
      FileNotFoundError, ValueError: the folder has no such denoiser, or it is not understood.
    """
    given, model = run.model.networks(), run.model
    found: dict[str, Any] = {"dit": weights.config(model.expert), "vae": given.vae}
    if "vae" in weights.names:
        found["vae"] = weights.config("vae")
    own = {name: config_to_json(getattr(given, name)) for name in found}
    theirs = {name: config_to_json(config) for name, config in found.items()}
    if not differing_fields(theirs, own, frozenset(found)):
        return run
    sized = dataclasses.replace(model, preset="", family=weights.family.name, **found)
    return dataclasses.replace(run, model=sized)


def is_finished(run: RunConfig, checkpoints: RunCheckpoints, samples: Path) -> bool:
    """Whether the last step of a run is saved and its pictures, if any, are drawn.

    Every process gets the same answer.

    Raises:
      ValueError: the checkpoint is of other settings.
    """
    if not checkpoints.steps or checkpoints.steps[-1] != run.steps:
        return False
    _saved(run, checkpoints)
    is_shown = bool(run.samples.every) and run.steps % run.samples.every == 0
    return bool(processes.agree_on(int(not is_shown or all_drawn(samples, run.steps))))


def begin(
    run: RunConfig,
    placed: Placement,
    checkpoints: RunCheckpoints,
    no_text: Any,
    weights: ModelFolder | None = None,
    on_progress: Progress = no_progress,
) -> Start:
    """Finds or makes the state a run goes on from.

    Args:
      run: the settings.
      placed: where the arrays will lie.
      checkpoints: those of this run.
      no_text: features of the empty prompt, [L, E].
      weights: `run.model.weights`, where it is open already.
      on_progress: told about the stages "load" and "restore".

    Raises:
      ValueError: a checkpoint of other settings, or weights of another model; says what differs.
      FileNotFoundError: no checkpoint or weights where they should be.
    """
    weights = open_weights(run) if weights is None else weights
    recipe, is_lora = run.recipe, run.adapter is not None
    empty_prompt = jax.device_put(
        np.asarray(no_text).astype(jnp.bfloat16)[None], placed.frozen.no_text.sharding
    )
    saved = _saved(run, checkpoints)
    given = {} if saved else adapters_of_file(run, placed)
    base: Params = {}
    if is_lora or saved is None:
        on_progress("load", 0, 1)
        base = jax.block_until_ready(_weights(run, placed, weights))
        on_progress("load", 1, 1)
    frozen = Frozen(base=base if is_lora else {}, no_text=empty_prompt)
    base_fingerprint = int(jax.jit(of_placed_weights)(base)) if is_lora else 0
    if saved is not None:
        source, step, info, restore = saved
        if is_lora and info["base_fingerprint"] != base_fingerprint:
            raise ValueError(
                f"the weights in {run.model.weights} are not those that {source} was trained on; "
                "set model.weights to the folder it started from."
            )
        on_progress("restore", 0, 1)
        state = restore(placed.state)
        on_progress("restore", 1, 1)
        return Start(state=state, frozen=frozen, step=step, info=info, source=source)
    make = jax.jit(
        functools.partial(first_state, recipe),
        out_shardings=shardings_of(placed.state),
        donate_argnums=() if is_lora else 0,
    )
    state = make({} if is_lora else base, jax.random.key(run.seed), given or None)
    info = {"base_fingerprint": base_fingerprint}
    source = run.model.weights
    if run.adapter is not None and run.adapter.file:
        source += f", with the adapters of {run.adapter.file} at strength 1"
    return Start(state=state, frozen=frozen, step=0, info=info, source=source)


def adapters_of_file(run: RunConfig, placed: Placement) -> Params:
    """The adapters of the file that a run starts from, placed; none if it starts from fresh ones.

    Raises:
      FileNotFoundError, ValueError: one line that names the file: no LoRA, or one of another rank,
        of other layers or for another denoiser than the run trains.
    """
    if run.adapter is None or run.adapter.file is None:
        return {}
    path, family = Path(packaged.found(run.adapter.file, "lora")), run.recipe.family
    check_expert(family, run.model.expert, path)
    lora = read_lora(path, FOREIGN[family.name].lora.of(run.recipe.dit))
    for remark in lora.remarks:
        warnings.warn(f"adapter.init: {path}: {remark}", PusaWarning, stacklevel=2)
    try:
        found = from_lora(lora, model_shapes(run.recipe), run.adapter)
    except ValueError as error:
        text = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"adapter.init: {path}: {text}") from None
    where = shardings_of(placed.state.params)
    return {
        name: jax.make_array_from_callback(array.shape, where[name], array.__getitem__)
        for name, array in found.items()
    }


def _saved(run: RunConfig, checkpoints: RunCheckpoints):
    """(in words, step, info, how to restore) of the checkpoint to go on from, if there is one."""
    if steps := checkpoints.steps:
        info = checkpoints.info(steps[-1])
        parts = frozenset(run.record()) - FREE_TO_CHANGE
        _refuse_others(info["config"], run, parts, "this workdir's checkpoint")
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
    _refuse_others(info["config"], run, SHAPES, f"the checkpoint in {folder}")
    return (
        f"checkpoint of step {step} in {folder}",
        step,
        info,
        functools.partial(others.restore, step),
    )


def _refuse_others(saved: Any, run: RunConfig, parts: frozenset[str], what: str) -> None:
    """Raises ValueError if a checkpoint's settings differ from a run's in some of their parts."""
    try:
        # Fields that there were not yet when it was saved get their defaults.
        saved = rebuild(RunConfig, saved).record()
    except ValueError as error:
        raise ValueError(f"{what} cannot be continued: {error}") from None
    differences = differing_fields(saved, run.record(), parts, HOW_IT_RUNS)
    if differences:
        raise ValueError(
            f"{what} is of another config: {listed(differences, between='; ')}. Give the "
            "same settings, or another --workdir."
        )


def _weights(run: RunConfig, placed: Placement, weights: ModelFolder | None) -> Params:
    """Leaves of the model a run starts from: the frozen base, or what is trained in float32."""
    dit: Any = run.recipe.dit
    if run.adapter is not None:
        dtype, where = dit.compute_dtype, shardings_of(placed.frozen.base)
    else:
        dtype, where = "float32", shardings_of(placed.state.params)
    if weights is None:

        def draw(key):
            leaves = drawn(run.recipe.network.build, dit, key)
            return {path: leaf.astype(dtype) for path, leaf in leaves.items()}

        return jax.jit(draw, out_shardings=where)(jax.random.key(run.seed))
    found, leaves = weights.load(run.model.expert, dtype, shard=lambda _: where)
    differences = differing_fields(
        {"dit": config_to_json(found)}, {"dit": config_to_json(dit)}, frozenset({"dit"})
    )
    if differences:
        raise ValueError(
            f"{run.model.weights} holds another model than model.preset or model.dit says: "
            f"{listed(differences, between='; ')}."
        )
    return leaves
