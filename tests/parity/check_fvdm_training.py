"""FVDM's training step: noising, prediction, both losses, gradients, AdamW and the average."""

import jax
import jax.numpy as jnp
import numpy as np
from golden import Comparison, Golden

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.latte.dit import config_from_source, original_rules
from pusa_jax.convert.tables import dump, load
from pusa_jax.diffusion.timesteps import LEVELS, LevelConfig, level_table
from pusa_jax.diffusion.variance_bound import variance_bound
from pusa_jax.models.latte.config import DiTConfig
from pusa_jax.models.latte.family import LATTE
from pusa_jax.testing.compare import relative_error
from pusa_jax.training.objective import ObjectiveConfig, frame_errors, noised_batch_at
from pusa_jax.training.state import OptimizerConfig, apply_gradients, fresh_state
from pusa_jax.training.step import Recipe, loss_of, model_shapes, network

LOSS, GRADIENT, FORWARD, WEIGHTS = 1e-5, 2e-4, 5e-6, 1e-6
DROPPED = 0.1
FIXED = {"pos_embed", "temp_embed"}
"""Tables of positions, which are no part of what is learned."""


def recipe_of(config: DiTConfig) -> Recipe:
    return Recipe(
        family=LATTE,
        dit=config,
        adapter=None,
        objective=ObjectiveConfig(
            levels=LevelConfig(sampler="ptss", schedule=LATTE.training_schedule), weighting="none"
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.0, ema_decay=0.9999),
        steps=10,
    )


def frames_last(x: np.ndarray) -> jnp.ndarray:
    """[B, F, C, h, w] -> [B, F, h, w, C]."""
    return jnp.moveaxis(jnp.asarray(x), 2, -1)


def labels_of(golden: Golden, name: str, classes: int) -> jnp.ndarray:
    """Those of the clips, or that of no class where the recorded draw says so."""
    if not golden.has(f"in.{name}.y"):
        return jnp.zeros((len(golden.tensor(f"in.{name}.t")), 1, 1))
    is_dropped = golden.tensor(f"in.{name}.label_dropout_u") < DROPPED
    labels = np.where(is_dropped, classes, golden.tensor(f"in.{name}.y"))
    return jnp.asarray(labels, jnp.float32).reshape(-1, 1, 1)


def check_train(golden: Golden, case: dict):
    name, source = case["name"], open_tensors(golden.weights())
    config = config_from_source(source, golden.config)
    recipe, rules = recipe_of(config), original_rules(config)
    params = load(source, rules, model_shapes(recipe))
    steps = jnp.asarray(golden.tensor(f"in.{name}.t"))
    task = noised_batch_at(
        frames_last(golden.tensor(f"in.{name}.x_start")),
        frames_last(golden.tensor(f"in.{name}.noise")),
        level_table(recipe.objective.levels).at(LEVELS - 1 - steps),
        labels_of(golden, name, config.num_classes),
        process=LATTE.process,
    )

    def recorded(what):
        return golden.tensor(f"out.{name}.{what}")

    def compare(what, ours, expected, limit):
        return Comparison(what, relative_error(ours, expected), limit)

    @jax.jit
    def step(params):
        return jax.value_and_grad(lambda p: loss_of(recipe, p, {}, task), has_aux=True)(params)

    @jax.jit
    def parts(params):
        dit = network(recipe, params, {})
        prepared = LATTE.prepare(dit, task.text)
        predicted = LATTE.velocity(dit, task.noised, task.levels.timesteps, prepared)
        bound = variance_bound(predicted, task.clean, task.noised, task.levels)
        return predicted, frame_errors(predicted, task.target).mean(axis=1), bound.mean(axis=1)

    predicted, mse, bound = parts(params)
    if golden.has(f"out.{name}.model_output"):
        expected = frames_last(recorded("model_output"))
        yield compare("prediction", predicted, expected, FORWARD)
    yield compare("squared error", mse, recorded("mse"), LOSS)
    gap = np.abs(bound - recorded("vb")) / recorded("loss")
    yield Comparison("bound, as part of the loss", float(gap.max()), LOSS)
    (loss, details), grads = step(params)
    yield compare("losses of clips", details["losses"], recorded("loss"), LOSS)
    yield compare("loss", loss, recorded("loss").mean(), LOSS)
    for theirs, grad in dump(grads, rules):
        if theirs in FIXED:
            yield Comparison(f"gradient of {theirs}", float(np.abs(grad).max()), 0, "units")
            continue
        norm = np.linalg.norm(grad.astype(np.float64))
        yield compare(f"norm of {theirs}", norm, recorded(f"gradnorm.{theirs}"), GRADIENT)
        if theirs in case["full_grads"]:
            yield compare(f"gradient of {theirs}", grad, recorded(f"grad.{theirs}"), GRADIENT)
    state = fresh_state(params, recipe.optimizer, recipe.steps, jax.random.key(0))
    update = jax.jit(
        lambda state, grads: apply_gradients(state, grads, recipe.optimizer, recipe.steps)
    )
    _, norm = update(state, grads)
    yield compare("norm of all gradients", norm, recorded("total_gradnorm"), GRADIENT)
    if golden.has(f"out.{name}.adamw_losses"):
        losses, ours = recorded("adamw_losses"), []
        for _ in losses:
            (loss, _), grads = step(state.params)
            ours.append(float(loss))
            state, _ = update(state, grads)
        yield compare("losses of AdamW steps", np.asarray(ours), losses, LOSS)
        for kind, leaves in (("adamw", state.params), ("ema", state.ema)):
            for theirs, leaf in dump(leaves, rules):
                if golden.has(f"out.{name}.{kind}_after{len(losses)}.{theirs}"):
                    expected = recorded(f"{kind}_after{len(losses)}.{theirs}")
                    yield compare(f"{theirs} of {kind}", leaf, expected, WEIGHTS)
        for theirs in FIXED:
            moved = float(jnp.abs(state.params[theirs] - params[theirs]).max())
            yield Comparison(f"way of {theirs}", moved, 0, "units")


CHECKS = {"fvdm_train": check_train}
