import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import LORA, base, batch, frozen, random_adapters, recipe

from pusa_jax.diffusion.timesteps import LevelConfig, clip_keys, level_table
from pusa_jax.models.adapters import init_adapters
from pusa_jax.testing.compare import assert_close
from pusa_jax.training.objective import noised_batch, noised_batch_at
from pusa_jax.training.state import OptimizerConfig, apply_gradients, fresh_state, learning_rate
from pusa_jax.training.step import (
    LEVEL_BINS,
    first_state,
    loss_of,
    model_shapes,
    network,
    train_step,
)
from pusa_jax.weights.leaves import leaves_of

KEY = jax.random.key(5)


def start(of, dtype="float32"):
    leaves = base(dtype)
    return first_state(of, leaves, KEY), frozen({} if of.adapter is None else leaves)


def compiled(of):
    return jax.jit(functools.partial(train_step, of))


@functools.cache
def run(adapter, steps, dtype="float32", **optimizer):
    of = recipe(adapter, dtype, **optimizer)
    state, fixed = start(of, dtype)
    step, metrics = compiled(of), {}
    for i in range(steps):
        state, metrics = step(state, fixed, batch(4, seed=i))
    return state, metrics, step


@pytest.mark.parametrize("adapter", [LORA, None])
def test_weights_move_at_the_learning_rate_of_pusa_in_bfloat16(adapter):
    of = recipe(adapter, "bfloat16")
    before = start(of)[0].params
    after, metrics, step = run(adapter, 10, "bfloat16")
    moved = sum(int((after.params[path] != leaf).sum()) for path, leaf in before.items())
    assert moved / sum(leaf.size for leaf in before.values()) >= 0.999
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}
    assert step._cache_size() == 1
    assert metrics["loss"].dtype == jnp.float32


def test_a_clip_and_its_gradient_do_not_depend_on_batch_mates():
    of = recipe()
    state, fixed = start(of)
    params = random_adapters(state.params)

    @jax.jit
    def first_clip(batch):
        keys = clip_keys(KEY, jnp.arange(batch["latents"].shape[0]))
        task = noised_batch(keys, batch["latents"], batch["text"], fixed.no_text, of.objective)
        return jax.value_and_grad(lambda p: loss_of(of, p, fixed.base, task)[1]["losses"][0])(
            params
        )

    ours, others = batch(4), batch(4, seed=1)
    loss, grads = first_clip(ours)
    mixed = first_clip(jax.tree.map(lambda a, b: a.at[1:].set(b[1:]), ours, others))
    assert loss != 0 and np.array_equal(loss, mixed[0])
    for path, grad in grads.items():
        assert np.array_equal(grad, mixed[1][path])
    alone = first_clip(jax.tree.map(lambda x: x[:1], ours))
    assert_close(alone[0], loss, 1e-6)
    assert_close(flat(alone[1]), flat(grads), 1e-5)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_a_batch_in_parts_is_the_batch():
    (whole, a, _), (parts, b, _) = run(LORA, 1), run(LORA, 1, accumulate=2)
    assert_close(b["losses"], a["losses"], 1e-6)
    assert_close(b["grad_norm"], a["grad_norm"], 1e-6)
    assert_close(b["error_sums"], a["error_sums"], 1e-6)
    for path in whole.params:
        assert_close(parts.params[path], whole.params[path], 1e-6, path)


def test_fresh_adapters_leave_the_network_as_it_is():
    of = recipe()
    state, fixed = start(of)
    task, full = batch(2), recipe(adapter=None)
    out = {}
    for name, which, params in (("lora", of, state.params), ("base", full, fixed.base)):

        @jax.jit
        def velocity(params, which=which):
            dit = network(which, params, fixed.base)
            return dit(task["latents"], jnp.full((2, 3), 500.0), dit.project_text(task["text"]))

        out[name] = velocity(params)
    assert_close(out["lora"], out["base"], 1e-6)


def test_rematerialisation_changes_no_gradient():
    state, fixed = start(recipe())
    params, inputs = random_adapters(state.params), batch(2)
    task = noised_batch_at(
        inputs["latents"],
        inputs["latents"][::-1],
        level_table(LevelConfig()).at(jnp.asarray([[3, 500, 800], [90, 10, 999]])),
        inputs["text"],
    )

    def gradient(remat):
        of = recipe(remat=remat)
        return jax.jit(jax.grad(lambda p: loss_of(of, p, fixed.base, task)[0]))(params)

    plain = flat(gradient("none"))
    for remat in ("full", "attention", "dots"):
        assert_close(flat(gradient(remat)), plain, 1e-6, remat)


def test_the_loss_of_one_batch_falls():
    of = recipe(learning_rate=3e-3, clip_norm=1.0, ema_decay=0.9)
    state, fixed = start(of)
    step, losses = compiled(of), []
    for _ in range(30):
        state = dataclasses.replace(state, step=jnp.zeros((), jnp.int32))  # the same draws
        state, metrics = step(state, fixed, batch(4))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    path = "blocks/ffn/up/lora_b"
    gap = np.abs(state.ema[path] - state.params[path]).max()
    assert 0 < gap < np.abs(state.params[path]).max()


def draws(key, step):
    """Levels of the four clips of a step."""
    keys, given = clip_keys(jax.random.fold_in(key, step), jnp.arange(4)), batch(4)
    no_text = frozen({}).no_text
    return noised_batch(keys, given["latents"], given["text"], no_text, recipe().objective).levels


def test_metrics_add_up():
    state, metrics, _ = run(LORA, 1)
    assert metrics["error_counts"].sum() == 4 * 3
    drawn = draws(state.key, 0)
    counts, _ = np.histogram(drawn.sigmas, np.linspace(0, 1, LEVEL_BINS + 1))
    assert np.array_equal(metrics["error_counts"], counts)
    unweighted = metrics["losses"] / drawn.weights.mean(axis=1)
    assert_close(metrics["error_sums"].sum(), unweighted.sum() * 3, 1e-5)
    assert_close(metrics["losses"].mean(), metrics["loss"], 1e-6)
    assert metrics["learning_rate"] == np.float32(1e-5)


def test_no_key_is_used_twice():
    of = recipe()
    state, fixed = start(of)
    with jax.debug_key_reuse(True):
        jax.jit(functools.partial(train_step, of)).lower(state, fixed, batch(2))


def test_every_step_draws_anew():
    state, _, step = run(LORA, 10, "bfloat16")
    later = dataclasses.replace(state, step=state.step + 1)
    one, two = (step(s, frozen(base("bfloat16")), batch(4))[1]["losses"] for s in (state, later))
    assert not np.array_equal(one, two)


def test_learning_rates():
    def at(*steps, **config):
        course = learning_rate(recipe(**config).optimizer, 20)
        return [pytest.approx(float(course(step)), rel=1e-6) for step in steps]

    assert at(0, 19) == [1e-5, 1e-5]
    assert at(0, 5, 10, 20, learning_rate=1.0, warmup_steps=10) == [0, 0.5, 1, 1]
    assert at(10, 15, 20, learning_rate=1.0, warmup_steps=10, decay="linear") == [1, 0.5, 0]
    assert at(0, 10, 20, learning_rate=1.0, decay="cosine") == [1, 0.5, 0]
    assert at(10, 20, learning_rate=1.0, warmup_steps=20, decay="cosine") == [0.5, 1]


def test_the_rate_that_is_told_is_the_one_of_the_step():
    of = recipe(warmup_steps=10, learning_rate=1.0)
    rate = jax.jit(lambda *given: train_step(of, *given)[1]["learning_rate"])
    assert rate(*start(of), batch(2)) == 0


def after_one(grads, params=(3.0, 4.0), **config):
    """State before and after one update of a single leaf, and the norm that is told."""
    config = OptimizerConfig(learning_rate=0.1, **config)
    state = fresh_state({"x": jnp.asarray(params, "bfloat16")}, config, 10, KEY)
    return state, *apply_gradients(state, {"x": jnp.asarray(grads)}, config, 10)


@pytest.mark.parametrize(("clip", "factor"), [(0.0, 1.0), (1.0, 0.2), (6.0, 1.0)])
def test_gradients_are_clipped_to_the_norm_and_told_before(clip, factor):
    _, after, norm = after_one([3.0, 4.0], clip_norm=clip)
    (mu,) = (x.mu for x in jax.tree.leaves(after.opt_state, is_leaf=lambda x: hasattr(x, "mu"))
             if hasattr(x, "mu"))  # fmt: skip
    assert_close(mu["x"], 0.1 * factor * np.asarray([3.0, 4.0]), 1e-6)
    assert norm == 5


def test_weights_decay_by_the_learning_rate_without_a_gradient():
    before, after, _ = after_one([0.0, 0.0], weight_decay=0.5)
    assert before.params["x"].dtype == after.params["x"].dtype == np.float32
    assert_close(after.params["x"], before.params["x"] * (1 - 0.1 * 0.5), 1e-6)
    assert (before.step, after.step) == (0, 1) and after.key is before.key


def test_the_average_keeps_its_share_of_the_past():
    before, after, _ = after_one([3.0, 4.0], ema_decay=0.9)
    assert np.array_equal(before.ema["x"], before.params["x"])
    assert_close(after.ema["x"], 0.9 * before.params["x"] + 0.1 * after.params["x"], 1e-6)
    assert not np.array_equal(after.ema["x"], before.ema["x"])
    assert after_one([3.0, 4.0])[1].ema == {}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must not be negative, got -1.0"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, got -1"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
        ({"clip_norm": float("nan")}, "clip_norm must not be negative, got nan"),
        ({"clip_from": -1}, "clip_from must not be negative, got -1"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\), got -0.1"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(field, message):
    with pytest.raises(ValueError, match=message):
        recipe(**field)


@pytest.mark.parametrize("adapter", [LORA, None])
def test_weights_are_gathered_in_the_dtype_that_is_computed_in(adapter):
    of = recipe(adapter, "bfloat16")
    state, fixed = start(of, "bfloat16")
    leaves = leaves_of(network(of, state.params, fixed.base))
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype("bfloat16")}


def test_adapters_and_steps_have_keys_of_their_own():
    of = recipe()
    state, _ = start(of)
    for key in (KEY, state.key):
        drawn = init_adapters(model_shapes(of), LORA, key)
        assert not np.array_equal(
            drawn["blocks/ffn/up/lora_a"], state.params["blocks/ffn/up/lora_a"]
        )
    assert not np.array_equal(jax.random.key_data(KEY), jax.random.key_data(state.key))
