from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.models.adapters import AdapterConfig, attach, init_adapters
from pusa_jax.models.mochi.config import ATTENTION_LINEARS, DiTConfig
from pusa_jax.models.mochi.dit import MochiDiT, positions
from pusa_jax.testing.compare import assert_close, random_module, relative_error
from pusa_jax.weights.leaves import shapes_of

TINY = DiTConfig(
    dim=48, context_dim=32, ffn_dim=64, context_ffn_dim=40, num_heads=4, num_layers=3,
    pool_heads=2, text_dim=20, text_len=6, freq_dim=32,
)  # fmt: skip
LATENTS = jax.random.normal(jax.random.key(1), (2, 5, 4, 6, 12))
LENGTHS = np.asarray([4, 6])
TEXT = jax.random.normal(jax.random.key(2), (2, 6, 20)) * (np.arange(6) < LENGTHS[:, None])[
    ..., None
].astype(np.float32)
LEVELS = jnp.asarray([[1000.0, 600, 300, 20, 0], [5.0, 100, 400, 800, 999]])


def random_dit(**changes) -> MochiDiT:
    config = DiTConfig(**{f: getattr(TINY, f) for f in TINY.__dataclass_fields__} | changes)
    return random_module(lambda: MochiDiT(config, rngs=nnx.Rngs(0)))


@jax.jit
def run(dit, latents, timesteps, text):
    return dit(latents, timesteps, dit.prepare_text(text))


def test_published_size():
    shapes = shapes_of(lambda: MochiDiT(DiTConfig(), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in shapes.values()) == 10_027_677_744


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-6), ("bfloat16", 2**-7)])
def test_equal_timesteps_are_the_scalar_model(dtype, limit):
    """Up to the rounding of the mean over frames that modulates the text."""
    dit = random_dit(param_dtype=dtype, compute_dtype=dtype)
    for timestep in (0.0, 388.0, 963.0):
        per_clip = run(dit, LATENTS, jnp.full((2, 1), timestep), TEXT)
        per_frame = run(dit, LATENTS, jnp.full((2, 5), timestep), TEXT)
        assert per_clip.dtype == dtype
        assert_close(per_frame.astype(float), per_clip.astype(float), limit)


def test_a_frame_level_changes_the_whole_clip():
    dit = random_dit()
    ours, other = (run(dit, LATENTS, LEVELS.at[:, 2].set(x), TEXT) for x in (300.0, 900.0))
    changed = [relative_error(ours[:, f], other[:, f]) for f in range(5)]
    assert min(changed) > 1e-4
    assert max(changed) == changed[2]


def test_a_prompt_longer_by_padding_is_the_same_prompt():
    dit = random_dit()
    longer = jnp.pad(TEXT, ((0, 0), (0, 3), (0, 0)))
    ours, padded = (run(dit, LATENTS, LEVELS, text) for text in (TEXT, longer))
    assert_close(padded, ours, 2e-6)


def test_a_clip_does_not_depend_on_its_batch():
    dit = random_dit()
    both = run(dit, LATENTS, LEVELS, TEXT)
    for i in range(2):
        one = run(dit, LATENTS[i : i + 1], LEVELS[i : i + 1], TEXT[i : i + 1])
        assert_close(one, both[i : i + 1], 2e-6)


def test_an_empty_prompt_has_no_influence():
    """Neither through attention nor through the pooled vector, which is then a constant."""
    dit = random_dit()
    empty = jnp.zeros_like(TEXT)
    assert dit.prepare_text(empty).lengths.tolist() == [0, 0]
    ours = run(dit, LATENTS, LEVELS, empty)
    bias: Any = dit.text_embedding.bias
    bias[...] = bias[...] + 5.0
    assert jnp.array_equal(run(dit, LATENTS, LEVELS, empty), ours)


@pytest.mark.parametrize(
    "sizes",
    [{"context": 4}, {"context": 8}, {"data": 2, "context": 2, "tensor": 2}, {"tensor": 4}],
    ids=["Ulysses", "heads gathered", "all axes", "tensor"],
)
def test_a_mesh_gives_what_one_device_gives(sizes):
    dit = random_dit()
    expected = run(dit, LATENTS, LEVELS, TEXT)
    count = int(np.prod(list(sizes.values())))
    with jax.set_mesh(make_mesh(sizes, jax.devices()[:count])):
        assert_close(run(dit, LATENTS, LEVELS, TEXT), expected, 5e-6)


def test_gradients_are_those_of_one_device_on_a_mesh():
    dit = random_dit(remat="full")

    def loss(dit):
        return (run(dit, LATENTS, LEVELS, TEXT) ** 2).mean()

    expected = jax.grad(loss)(dit)
    with jax.set_mesh(make_mesh({"data": 2, "context": 4})):
        ours = jax.jit(jax.grad(loss))(dit)
    for path, leaf in jax.tree.leaves_with_path(expected):
        found = dict(jax.tree.leaves_with_path(ours))[path]
        norm = np.linalg.norm(leaf)
        assert np.linalg.norm(np.asarray(found) - leaf) <= 2e-5 * norm + 1e-7, path


def test_positions_cover_the_same_area_at_any_size():
    """As stated for 30 x 53 places in the fact sheet: steps of 4.81507, rows within +-69.82."""
    _, rows, columns = positions(2, 30, 53)
    assert rows.shape == (2, 30 * 53)
    assert rows.max() == pytest.approx(69.82, abs=0.005)
    assert columns.max() == pytest.approx(125.19, abs=0.005)
    assert columns[0, 1] - columns[0, 0] == pytest.approx(4.81507, abs=1e-5)
    assert positions(2, 30, 53)[0, :, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("shape", "timesteps", "message"),
    [
        ((1, 5, 3, 6, 12), (1, 5), "latent size must be divisible by 2x2, got 3x6"),
        ((1, 5, 4, 6, 12), (1, 4), r"timesteps must be \(1, 5\) or \(1, 1\), got \(1, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(shape, timesteps, message):
    dit = random_dit()
    with pytest.raises(ValueError, match=message):
        dit(jnp.zeros(shape), jnp.zeros(timesteps), dit.prepare_text(TEXT[:1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "dim must be num_heads times an even head dimension"),
        ({"pool_heads": 3}, "text_dim must be divisible by pool_heads, got 20 and 3"),
        ({"num_layers": 1}, "num_layers must be at least 2"),
        ({"patch_size": (2, 2, 2)}, "patch_size must start with 1"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        random_dit(**changes)


def test_adapters_lie_around_every_layer_of_attention_and_add_nothing_at_first():
    dit, adapted = random_dit(), random_dit()
    config = AdapterConfig(rank=2, alpha=2.0, targets=ATTENTION_LINEARS)
    adapters = init_adapters(shapes_of(random_dit), config, jax.random.key(0))
    assert len(adapters) == 2 * (8 + 7)
    attach(adapted, adapters, config.scale)
    expected = run(dit, LATENTS, LEVELS, TEXT)
    np.testing.assert_array_equal(run(adapted, LATENTS, LEVELS, TEXT), expected)
    attach(dit, {p: x + 0.1 for p, x in adapters.items()}, config.scale)
    assert relative_error(run(dit, LATENTS, LEVELS, TEXT), expected) > 1e-2
