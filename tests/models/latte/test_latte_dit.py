import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.models.adapters import AdapterConfig, attach, init_adapters
from pusa_jax.models.latte.config import ATTENTION_LINEARS, SIZES, DiTConfig
from pusa_jax.models.latte.dit import LatteVideo, places, sinusoids
from pusa_jax.testing.compare import assert_close, random_module, relative_error
from pusa_jax.weights.leaves import leaves_of, shapes_of

TINY = DiTConfig(
    dim=32, num_heads=4, num_layers=4, num_classes=3, num_frames=5, grid=(2, 3), freq_dim=16
)
LATENTS = jax.random.normal(jax.random.key(1), (2, 5, 4, 6, 4))
LABELS = jnp.asarray([1.0, 3.0]).reshape(2, 1, 1)
LEVELS = jnp.asarray([[999.0, 600, 300, 20, 0], [5.0, 100, 400, 800, 999]])


def build(**changes) -> LatteVideo:
    return LatteVideo(dataclasses.replace(TINY, **changes), rngs=nnx.Rngs(0))


def random_dit(**changes) -> LatteVideo:
    return random_module(lambda: build(**changes))


@jax.jit
def run(dit, latents, timesteps, labels):
    return dit(latents, timesteps, dit.prepare(labels))


@pytest.mark.parametrize(
    ("size", "classes", "count"),
    [("XL", 0, 673_994_912), ("XL", 101, 674_112_416), ("B", 0, 129_755_936)],
)
def test_published_sizes(size, classes, count):
    config = dataclasses.replace(SIZES[size], num_classes=classes)
    shapes = shapes_of(lambda: LatteVideo(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in shapes.values()) == count


def test_the_result_has_noise_and_variance_of_each_channel():
    assert run(random_dit(), LATENTS, LEVELS, LABELS).shape == (2, 5, 4, 6, 8)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-6), ("bfloat16", 2**-7)])
def test_equal_timesteps_are_the_scalar_model(dtype, limit):
    dit = random_dit(param_dtype=dtype, compute_dtype=dtype)
    for timestep in (0.0, 388.0, 999.0):
        per_clip = run(dit, LATENTS, jnp.full((2, 1), timestep), LABELS)
        per_frame = run(dit, LATENTS, jnp.full((2, 5), timestep), LABELS)
        assert per_clip.dtype == dtype
        assert_close(per_frame.astype(float), per_clip.astype(float), limit)


def test_a_frame_level_changes_the_whole_clip():
    dit = random_dit()
    ours, other = (run(dit, LATENTS, LEVELS.at[:, 2].set(x), LABELS) for x in (300.0, 900.0))
    changed = [relative_error(ours[:, f], other[:, f]) for f in range(5)]
    assert min(changed) > 1e-4
    assert max(changed) == changed[2]


def test_a_clip_does_not_depend_on_its_batch():
    dit = random_dit()
    both = run(dit, LATENTS, LEVELS, LABELS)
    for i in range(2):
        one = run(dit, LATENTS[i : i + 1], LEVELS[i : i + 1], LABELS[i : i + 1])
        assert_close(one, both[i : i + 1], 2e-6)


def test_a_pair_of_blocks_looks_within_frames_then_through_time():
    """Where frames mix nothing, a cell reaches other frames at its own place only."""
    dit = random_dit(num_layers=2)
    changed = LATENTS.at[:, 3, 0, 0].add(1.0)  # a cell of the first patch of frame 3
    ours, other = (run(dit, x, LEVELS, LABELS) for x in (LATENTS, changed))
    moved = np.abs(ours - other).max((0, 2, 3, 4))
    assert (moved > 0).all()  # frame 3 spreads it over its places, each of which tells other frames
    one = random_dit(num_layers=2)
    one.blocks.spatial.o.kernel[...] = jnp.zeros_like(one.blocks.spatial.o.kernel[...])
    ours, other = (run(one, x, LEVELS, LABELS) for x in (LATENTS, changed))
    moved = np.abs(ours - other).max((0, 4))  # [F, H, W]
    assert (moved[:, :2, :2] > 0).all() and not moved[:, :, 2:].any() and not moved[:, 2:].any()


def test_a_label_shifts_every_frame_and_an_unknown_one_shows():
    dit = random_dit()
    ours, other = (run(dit, LATENTS, LEVELS, jnp.full((2, 1, 1), x)) for x in (0.0, 2.0))
    assert min(relative_error(ours[:, f], other[:, f]) for f in range(5)) > 1e-3
    for odd in (4.0, -1.0):
        assert jnp.isnan(dit.prepare(jnp.full((1, 1, 1), odd))).all()


def test_a_model_without_classes_does_not_look_at_labels():
    dit = random_dit(num_classes=0)
    assert not hasattr(dit, "label_embedding")
    assert not dit.prepare(LABELS).any() and dit.prepare(LABELS).shape == (2, 32)


@pytest.mark.parametrize(
    "sizes",
    [{"context": 2}, {"context": 4}, {"data": 2, "context": 2, "tensor": 2}, {"tensor": 4}],
    ids=["context", "padded", "all axes", "tensor"],
)
def test_a_mesh_gives_what_one_device_gives(sizes):
    dit = random_dit()
    expected = run(dit, LATENTS, LEVELS, LABELS)
    count = int(np.prod(list(sizes.values())))
    with jax.set_mesh(make_mesh(sizes, jax.devices()[:count])):
        assert_close(run(dit, LATENTS, LEVELS, LABELS), expected, 5e-6)


def test_gradients_are_those_of_one_device_on_a_mesh_and_positions_have_none():
    dit = random_dit(remat="full", num_layers=2)

    def loss(dit):
        return (run(dit, LATENTS, LEVELS, LABELS) ** 2).mean()

    expected = jax.grad(loss)(dit)
    assert not expected.pos_embed[...].any() and not expected.temp_embed[...].any()
    with jax.set_mesh(make_mesh({"data": 2, "context": 4})):
        ours = jax.jit(jax.grad(loss))(dit)
    for path, leaf in jax.tree.leaves_with_path(expected):
        found = dict(jax.tree.leaves_with_path(ours))[path]
        assert np.linalg.norm(np.asarray(found) - leaf) <= 2e-5 * np.linalg.norm(leaf) + 1e-7, path


@pytest.fixture(scope="module")
def fresh():
    return build(dim=64, grid=(2, 2), num_layers=2)


def test_a_fresh_model_has_the_tables_of_the_rule_and_predicts_nothing(fresh):
    frequency = 10_000.0 ** (-np.arange(32) / 32)
    for f, row in enumerate(np.asarray(fresh.temp_embed)):
        angles = f * frequency
        np.testing.assert_allclose(row, [*np.sin(angles), *np.cos(angles)], atol=1e-6)
    where = np.asarray(fresh.pos_embed)
    np.testing.assert_array_equal(where[1, 32:], where[0, 32:])  # one column on, the same row
    np.testing.assert_array_equal(where[2, :32], where[0, :32])  # one row on, the same column
    np.testing.assert_allclose(where[1, :32], sinusoids(np.asarray([1]), 32)[0], rtol=1e-6)
    assert places((2, 3), 8).shape == (6, 8)
    assert not run(fresh, LATENTS[:, :, :, :4], LEVELS, LABELS).any()


def test_a_fresh_model_is_drawn_as_the_original_draws_it(fresh):
    """Uniform by Xavier, queries, keys and values as one layer; embeddings normal; biases zero."""
    fresh = leaves_of(fresh)
    spread = {path: float(jnp.abs(leaf).max()) for path, leaf in fresh.items()}
    bounds = {
        "blocks/spatial/q/kernel": (6 / (64 + 3 * 64)) ** 0.5,
        "blocks/temporal/o/kernel": (6 / (64 + 64)) ** 0.5,
        "blocks/temporal/mlp/up/kernel": (6 / (64 + 256)) ** 0.5,
        "patch_embedding/kernel": (6 / (16 + 64)) ** 0.5,
    }
    for path, bound in bounds.items():
        assert 0.98 * bound < spread[path] <= bound * 1.0001, path
    for path in ("time_embedding/up/kernel", "time_embedding/down/kernel", "label_embedding"):
        assert float(fresh[path].std()) == pytest.approx(0.02, rel=0.2), path
    zero = [p for p in fresh if re.search(r"bias$|modulation/|head/", p)]
    assert len(zero) == 23 and not any(spread[path] for path in zero)


@pytest.mark.parametrize(
    ("shape", "timesteps", "message"),
    [
        ((1, 17, 4, 6, 4), (1, 17), "^17 frames, but this model has positions for 5"),
        ((1, 4, 4, 6, 4), (1, 4), "^4 frames, but this model has positions for 5"),
        ((1, 5, 6, 4, 4), (1, 5), "^latents of 6x4, but this model has positions for 4x6"),
        ((1, 5, 4, 6, 4), (1, 4), r"timesteps must be \(1, 5\) or \(1, 1\), got \(1, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(shape, timesteps, message):
    dit = random_dit()
    with pytest.raises(ValueError, match=message):
        dit(jnp.zeros(shape), jnp.zeros(timesteps), dit.prepare(LABELS[:1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "dim must be a multiple of num_heads and of 4, got dim=32, num_heads=5"),
        ({"dim": 30, "num_heads": 3}, "dim must be a multiple of num_heads and of 4"),
        ({"num_layers": 3}, "num_layers must be even.* got 3"),
        ({"num_layers": 0}, "num_layers must be even"),
        ({"patch_size": (2, 2, 2)}, "patch_size must start with 1"),
        ({"num_classes": -1}, "num_classes must be at least 0"),
        ({"grid": (0, 3)}, "num_frames and grid at least 1"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_adapters_lie_around_every_layer_of_attention_and_add_nothing_at_first():
    dit, adapted = random_dit(), random_dit()
    config = AdapterConfig(rank=2, alpha=2.0, targets=ATTENTION_LINEARS)
    adapters = init_adapters(shapes_of(random_dit), config, jax.random.key(0))
    assert len(adapters) == 2 * 8
    attach(adapted, adapters, config.scale)
    expected = run(dit, LATENTS, LEVELS, LABELS)
    np.testing.assert_array_equal(run(adapted, LATENTS, LEVELS, LABELS), expected)
    attach(dit, {p: x + 0.1 for p, x in adapters.items()}, config.scale)
    assert relative_error(run(dit, LATENTS, LEVELS, LABELS), expected) > 1e-2
