"""Two denoisers in one run: who takes which step, at which scale; copies: test_swapping."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from watched import WatchedPipeline

from pusa_jax.devices.sharding import make_mesh, shardings
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig, TeaCache
from pusa_jax.inference.experts import Expert, Experts, waiting
from pusa_jax.inference.reuse import _program, check_reusing
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN22
from pusa_jax.models.wan.sharding import DIT as RULES
from pusa_jax.models.wan.teacache import POLYNOMIALS
from pusa_jax.testing.compare import random_module

DIT = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16)
VAE = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
SETTINGS = SamplingConfig(height=32, width=48, num_frames=9, num_steps=6, seed=3, tiled=False)
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


class Counted(WanDiT):
    """A DiT that counts how often it is run."""

    passes = 0

    def __call__(self, latents, timesteps, text):
        jax.debug.callback(self._count)
        return super().__call__(latents, timesteps, text)

    @classmethod
    def _count(cls):
        cls.passes += 1


def two(kind=WanDiT):
    dits = [random_module(lambda: kind(DIT, rngs=nnx.Rngs(0)), seed) for seed in (0, 1)]
    return [Expert(dit=dits[1]), Expert(dit=dits[0], first_level=0.875)]


def pipeline(experts):
    rng = np.random.default_rng(1)
    texts = {p: rng.standard_normal((8, 16), np.float32) for p in ("a ball", "a dog")}
    coder = random_module(lambda: vae.WanVAE(VAE, rngs=nnx.Rngs(0)))
    return WatchedPipeline(experts, coder, texts, WAN22)


def run(pipe, given=(), **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return pipe("a ball", negative_prompt="a dog", conditions=given, settings=settings)


@pytest.fixture(scope="module")
def pipe():
    return pipeline(two())


@pytest.mark.parametrize(
    ("boundary", "high_steps"), [(None, 3), (0.0, 6), (1.0, 1), (0.5, 6), (0.95, 2)]
)
def test_the_boundary_decides_who_takes_a_step(pipe, boundary, high_steps):
    """At shift 5 and 6 steps the levels are 1, .96, .91, .83, .71, .5."""
    run(pipe, boundary=boundary)
    high = pipe.experts[0].dit
    served = [step.dit is high for step in pipe.steps]
    assert served == [True] * high_steps + [False] * (6 - high_steps)


def test_the_expert_goes_by_the_level_before_it_is_rounded():
    experts = Experts(two())
    assert [experts.serving(x) for x in (1.0, 0.875, 0.8749999, 0.0)] == [0, 0, 1, 1]
    assert experts.serving(0.8749999, 0.8749999) == 0


def test_a_single_expert_serves_every_level_on_both_sides_of_a_boundary():
    alone = Experts(two()[:1])
    assert [alone.serving(x, 0.5) for x in (1.0, 0.5, 0.4, 0.0)] == [0, 0, 0, 0]


def test_each_expert_has_a_guidance_scale_and_a_schedule_overrules_them(pipe):
    run(pipe, guidance_scale=4.0, low_guidance_scale=3.0)
    assert [step.scale for step in pipe.steps] == [4.0] * 3 + [3.0] * 3
    run(pipe, guidance_scale=4.0)
    assert [step.scale for step in pipe.steps] == [4.0] * 6
    run(pipe, guidance_schedule=(6.0, 5.0, 4.0, 3.0, 2.0, 1.0))
    assert [step.scale for step in pipe.steps] == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_a_schedule_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a scale for each of the 6 steps, got 2"):
        dataclasses.replace(SETTINGS, guidance_schedule=(1.0, 2.0))


def test_no_negative_pass_is_run_where_the_scale_is_one():
    pipe = pipeline(two(Counted))
    for settings, passes in (
        ({"guidance_scale": 1.0}, 6),
        ({"guidance_scale": 3.0}, 12),
        ({"guidance_scale": 3.0, "low_guidance_scale": 1.0}, 9),
        ({"guidance_scale": 3.0, "guidance_until": 0.5}, 9),
        ({"guidance_scale": 3.0, "guidance_until": 0.0}, 6),
        ({"guidance_scale": 3.0, "rows": (0, 9, 20, 49), "num_steps": 4}, 8),
    ):
        Counted.passes = 0
        output = run(pipe, **settings)
        jax.effects_barrier()
        assert Counted.passes == passes == output.passes


def test_guidance_ends_behind_its_share_of_the_steps(pipe):
    for share, guided in ((0.5, 3), (0.51, 4), (1 / 3, 2), (1.0, 6), (0.0, 0)):
        run(pipe, guidance_scale=4.0, low_guidance_scale=3.0, guidance_until=share)
        assert [step.scale for step in pipe.steps] == ([4.0] * 3 + [3.0] * 3)[:guided] + [1.0] * (
            6 - guided
        )
    run(pipe, guidance_schedule=(6.0, 5.0, 4.0, 3.0, 2.0, 1.0), guidance_until=0.5)
    assert [step.scale for step in pipe.steps] == [6.0, 5.0, 4.0, 1.0, 1.0, 1.0]


def test_no_step_looks_back_over_a_change_of_expert_or_guidance(pipe):
    run(pipe, solver="ab2", num_steps=10, guidance_until=0.8)
    changes = [i for i in range(1, 10) if pipe.steps[i].dit is not pipe.steps[i - 1].dit]
    assert len(changes) == 1 and changes[0] != 8
    back = [bool(step.row.coefficients[1].any()) for step in pipe.steps]
    assert back == [i not in (0, changes[0], 8) for i in range(10)]


def test_rows_are_those_of_the_fine_table_for_every_expert(pipe):
    rows = (0, 1, 2, 5, 9, 20, 49)
    run(pipe, num_steps=50)
    whole = pipe.told()
    dits = [step.dit for step in pipe.steps]
    run(pipe, num_steps=7, rows=rows)
    assert np.array_equal(pipe.told(), whole[[*rows]])
    assert all(step.dit is dits[row] for step, row in zip(pipe.steps, rows, strict=True))
    assert pipe.step_sizes()[:, 0].sum() == pytest.approx(-1, abs=1e-6)
    run(pipe, num_steps=24, rows="front")
    assert np.array_equal(pipe.told(), whole[[*range(10), *range(10, 50, 3)]])


@pytest.mark.parametrize("solver", ["euler", "ab2", "unipc", "dpm++"])
def test_nothing_is_compiled_when_the_expert_changes(solver):
    pipe, counts, compiled = pipeline(two()), [], []

    def on_compile(event, duration_secs, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    def on_progress(stage, done, total):
        if stage == "denoise":
            counts.append(len(compiled))

    jax.monitoring.register_event_duration_secs_listener(on_compile)
    try:
        settings = dataclasses.replace(SETTINGS, solver=solver)
        pipe("a ball", negative_prompt="a dog", settings=settings, on_progress=on_progress)
    finally:
        jax.monitoring.unregister_event_duration_listener(on_compile)
    assert compiled
    assert len({step.dit for step in pipe.steps}) == 2
    assert len(set(counts)) == 1


def test_an_expert_waits_in_the_hosts_memory_cut_as_it_was():
    mesh = make_mesh({"data": 2, "context": 2}, jax.devices()[:4])
    dit = random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)))
    placed = jax.device_put(dit, shardings(dit, RULES, mesh))
    expected = np.asarray(placed.blocks.ffn.up.kernel[...])
    kernel: jax.Array = placed.blocks.ffn.up.kernel[...]
    parked: Any = waiting(placed)
    leaf = parked.blocks.ffn.up.kernel[...]
    assert kernel.is_deleted()
    assert leaf.sharding.memory_kind == "pinned_host"
    assert leaf.sharding.is_equivalent_to(
        kernel.sharding.with_memory_kind("pinned_host"), leaf.ndim
    )
    back = Experts([Expert(dit=parked)], one_at_a_time=True).take(0).blocks.ffn.up.kernel[...]
    assert back.sharding.memory_kind == "device"
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_a_frame_given_exactly_stays_exact_under_every_solver(pipe, solver):
    given = tasks.image_to_video(IMAGE, (0,), (0.0,))
    result = run(pipe, given, solver=solver)
    clean = pipe.encode((IMAGE.astype(np.float32) * (2 / 255) - 1)[None, None], False)
    np.testing.assert_array_equal(result.latents[:, 0], clean[:, 0])
    assert (pipe.told()[:, 0] == 0).all()
    assert (pipe.told()[:, 1:] > 0).all()
    assert not np.array_equal(result.latents[:, 1], run(pipe, solver=solver).latents[:, 1])


def test_a_frame_given_with_noise_needs_euler_and_nothing_is_done_before_that_is_said(pipe):
    given = tasks.image_to_video(IMAGE, (0,), (0.3,))
    seen = []
    with pytest.raises(
        ValueError, match=r"\(multiplier 0.3\) moves along levels of its own, and u"
    ):
        pipe(
            "a ball",
            conditions=given,
            settings=dataclasses.replace(SETTINGS, solver="unipc"),
            on_progress=lambda *stage: seen.append(stage),
        )
    assert not seen


def test_free_frames_of_a_multistep_run_start_from_pure_noise(pipe):
    """Though the levels that the solver computes with start at 0.9998."""
    noise = jax.random.normal(jax.random.key(5), (1, 3, 4, 6, 16))
    settings = dataclasses.replace(SETTINGS, solver="unipc")
    pipe("a ball", negative_prompt="a dog", settings=settings, noise=noise)
    np.testing.assert_array_equal(pipe.trace()[0], noise[0])
    assert jnp.max(jnp.asarray(pipe.told())) == 999


def test_a_cache_leaves_blocks_out_and_its_passes_are_counted(pipe, monkeypatch):
    plain = run(pipe)
    with monkeypatch.context() as patch:
        patch.setitem(POLYNOMIALS, "14B", (0.0, 1.0))  # every change is 1
        whole = run(pipe, teacache=TeaCache(threshold=0.5, polynomial="14B"))
    np.testing.assert_allclose(whole.latents, plain.latents, rtol=1e-5, atol=1e-5)
    assert whole.passes == plain.passes == 12
    cached = run(pipe, teacache=TeaCache(threshold=1e9, polynomial="14B"))
    assert cached.passes == 2 * 3  # the first of each expert, and the last
    assert not np.allclose(cached.latents, plain.latents, atol=1e-4)
    compiled = _program.cache_info().misses
    run(pipe, teacache=TeaCache(threshold=1e9, polynomial="14B"))
    assert _program.cache_info().misses == compiled  # runs share their programs


def test_a_cache_runs_the_passes_in_turn():
    mesh = make_mesh({"data": 2}, jax.devices()[:2])
    settings = dataclasses.replace(SETTINGS, teacache=TeaCache(threshold=0.1))
    with pytest.raises(ValueError, match="give a mesh with data=1"):
        check_reusing(settings, mesh)
    check_reusing(SETTINGS, mesh)
