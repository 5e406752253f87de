"""One expert at a time: when the next one is copied to the devices, and how often."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from watched import WatchedPipeline

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference import experts
from pusa_jax.inference.experts import Expert, Experts
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN22
from pusa_jax.testing.compare import random_module

DIT = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16)
VAE = VAEConfig(dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
SETTINGS = SamplingConfig(height=32, width=48, num_frames=5, num_steps=4, tiled=False)
"""The first expert takes two steps of four."""


def pipeline(*, one_at_a_time):
    features = np.random.default_rng(1).standard_normal((2, 8, 16), np.float32)
    high, low = (random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)), seed) for seed in (0, 1))
    given = [Expert(dit=low), Expert(dit=high, first_level=0.875)]
    coder = random_module(lambda: vae.WanVAE(VAE, rngs=nnx.Rngs(0)))
    texts: dict[str, np.ndarray] = {"a ball": features[0], "a dog": features[1]}
    pipe = WatchedPipeline(given, coder, texts, WAN22)
    pipe.experts = Experts(given, one_at_a_time=one_at_a_time)
    return pipe


def run(pipe, events=None, **changes):
    """Latents of a run; steps that are done are noted among the events."""

    def on_progress(stage, done, total):
        if events is not None and stage == "denoise" and done:
            events.append(done)

    settings = dataclasses.replace(SETTINGS, **changes)
    return pipe(
        "a ball", negative_prompt="a dog", settings=settings, on_progress=on_progress
    ).latents


@pytest.fixture(scope="module")
def expected():
    return run(pipeline(one_at_a_time=False))


@pytest.fixture
def events(monkeypatch):
    """Copies to the devices, as they begin."""
    found, move = [], experts._move

    def noted(dit, kind, **rest):
        if kind == experts.WORKING:
            found.append("copy")
        return move(dit, kind, **rest)

    monkeypatch.setattr(experts, "_move", noted)
    return found


@pytest.mark.parametrize(
    ("room", "order"),
    [(True, ["copy", 1, "copy", 2, 3, 4]), (False, ["copy", 1, 2, "copy", 3, 4])],
)
def test_the_next_expert_is_copied_during_the_last_step_before_where_there_is_room(
    monkeypatch, events, expected, room, order
):
    monkeypatch.setattr(experts, "_has_room", lambda dit: room)
    pipe = pipeline(one_at_a_time=True)
    for _ in range(2):
        np.testing.assert_array_equal(run(pipe, events), expected)
        assert events == order
        events.clear()


def test_a_run_that_one_expert_serves_copies_it_alone_and_once(events):
    pipe = pipeline(one_at_a_time=True)
    for order in (["copy", 1, 2, 3, 4], [1, 2, 3, 4]):
        run(pipe, events, boundary=0.0)
        assert events == order
        events.clear()


@pytest.mark.parametrize("room", [True, False])
def test_a_run_leaves_one_expert_on_the_devices(monkeypatch, room):
    monkeypatch.setattr(experts, "_has_room", lambda dit: room)
    pipe = pipeline(one_at_a_time=True)
    before = bytes_on_devices()
    run(pipe)
    pipe.steps = []
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(pipe.experts.take(1)))
    assert bytes_on_devices() - before < 1.5 * size


def test_the_expert_before_is_freed_though_somebody_still_holds_it():
    found = pipeline(one_at_a_time=True).experts
    before = jax.tree.leaves(found.take(0))
    found.take(1)
    assert all(leaf.is_deleted() for leaf in before)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(found.take(1)))


@pytest.mark.parametrize(("free", "expected"), [(-1, False), (0, True), (1, True)])
def test_there_is_room_where_the_weights_fit_into_what_is_free(monkeypatch, free, expected):
    dit = random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)))
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(dit))
    stats = {"bytes_limit": 10**9, "bytes_in_use": 10**9 - needed - free}
    monkeypatch.setattr(type(jax.devices()[0]), "memory_stats", lambda device: stats)
    assert experts._has_room(dit) is expected


def test_a_device_that_does_not_say_what_is_free_has_no_room(monkeypatch):
    monkeypatch.setattr(type(jax.devices()[0]), "memory_stats", lambda device: None)
    assert not experts._has_room(random_module(lambda: WanDiT(DIT, rngs=nnx.Rngs(0))))


def bytes_on_devices():
    return sum(
        x.nbytes
        for x in jax.live_arrays()
        if not x.is_deleted() and x.sharding.memory_kind == "device"
    )
