import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.models.families import preset
from pusa_jax.models.layers import patchify, time_features, unpatchify
from pusa_jax.models.rope import rotary_table, rotate
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import assert_close, random_module
from pusa_jax.weights.leaves import assemble, leaves_of, shapes_of

TINY = DiTConfig(
    dim=48, ffn_dim=64, num_heads=4, num_layers=2, text_dim=20, text_len=6, freq_dim=32
)
LATENTS = jax.random.normal(jax.random.key(1), (2, 5, 4, 6, 16))
TEXT = jax.random.normal(jax.random.key(2), (2, 6, 20))


def random_dit(config):
    return random_module(lambda: WanDiT(config, rngs=nnx.Rngs(0)))


@jax.jit
def run(dit, latents, timesteps, text):
    return dit(latents, timesteps, dit.project_text(text))


@pytest.mark.parametrize(
    ("name", "count"), [("wan2.1-t2v-1.3b", 1_418_996_800), ("wan2.1-t2v-14b", 14_288_491_584)]
)
def test_published_sizes(name, count):
    config = preset(name).dit
    shapes = shapes_of(lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in shapes.values()) == count


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"known: .*mochi-1-preview, wan2\.1-t2v-1\.3b, "):
        preset("wan9")


@pytest.mark.parametrize("numerics", ["wan", "diffsynth"])
def test_equal_timesteps_are_the_scalar_model_bitwise_in_bfloat16(numerics):
    config = dataclasses.replace(
        TINY, numerics=numerics, param_dtype="bfloat16", compute_dtype="bfloat16"
    )
    dit = random_dit(config)
    for timestep in (1000.0, 936.0, 612.0, 37.0):
        per_clip = run(dit, LATENTS, jnp.full((2, 1), timestep), TEXT)
        per_frame = run(dit, LATENTS, jnp.full((2, 5), timestep), TEXT)
        assert jnp.array_equal(per_clip, per_frame)


def test_numerics_agree_in_float32_and_differ_in_bfloat16():
    outs = {}
    for numerics in ("wan", "diffsynth"):
        for dtype in ("float32", "bfloat16"):
            config = dataclasses.replace(TINY, numerics=numerics, compute_dtype=dtype)
            outs[numerics, dtype] = run(random_dit(config), LATENTS, jnp.full((2, 5), 500.0), TEXT)
    assert jnp.array_equal(outs["wan", "float32"], outs["diffsynth", "float32"])
    exact = outs["wan", "float32"]
    errors = {n: assert_close(outs[n, "bfloat16"], exact, 0.05) for n in ("wan", "diffsynth")}
    assert errors["wan"] < errors["diffsynth"]
    assert outs["wan", "bfloat16"].dtype == jnp.float32
    assert outs["diffsynth", "bfloat16"].dtype == jnp.bfloat16


def test_a_frame_level_changes_the_whole_clip_through_attention():
    dit = random_dit(TINY)
    levels = jnp.full((2, 5), 500.0)
    before, after = (run(dit, LATENTS, t, TEXT) for t in (levels, levels.at[:, 0].set(100.0)))
    change = jnp.abs(after - before).max(axis=(0, 2, 3, 4))
    assert (change > 0).all() and change[0] > change[1:].max()


def test_modulation_is_per_frame_not_per_token():
    """No intermediate of a traced forward is as large as a modulation for every token would be."""
    dit = nnx.eval_shape(lambda: WanDiT(TINY, rngs=nnx.Rngs(0)))
    latents = jax.ShapeDtypeStruct((1, 5, 40, 60, 16), jnp.float32)
    timesteps, text = (
        jax.ShapeDtypeStruct((1, 5), jnp.float32),
        jax.ShapeDtypeStruct((1, 6, 20), jnp.float32),
    )
    jaxpr = jax.make_jaxpr(lambda d, *a: d(*a[:2], d.project_text(a[2])))(
        dit, latents, timesteps, text
    )
    tokens = 5 * 20 * 30
    sizes = [
        v.aval.shape for eqn in walk(jaxpr.jaxpr) for v in eqn.outvars if hasattr(v.aval, "shape")
    ]
    assert not [s for s in sizes if 6 in s and np.prod(s) >= tokens * 6 * TINY.dim]


def test_a_step_reads_the_projected_text_and_not_what_projects_it():
    def build():
        return WanDiT(TINY, rngs=nnx.Rngs(0))

    dit, levels = random_module(build), jnp.full((2, 5), 500.0)
    projects = r"text_embedding|cross_attn/(k|v|norm_k)/"
    broken = {
        path: leaf * jnp.nan if re.search(projects, path) else leaf
        for path, leaf in leaves_of(dit).items()
    }
    text, step = dit.project_text(TEXT), jax.jit(lambda dit, *rest: dit(*rest))
    expected = step(dit, LATENTS, levels, text)
    assert jnp.array_equal(step(assemble(build, broken), LATENTS, levels, text), expected)


def walk(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from walk(inner)


@pytest.mark.parametrize("shape", [(2, 4), (2, 2)])
def test_timesteps_of_another_count_are_refused(shape):
    dit = nnx.eval_shape(lambda: WanDiT(TINY, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"timesteps must be \(2, 5\) or \(2, 1\)"):
        jax.eval_shape(run, dit, LATENTS, jnp.zeros(shape), TEXT)


def test_time_features_are_those_of_float64():
    times = np.asarray([0, 3, 37.25, 612, 833.3333, 937.5, 999, 1000], np.float32)
    features = jax.vmap(lambda t: time_features(t, 256))(jnp.asarray(times))
    angles = times[:, None].astype(np.float64) * 10_000.0 ** -(np.arange(128) / 128)
    exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert np.abs(np.asarray(features) - exact).max() < 6e-7
    naive = np.cos(times[:, None] * (10_000.0 ** -(np.arange(128) / 128)).astype(np.float32))
    assert np.abs(naive - exact[:, :128]).max() > 1e-5


def test_patches_are_undone():
    patches = patchify(LATENTS, (2, 2))
    assert patches.shape == (2, 5, 6, 64)
    assert jnp.array_equal(unpatchify(patches, (4, 6), (2, 2)), LATENTS)


def test_rotation_depends_on_relative_place_only():
    table = rotary_table(24, 4, 3, 5)
    ones = jnp.ones((1, 4, 15, 1, 24))
    turned = rotate(ones, table)[0, :, :, 0].reshape(4, 3, 5, 24)
    dots = [turned[i, 0, j] @ turned[i + 1, 1, j + 2] for i in range(3) for j in range(3)]
    assert np.allclose(dots, dots[0], atol=1e-4)
    assert jnp.allclose(turned[0, 0, 0], 1.0)
