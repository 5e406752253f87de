"""Two processes of four devices each sample the clip that one process samples."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.devices import processes
from pusa_jax.devices.processes import is_one_of_several
from pusa_jax.inference import jobs
from pusa_jax.media import video
from pusa_jax.testing.compare import assert_close
from pusa_jax.testing.published import write_published_folder
from pusa_jax.weights.store import SavedTree, save_tree
from tests import two_processes
from tests.groups import run_two

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
LARGE = np.zeros((4, 512, 128), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    write_published_folder(folder / "model")
    convert_folder(folder / "model", folder / "converted")
    low_rank = np.random.default_rng(1).standard_normal((2, 96, 4)).astype(np.float32)
    name = "diffusion_model.blocks.1.self_attn.q.lora_{}.weight"
    arrays = {name.format("A"): low_rank[0].T.copy(), name.format("B"): low_rank[1]}
    write_safetensors(folder / "lora.safetensors", ArrayTensors(arrays))
    save_tree(folder / "large", [("kernel", LARGE)], cut_axis=lambda path: 1)
    run_two([two_processes.__file__, folder], {"PYTHONPATH": str(ROOT)})
    return folder


def test_two_processes_sample_what_one_does(folder):
    first, second = (np.load(folder / f"latents{index}.npy") for index in range(2))
    assert first.tobytes() == second.tobytes()
    result, *_ = jobs.run(jobs.prepare(two_processes.job(folder), folder / "one.mp4"))
    assert_close(first, result.latents, 1e-5)


def test_each_process_reads_its_half_of_a_saved_tree(folder):
    for index in range(2):
        read = json.loads((folder / f"read{index}.json").read_text())
        assert 0.5 <= read / LARGE.nbytes < 0.52


def test_only_the_first_process_writes(folder):
    assert not (folder / "1.mp4").exists()
    record = video.read_metadata(folder / "0.mp4")
    assert record["mesh"] == {"data": 2, "context": 4, "tensor": 1}
    assert record["job"]["settings"]["seed"] == two_processes.SETTINGS.seed


def test_weights_that_two_processes_saved_are_loaded_by_one(folder):
    _, expected = ModelFolder(folder / "model").load("dit")
    loaded = SavedTree(folder / "saved").load()
    assert loaded.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.asarray(loaded[path]).tobytes() == np.asarray(leaf).tobytes(), path
    assert not (folder / "saved.tmp").exists()


GROUP = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        (GROUP, True),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_the_environment_says_whether_there_are_others(environment, expected):
    assert is_one_of_several(environment) is expected


@pytest.mark.parametrize("change", [{"JAX_PROCESS_ID": ""}, {"JAX_NUM_PROCESSES": "two"}])
def test_half_an_environment_is_refused(change):
    with pytest.raises(ValueError, match="must be set together"):
        is_one_of_several(GROUP | change)


def test_alone_there_is_nothing_to_join():
    processes.join()
    assert not jax.distributed.is_initialized() and processes.is_first()
    assert processes.agree_on(3) == 3
