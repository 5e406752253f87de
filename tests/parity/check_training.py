"""The original trainer's step, full and LoRA: noising, weights, loss, gradients, AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
from golden import Comparison, Golden

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import dump, load
from pusa_jax.convert.wan.dit import LINEARS, config_from_source, original_rules
from pusa_jax.diffusion.timesteps import LevelConfig, level_table
from pusa_jax.models.adapters import AdapterConfig, init_adapters
from pusa_jax.models.wan.family import WAN21
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout
from pusa_jax.training.objective import ObjectiveConfig, noised_batch_at
from pusa_jax.training.state import OptimizerConfig, apply_gradients, fresh_state
from pusa_jax.training.step import Recipe, loss_of, model_shapes, network

LOSS, GRADIENT, FORWARD = 1e-5, 2e-4, 5e-6
UNROUNDED = LevelConfig(rounding="none")


def recipe_and_base(golden: Golden, case: dict):
    source = open_tensors(golden.weights())
    config = config_from_source(source, golden.config)
    adapter = None
    if case["mode"] == "lora":
        wanted = tuple(f".{target}" for target in case["targets"].split(","))
        paths = [path for name, _, path in LINEARS if f".{name}".endswith(wanted)]
        adapter = AdapterConfig(rank=case["rank"], alpha=case["alpha"], targets="|".join(paths))
    recipe = Recipe(
        family=WAN21,
        dit=config,
        adapter=adapter,
        objective=ObjectiveConfig(levels=UNROUNDED, weighting="pusa"),
        optimizer=OptimizerConfig(learning_rate=case.get("learning_rate", 1e-5)),
        steps=10,
    )
    return recipe, load(source, original_rules(config), model_shapes(recipe))


def recorded_names(golden: Golden, paths) -> dict[str, list[str]]:
    """Path of each adapter -> the names its layers have in the golden file."""
    names = {}
    for name, _, path in LINEARS:
        for ours, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            if f"{path}/{ours}" in paths:
                layers = range(golden.config["num_layers"])
                names[f"{path}/{ours}"] = [
                    f"{name.replace('{i}', str(i))}.{theirs}.default.weight" for i in layers
                ]
    return names


def as_recorded(recipe: Recipe, golden: Golden, leaves) -> dict[str, np.ndarray]:
    """Leaves, or their gradients, under the reference's names and in its layout."""
    if recipe.adapter is None:
        return dict(dump(leaves, original_rules(recipe.dit)))
    names = recorded_names(golden, leaves)
    return {
        name: np.asarray(leaves[path][i]).T
        for path, layers in names.items()
        for i, name in enumerate(layers)
    }


def adapters_of(recipe: Recipe, golden: Golden, name: str):
    fresh = jax.eval_shape(
        lambda key: init_adapters(model_shapes(recipe), recipe.adapter, key), jax.random.key(0)
    )
    return {
        path: jnp.stack([jnp.asarray(golden.tensor(f"in.{name}.lora.{n}").T) for n in layers])
        for path, layers in recorded_names(golden, fresh).items()
    }


def check_step(golden: Golden, case: dict):
    name = case["name"]
    recipe, base = recipe_and_base(golden, case)
    params = base if recipe.adapter is None else adapters_of(recipe, golden, name)
    clean, noise = (to_house_layout(golden.tensor(f"in.{name}.{x}")) for x in ("latents", "noise"))
    levels = level_table(UNROUNDED).at(jnp.asarray(golden.tensor(f"in.{name}.timestep_id")))
    task = noised_batch_at(clean, noise, levels, jnp.asarray(golden.tensor(f"in.{name}.context")))

    def compare(what, ours, expected, limit):
        return Comparison(what, relative_error(ours, expected), limit)

    def recorded(what):
        return golden.tensor(f"out.{name}.{what}")

    yield compare("timesteps", levels.timesteps, recorded("timestep"), 2e-6)
    yield compare("weights", np.asarray(levels.weights)[0], recorded("weights"), 2e-6)
    noised = from_house_layout(task.noised)
    yield compare("noised latents", noised, recorded("noisy_latents"), 2e-6)

    @jax.jit
    def step(params):
        return jax.value_and_grad(lambda p: loss_of(recipe, p, base, task), has_aux=True)(params)

    def predict(params):
        dit = network(recipe, params, base)
        return dit(task.noised, levels.timesteps, dit.project_text(task.text))

    predicted = from_house_layout(jax.jit(predict)(params))
    yield compare("prediction", predicted, recorded("pred"), FORWARD)
    (loss, _), grads = step(params)
    yield compare("loss", loss.reshape(1), recorded("loss"), LOSS)
    for theirs, grad in as_recorded(recipe, golden, grads).items():
        norm = np.linalg.norm(grad.astype(np.float64)).reshape(1)
        expected = recorded(f"gradnorm.{theirs}")
        yield compare(f"norm of the gradient of {theirs}", norm, expected, GRADIENT)
        if theirs in case["full_grads"]:
            yield compare(f"gradient of {theirs}", grad, recorded(f"grad.{theirs}"), GRADIENT)

    if golden.has(f"out.{name}.adamw_losses"):
        losses = recorded("adamw_losses")
        state = fresh_state(params, recipe.optimizer, recipe.steps, jax.random.key(0))
        update = jax.jit(
            lambda state, grads: apply_gradients(state, grads, recipe.optimizer, recipe.steps)
        )
        ours = []
        for _ in losses:
            (loss, _), grads = step(state.params)
            ours.append(float(loss))
            state, _ = update(state, grads)
        yield compare("losses of AdamW steps", np.asarray(ours), losses, LOSS)
        after = as_recorded(recipe, golden, state.params)
        for theirs in case["after"]:
            expected = recorded(f"adamw_after{len(losses)}.{theirs}")
            yield compare(f"{theirs} after {len(losses)} steps", after[theirs], expected, GRADIENT)


CHECKS = {"train_step": check_step}
