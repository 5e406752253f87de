"""What is compiled once is not compiled again: within a process, and in the next one."""

from pathlib import Path

import jax
import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.devices.compile_cache import cache_folder, keep_compiled
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.testing.published import write_published_folder

pytestmark = pytest.mark.long

COMPILED = "/jax/core/compile/backend_compile_duration"
ASKED, FOUND = (
    "/jax/compilation_cache/compile_requests_use_cache",
    "/jax/compilation_cache/cache_hits",
)
SIZE = {"height": 32, "width": 48, "num_frames": 17, "tiled": False}
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
CLIP = np.random.default_rng(1).integers(0, 256, (17, 32, 48, 3), np.uint8)

RUNS = {
    "t2v": ([], {"num_steps": 2}),
    "t2v without guidance": ([], {"num_steps": 3, "guidance_scale": 1.0}),
    "i2v": (tasks.image_to_video(IMAGE, multipliers=[0.0]), {"num_steps": 1, "shift": 3.0}),
    "start-end": (tasks.start_end(IMAGE, IMAGE, 5), {"num_steps": 2, "guidance_scale": 5.0}),
    "extend": (tasks.extend(CLIP, 4, (0, 1), (0.0, 0.3)), {"num_steps": 2, "seed": 3}),
    "transition": (tasks.transition(CLIP, CLIP, 5, 4, at=(0, 4)), {"num_steps": 4}),
}


@pytest.fixture
def events():
    """Names of what jax's monitoring tells of, in order."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **_) -> None:
        seen.append(event)

    jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.clear_event_listeners()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_published_folder(folder)
    name = "diffusion_model.blocks.1.self_attn.q.lora_{}.weight"
    arrays = {
        name.format("A"): np.ones((4, 96), np.float32),
        name.format("B"): np.ones((96, 4), np.float32),
    }
    (folder / "pusa").mkdir()
    write_safetensors(folder / "pusa" / "lora.safetensors", ArrayTensors(arrays))
    return folder


def build(folder, strength, mesh):
    lora = [(folder / "pusa" / "lora.safetensors", strength)]
    return PusaPipeline.from_pretrained(folder, dtype="float32", lora=lora, mesh=mesh)


@pytest.mark.parametrize("sizes", [{}, {"data": 2}])
def test_nothing_is_compiled_after_the_first_run(folder, events, programs, tmp_path, sizes):
    mesh = make_mesh(sizes, jax.devices()[: 2 if sizes else 1])
    keep_compiled(tmp_path)
    jax.clear_caches()
    try:
        pipe = build(folder, 1.4, mesh)
        first = tasks.complete(CLIP, 5, 4)  # runs every program there is
        pipe("a dog", conditions=first, settings=SamplingConfig(**SIZE, num_steps=2))
        assert COMPILED in events
        events.clear()
        for name, (conditions, changes) in RUNS.items():
            pipe("a dog", conditions=conditions, settings=SamplingConfig(**SIZE, **changes))
            assert COMPILED not in events, name

        jax.clear_caches()  # as if in a new process
        events.clear()
        pipe = build(folder, 0.7, mesh)
        pipe("a dog", conditions=first, settings=SamplingConfig(**SIZE, num_steps=2))
        assert events.count(FOUND) == events.count(ASKED) > 0
    finally:
        keep_compiled(programs)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"JAX_COMPILATION_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/pusa_jax/compiled"),
        ({}, str(Path.home() / ".cache/pusa_jax/compiled")),
    ],
)
def test_the_folder_is_that_of_the_environment(environment, folder):
    assert cache_folder(environment) == Path(folder)


@pytest.mark.parametrize("harm", ["flipped", "cut", "exchanged"])
def test_an_entry_that_is_not_its_own_is_dropped_compiled_again_and_replaced(
    events, programs, tmp_path, harm
):
    told = []

    def run():
        jax.clear_caches()
        events.clear()
        return float(jax.jit(lambda x: x * 3 + 1)(2.0)), float(jax.jit(lambda x: x * 5)(2.0))

    try:
        keep_compiled(tmp_path, told.append)
        assert run() == (7, 10) and COMPILED in events
        whole = {file: file.read_bytes() for file in tmp_path.iterdir()}
        first, *_, last = sorted(whole, key=lambda file: file.name)
        if harm == "flipped":
            first.write_bytes(whole[first][:-1] + bytes([whole[first][-1] ^ 1]))
        elif harm == "cut":
            first.write_bytes(whole[first][:20])
        else:
            first.write_bytes(whole[last])
        assert run() == (7, 10) and told == [first]
        assert events.count(FOUND) == events.count(ASKED) - 1
        assert run() == (7, 10) and told == [first]
        assert events.count(FOUND) == events.count(ASKED) > 0
    finally:
        keep_compiled(programs)
