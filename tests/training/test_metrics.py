"""Records of a run: what they add up, where they go, what they assume."""

import importlib.machinery
import json
import sys

import numpy as np
import pytest

from pusa_jax.devices.topologies import CHIPS
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.families import preset
from pusa_jax.models.wan.config import BLOCK_LINEARS
from pusa_jax.models.wan.family import WAN21
from pusa_jax.models.wan.flops import text_flops, velocity_flops
from pusa_jax.training import metrics
from pusa_jax.training.metrics import Meter, Recorder, read_records, step_flops
from pusa_jax.training.step import Recipe

CLIP = (1, 21, 60, 104, 16)


def taken(loss):
    values = {
        "loss": loss,
        "grad_norm": 2,
        "learning_rate": 0.5,
        "error_sums": [0, 0, 3, 0, 8],
        "error_counts": [0, 0, 1, 0, 4],
    }
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def test_a_record_covers_the_steps_since_the_last():
    meter = Meter(flops=6e12, devices=2)
    meter.add(taken(9), 1.0, 0.0)
    meter.record(taken(9))
    meter.add(taken(1), 0.5, 0.25)
    meter.add(taken(3), 1.5, 0.0)
    record = meter.record(taken(3))
    assert record["loss"] == 2 and record["grad_norm"] == 2 and record["learning_rate"] == 0.5
    assert record["error/sigma_0.4-0.6"] == 3 and record["error/sigma_0.8-1.0"] == 2
    assert "error/sigma_0.0-0.2" not in record
    assert record["seconds/step"] == 1 and record["seconds/data_wait_share"] == 0.125
    assert record["tflops_per_device"] == 3


def test_half_a_record_survives_a_restart():
    straight, before, after = (Meter(1.0, 1) for _ in range(3))
    for loss in (0.1, 0.2, 0.7):
        straight.add(taken(loss), 1.0, 0.0)
    before.add(taken(0.1), 1.0, 0.0)
    after.restore(json.loads(json.dumps(before.state())))
    for loss in (0.2, 0.7):
        after.add(taken(loss), 1.0, 0.0)
    assert after.record(taken(0.7)) == straight.record(taken(0.7))


def test_the_peak_behind_mfu_is_stated(monkeypatch):
    class Topology:
        chip = CHIPS["h200"]

    monkeypatch.setattr(metrics, "local_topology", lambda: Topology)
    meter = Meter(flops=330e12, devices=1)
    meter.add(taken(1), 1.0, 0.0)
    record = meter.record(taken(1))
    assert record["mfu"] == pytest.approx(330 / record["mfu_peak_tflops"])
    assert record["mfu_peak_tflops"] == pytest.approx(989, rel=0.01)


def test_training_all_weights_costs_three_forwards():
    dit = preset("wan2.1-t2v-1.3b").dit
    forward = velocity_flops(dit, CLIP) + text_flops(dit)
    assert step_flops(Recipe(family=WAN21, dit=dit, adapter=None), CLIP) == 3 * forward
    assert step_flops(Recipe(family=WAN21, dit=dit, adapter=None), (8, *CLIP[1:])) == 24 * forward


def test_adapters_spare_the_gradients_of_the_base():
    dit = preset("wan2.1-t2v-14b").dit
    full = step_flops(Recipe(family=WAN21, dit=dit, adapter=None), CLIP)
    small, large = (
        step_flops(
            Recipe(family=WAN21, dit=dit, adapter=AdapterConfig(rank=r, targets=BLOCK_LINEARS)),
            CLIP,
        )
        for r in (1, 512)
    )
    ends, text = 8 * (5120 + 5120) + 2 * (5120 + 13824), 2 * (5120 + 5120)
    one_rank = 3 * 40 * 2 * (32_760 * (ends - text) + 512 * text)
    assert large - small == pytest.approx(511 * one_rank, rel=1e-12)
    assert 0.75 < small / full < 0.85


def test_records_of_steps_to_be_taken_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 1.5}\n{"step": 10, "loss": 1.25}\n{"step": 15, "lo')
    recorder = Recorder(tmp_path, step=5, tensorboard=False, wandb="")
    recorder.scalars(10, {"loss": 0.1})
    recorder.close()
    assert list(read_records(path)) == [{"step": 5, "loss": 1.5}, {"step": 10, "loss": 0.1}]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_torn_line_costs_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1, "loss": 1.0}', b'{"step": 2, "lo', b'{"step": 3, "loss": 3.0}', b"[7]"]
    lines += [b'{"step": "x"}', b'{"step": 4, "l\xffss": 1}', b'{"step": 5, "loss": 5.0}', b'{"st']
    path.write_bytes(b"\n".join(lines))
    assert [record["step"] for record in read_records(path)] == [1, 3, 5]
    Recorder(tmp_path, step=3, tensorboard=False, wandb="").close()
    assert [record["step"] for record in read_records(path)] == [1, 3]


class Service:
    """Stands in for the package wandb."""

    __spec__, Image = importlib.machinery.ModuleSpec("wandb", None), staticmethod(np.shape)

    def __init__(self):
        self.log_of, self.finish = [], lambda: self.log_of.append("finished")

    def init(self, **settings):
        self.log_of.append(settings["project"])
        return self

    def log(self, values, step):
        self.log_of.append((step, values))


def test_a_service_gets_what_the_file_gets(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    metrics.check_services(False, "pusa")
    recorder = Recorder(tmp_path, step=0, tensorboard=False, wandb="pusa")
    recorder.scalars(1, {"loss": 0.5})
    recorder.picture(1, "samples/i2v", np.zeros((2, 4, 3), np.uint8))
    recorder.close()
    assert service.log_of == [
        "pusa",
        (1, {"loss": 0.5}),
        (1, {"samples/i2v": (2, 4, 3)}),
        "finished",
    ]


def test_a_service_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    metrics.check_services(False, "")
    with pytest.raises(
        ImportError, match=r"log\.wandb='pusa' needs the package wandb: pip install"
    ):
        metrics.check_services(False, "pusa")
    with pytest.raises(ImportError, match=r"log\.tensorboard needs the package tensorboardX: pip"):
        metrics.check_services(True, "")


def test_the_timed_values_are_told_from_the_lasting_ones():
    meter = Meter(1.0, 1)
    meter.add(taken(1), 1.0, 0.0)
    lasting = [n for n in meter.record(taken(1)) if not n.startswith(metrics.TIMINGS)]
    assert lasting == ["loss", "grad_norm", "learning_rate", *lasting[3:]]
    assert all(name.startswith("error/") for name in lasting[3:])
