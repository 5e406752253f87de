"""Sampling on a mesh: the same clip as on one device, from weights that each device read itself."""

import jax
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.devices.sharding import make_mesh, shardings
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference import mesh_choice
from pusa_jax.inference.mesh_choice import check_memory, choose_mesh, choose_resident, memory_of
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.models.families import preset
from pusa_jax.models.wan import sharding
from pusa_jax.models.wan.family import WAN21, WAN22
from pusa_jax.testing.compare import assert_close
from pusa_jax.testing.published import DIT, write_published_folder

SETTINGS = SamplingConfig(height=48, width=80, num_frames=9, num_steps=2, tiled=False)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_published_folder(folder / "model")
    low_rank = np.random.default_rng(1).standard_normal((2, 96, 4)).astype(np.float32)
    name = "diffusion_model.blocks.1.self_attn.q.lora_{}.weight"
    arrays = {name.format("A"): low_rank[0].T.copy(), name.format("B"): low_rank[1]}
    write_safetensors(folder / "lora.safetensors", ArrayTensors(arrays))
    return folder


def sample(folder, mesh):
    pipe = PusaPipeline.from_pretrained(
        folder / "model", dtype="float32", lora=[(folder / "lora.safetensors", 0.5)], mesh=mesh
    )
    return pipe, pipe("a red dog", conditions=tasks.image_to_video(IMAGE), settings=SETTINGS)


@pytest.fixture(scope="module")
def expected(folder):
    return sample(folder, make_mesh({}, jax.devices()[:1]))[1]


@pytest.mark.parametrize("shape", [None, {"context": 4, "tensor": 2}])
def test_a_mesh_samples_the_clip_of_one_device(folder, expected, shape):
    pipe, output = sample(folder, shape)
    assert dict(pipe.mesh.shape) == (
        {"data": 2, "context": 4, "tensor": 1} if shape is None else {"data": 1, **shape}
    )
    assert_close(output.latents, expected.latents, 1e-5)
    assert np.abs(output.frames.astype(int) - expected.frames).max() <= 1
    dit = nnx.state(pipe.experts[0].dit)
    wanted = shardings(dit, sharding.DIT, pipe.mesh)
    jax.tree.map(lambda leaf, where: leaf.sharding == where or pytest.fail(str(leaf)), dit, wanted)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"data": 3}, "mesh data=3 needs 3 devices, there are 8; use data=8"),
        ({"tensor": 8}, r"tensor=8 does not divide the 4 heads; use one of \[1, 2, 4\]"),
        ({"rows": 8}, "unknown mesh axis 'rows'"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_before_loading(folder, shape, message):
    def never(stage, done, total):
        raise AssertionError(f"{stage} began")

    with pytest.raises(ValueError, match=message) as error:
        PusaPipeline.from_pretrained(folder / "model", mesh=shape, on_progress=never)
    assert "\n" not in str(error.value)


def test_too_little_memory_is_told_before_loading(folder, monkeypatch):
    def never(stage, done, total):
        raise AssertionError(f"{stage} began")

    monkeypatch.setattr(mesh_choice, "memory_of", lambda device, sharers: 2**10)
    with pytest.raises(ValueError, match=r"take 0\.0 GiB of each of 8 devices") as error:
        PusaPipeline.from_pretrained(folder / "model", on_progress=never)
    assert "\n" not in str(error.value)


def test_the_machine_s_memory_is_shared_by_its_devices():
    alone, *shared = (memory_of(jax.devices()[0], sharers) for sharers in (1, 2, 8))
    assert 2**30 < alone < 2**45 and shared == [alone // 2, alone // 8]


def test_without_guidance_all_devices_share_the_tokens():
    assert dict(choose_mesh(None, WAN21, DIT, guided=False).shape) == {
        "data": 1, "context": 8, "tensor": 1
    }  # fmt: skip


GPU = {"data": 1}


@pytest.mark.parametrize(
    ("gib", "resident"),
    # Each expert is 26.6 GiB in bfloat16; a quarter of a device is left to the rest of a run.
    [(80, "all"), (72, "all"), (70, "one"), (40, "one"), (None, "all")],
)
def test_both_experts_stay_on_the_device_where_a_quarter_of_it_is_left(gib, resident):
    dit, mesh = preset("wan2.2-t2v-a14b").dit, make_mesh(GPU, jax.devices()[:1])
    limit = None if gib is None else gib * 2**30
    assert choose_resident(None, mesh, WAN22, dit, "bfloat16", limit) == resident
    assert choose_resident("all", mesh, WAN22, dit, "bfloat16", limit) == "all"
    assert choose_resident("one", mesh, WAN22, dit, "bfloat16", limit) == "one"
    assert choose_resident("one", mesh, WAN21, dit, "bfloat16", limit) == "all"  # has no other


def test_two_experts_need_twice_the_memory_unless_one_waits(monkeypatch):
    dit, mesh = preset("wan2.2-t2v-a14b").dit, make_mesh(GPU, jax.devices()[:1])
    monkeypatch.setattr(mesh_choice, "memory_of", lambda device, sharers: 40 * 2**30)
    check_memory(mesh, WAN22, dit, "bfloat16", "one")
    check_memory(mesh, WAN21, dit, "bfloat16")
    with pytest.raises(ValueError, match=r"of 2 experts in bfloat16 take 53\.2 GiB of each of 1"):
        check_memory(mesh, WAN22, dit, "bfloat16", "all")
