"""The experiments in the tiny world: what they measure, and that a finished cell stays.

That they run is proved by `make experiments-quick`.
"""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from experiments.tiny.measuring import extension, fresh, given_frames, observe
from experiments.tiny.where import look_back
from experiments.tiny.where.moved import PARTS
from experiments.tiny_world.denoiser import DIT
from pusa_jax.demo.world import render
from pusa_jax.models.wan import dit
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import random_module
from pusa_jax.weights.leaves import shapes_of

pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")
from experiments.tiny import table
from experiments.tiny.lab import QUICK, Lab

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def scene():
    return fresh(0, 1)[0]


def observed(clip, scene):
    truth = render(scene)
    return observe(clip, truth, scene, given_frames(extension(truth)))


def test_the_truth_is_where_it_should_be(scene):
    row = observed(render(scene), scene)
    assert row["coherent"] == row["motion"] == 1
    assert max(row["error"], row["error_last"], row["jump"]) < 0.2
    assert row["kept"] > 60


def test_an_object_that_stops_has_lost_its_motion(scene):
    clip = render(scene)
    clip[13:] = clip[12]
    row = observed(clip, scene)
    assert row["motion"] == 0 and row["coherent"] == 1
    assert row["error_last"] > 5 and row["jump"] < 1


def test_an_object_that_leaps_at_the_seam_is_noticed(scene):
    clip = render(scene)
    clip[13:] = np.roll(clip[13:], 8, axis=1)
    row = observed(clip, scene)
    assert row["jump"] == pytest.approx(8, abs=0.3) and row["motion"] == 1


def test_given_frames_that_are_not_kept_are_noticed(scene):
    clip = render(scene)
    clip[:13] ^= 128
    assert observed(clip, scene)["kept"] < 10


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"some")
    scale = dataclasses.replace(QUICK, seeds=2)
    return Lab(tmp_path / "model", tmp_path / "work", tmp_path / "tables", scale)


def counted():
    calls = []

    def compute(seed):
        calls.append(seed)
        return {"coherent": 0.5 + seed / 2}

    return calls, compute


def test_a_finished_cell_is_not_measured_again(lab):
    calls, compute = counted()
    first = lab.cells("row", compute)
    assert lab.cells("row", compute) == first
    assert calls == [0, 1]


def test_a_cell_of_other_weights_is_measured_again(lab):
    calls, compute = counted()
    lab.cells("row", compute)
    (lab.folder / "weights.safetensors").write_bytes(b"other")
    other = Lab(lab.folder, lab.workdir, lab.tables, lab.scale)
    other.cells("row", compute)
    assert calls == [0, 1, 0, 1]


def test_a_table_has_mean_and_deviation_and_a_picture(lab):
    results = {("a", "1"): [{"coherent": 0.5}, {"coherent": 1.0}], ("b", "1"): [{"error": 3.0}]}
    table.publish(lab, "study", results, ("coherent", "error", "not there"))
    lines = (lab.tables / "study" / "table.md").read_text().splitlines()
    assert lines[0] == "| series | x | coherent | error |"
    assert lines[2] == "| a | 1 | 0.75 ± 0.35 |  |"
    assert lines[3] == "| b | 1 |  | 3 ± 0 |"
    with Image.open(lab.tables / "study" / "plot.png") as plot:
        assert np.asarray(plot).std() > 0


def test_every_weight_belongs_to_one_part():
    for path in shapes_of(lambda: WanDiT(DIT, rngs=nnx.Rngs(0))):
        owners = [part for part, start in PARTS.items() if path.startswith(start)]
        assert len(owners) == 1, path


def test_the_look_back_weighs_what_attention_is_given(monkeypatch):
    config = DiTConfig(
        dim=16, ffn_dim=16, num_heads=2, num_layers=2, in_dim=4, out_dim=4,
        text_dim=8, text_len=3, freq_dim=8,
    )  # fmt: skip
    network = random_module(lambda: WanDiT(config, rngs=nnx.Rngs(0)))
    keys = jax.random.split(jax.random.key(0), 3)
    latents = jax.random.normal(keys[0], (2, 3, 4, 4, 4))
    timesteps = 1000 * jax.random.uniform(keys[1], (2, 3))
    text = network.project_text(jax.random.normal(keys[2], (2, 3, 8)))
    shares = []

    def watched(query, key, value, **rest):
        # [B, F, S, K, P]
        scores = np.einsum("bfskp,bgtkp->bfskgt", query, key) / query.shape[-1] ** 0.5
        weights = np.exp(scores)
        to_first = weights[..., 0, :].sum(-1) / weights.sum((-2, -1))
        shares.append(to_first[:, 1:].mean())
        return attend(query, key, value, **rest)

    expected = look_back._share(network, latents, timesteps, text)
    attend = dit.self_attention
    monkeypatch.setattr(dit, "self_attention", watched)
    with jax.disable_jit():
        network(latents, timesteps, text)
    assert len(shares) == config.num_layers
    assert float(expected) == pytest.approx(np.mean(shares), rel=1e-5)
