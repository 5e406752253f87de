"""AdamW step by step against its formula, and what a run begins with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.testing.compare import assert_close
from pusa_jax.training.state import OptimizerConfig, apply_gradients, fresh_state, learning_rate

KEY = jax.random.key(0)
PARAMS = {"x": jnp.asarray([3.0, -4.0]), "y": jnp.asarray([0.5])}
GRADS = [{"x": jnp.asarray([0.3, 2e-6]), "y": jnp.asarray([-1.0])},
         {"x": jnp.asarray([-0.2, 1e-6]), "y": jnp.asarray([4.0])}]  # fmt: skip
CONFIG = OptimizerConfig(
    learning_rate=0.1, warmup_steps=4, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.2
)


def test_two_steps_are_those_of_adamw():
    state = fresh_state(PARAMS, CONFIG, 10, KEY)
    expected = {path: np.asarray(leaf, np.float64) for path, leaf in PARAMS.items()}
    first, second = ({path: 0.0 * leaf for path, leaf in expected.items()} for _ in range(2))
    for step, grads in enumerate(GRADS):
        state, _ = apply_gradients(state, grads, CONFIG, 10)
        rate = 0.1 * step / 4
        for path in expected:
            grad = np.asarray(grads[path], np.float64)
            first[path] = 0.8 * first[path] + 0.2 * grad
            second[path] = 0.95 * second[path] + 0.05 * grad**2
            mean = first[path] / (1 - 0.8 ** (step + 1))
            root = np.sqrt(second[path] / (1 - 0.95 ** (step + 1)))
            expected[path] -= rate * (mean / (root + 1e-3) + 0.2 * expected[path])
    assert int(state.step) == 2
    for path in expected:
        assert_close(state.params[path], expected[path], 1e-6, path)


def test_the_norm_is_of_all_gradients_together_and_clips_all_alike():
    grads = {"x": jnp.asarray([2.0, 0.0]), "y": jnp.asarray([1.5])}
    config = OptimizerConfig(learning_rate=0.1, clip_norm=0.5, eps=1.0, weight_decay=0.0)
    state, norm = apply_gradients(fresh_state(PARAMS, config, 10, KEY), grads, config, 10)
    assert float(norm) == 2.5
    for path in PARAMS:  # a first step moves by g / (|g| + eps), here of gradients cut to a fifth
        grad = np.asarray(grads[path]) / 5
        moved = PARAMS[path] - 0.1 * grad / (np.abs(grad) + 1)
        assert_close(state.params[path], moved, 1e-6, path)


def test_gradients_are_clipped_from_a_step_on():
    grads = {"x": jnp.asarray([3.0, 0.0]), "y": jnp.asarray([4.0])}
    config = OptimizerConfig(
        learning_rate=0.1, beta1=0.0, beta2=0.0, clip_norm=1.0, clip_from=2, eps=1.0,
        weight_decay=0.0,
    )  # fmt: skip
    state = fresh_state(PARAMS, config, 10, KEY)
    for factor in (1.0, 1.0, 0.2, 0.2):
        new, norm = apply_gradients(state, grads, config, 10)
        grad = factor * np.asarray(grads["y"])  # moments that forget move by g / (|g| + eps)
        assert_close(new.params["y"], state.params["y"] - 0.1 * grad / (grad + 1), 1e-6)
        assert norm == 5
        state = new
    assert jax.tree.structure(state) == jax.tree.structure(fresh_state(PARAMS, config, 10, KEY))


def test_without_a_first_step_of_clipping_the_state_is_as_it_ever_was():
    """Checkpoints hold it."""
    plain, clipped = (
        fresh_state(PARAMS, OptimizerConfig(clip_norm=norm), 10, KEY) for norm in (0.0, 1.0)
    )
    assert len(jax.tree.leaves(plain)) == len(jax.tree.leaves(clipped))


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_run_begins_at_step_0_in_float32(ema):
    halves = {path: leaf.astype(jnp.bfloat16) for path, leaf in PARAMS.items()}
    state = fresh_state(halves, OptimizerConfig(ema_decay=ema), 10, KEY)
    assert int(state.step) == 0 and state.step.dtype == jnp.int32 and state.key is KEY
    assert {leaf.dtype for leaf in state.params.values()} == {jnp.dtype(jnp.float32)}
    assert state.ema.keys() == (state.params.keys() if ema else set())
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(jnp.float32)}
    assert not any(leaf.any() for leaf in moments)


def test_a_run_all_of_warm_up_is_a_schedule_too():
    course = learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=4, decay="linear"), 4)
    assert [float(course(step)) for step in (0, 2, 4, 5)] == [0, 0.5, 1, 0]


@pytest.mark.parametrize(
    "edge",
    [{"learning_rate": 0.0}, {"warmup_steps": 0}, {"weight_decay": 0.0}, {"clip_norm": 0.0},
     {"clip_from": 0},
     {"beta1": 0.0}, {"beta2": 0.0}, {"ema_decay": 0.0}, {"accumulate": 1}],
)  # fmt: skip
def test_the_least_that_is_allowed_is_allowed(edge):
    [(name, value)] = edge.items()
    assert getattr(OptimizerConfig(**edge), name) == value
