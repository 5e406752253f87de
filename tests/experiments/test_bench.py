"""The benchmark and the parity table run anywhere; on a CPU with what is small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import bench_dit, bench_train, gpu_parity
from experiments.plain import do_without_jaxtyping
from pusa_jax.cli.run_flags import parse
from pusa_jax.training.metrics import step_flops

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def rows():
    return list(bench_dit.ours(bench_dit.PARTS["tiny"], repeats=1))


def test_ours_is_timed_beside_the_measured_peak(rows):
    peak, step = rows
    assert peak["flops"] > 1e9 and step["seconds"] > 0
    run = bench_dit.planned(bench_dit.PARTS["tiny"])
    assert step["flops"] == run.step_flops
    assert step["predicted_bytes"] > 2 * 10**6
    assert json.loads(json.dumps(rows)) == rows


def test_table_relates_everybody_to_ours(rows):
    peer = {"who": "diffusers eager, native", "seconds": 2 * rows[1]["seconds"], "flops": 1e12}
    missing = {"who": "diffusers", "error": "peer not installed (torch)"}
    lines = list(bench_dit.table("tiny", [*rows, peer, missing]))
    assert [line.split("|")[-2].strip() for line in lines] == ["1.00", "2.00", ""]
    assert "peer not installed (torch)" in lines[-1]


def test_a_missing_peer_is_a_row_and_not_an_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert bench_dit.work("diffusers", "tiny", 1) == 0
    assert "peer not installed" in json.loads(capsys.readouterr().out)["error"]


def test_shapes_in_signatures_say_nothing_without_jaxtyping(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    do_without_jaxtyping()
    from jaxtyping import Array, Float

    assert isinstance(None, Float[Array, "N"] | None)


def test_a_worker_that_dies_is_a_row(monkeypatch):
    monkeypatch.setattr(bench_dit.sys, "executable", "/bin/false")
    rows = bench_dit.in_process("ours", "tiny", 1, 10)
    assert "failed" in rows[0]["error"]


@pytest.mark.torch
def test_the_peer_has_as_many_parameters_and_is_timed(rows):
    pytest.importorskip("diffusers")
    (row,) = bench_dit.diffusers(bench_dit.PARTS["tiny"], repeats=1)
    assert row["parameters"] == rows[1]["parameters"]
    assert row["seconds"] > 0 and "native" in row["who"]


@pytest.fixture
def one_kind(tmp_path):
    """A folder with one golden file and its weights."""
    for name in ("dit_s0_base.safetensors", "dit_s0.weights.safetensors"):
        (tmp_path / name).symlink_to(BUNDLED / name)
    return tmp_path


def test_parity_in_both_dtypes(one_kind):
    found = {}
    for dtype in gpu_parity.DTYPES:
        found[dtype], broken = gpu_parity.compare(dtype, [str(one_kind)])
        assert not broken
    (errors,), (rounded,) = found["float32"].values(), found["bfloat16"].values()
    assert max(errors) < 5e-6 < min(rounded) < max(rounded) < 0.1
    header, _, line = gpu_parity.table(found)
    assert header.count("|") == line.count("|") and "wan_dit_base" in line


def test_parity_runs_as_a_command_of_its_own(one_kind):
    command = ["-m", "experiments.gpu_parity", "--dtype", "float32", "--golden-dir", str(one_kind)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wan_dit_base" in done.stdout


def test_a_broken_limit_is_named(one_kind, monkeypatch):
    monkeypatch.syspath_prepend(gpu_parity.PARITY)
    import check_dit

    monkeypatch.setattr(check_dit, "LIMIT_FLOAT32", 0.0)
    _, broken = gpu_parity.compare("float32", [str(one_kind)])
    assert broken and "dit_s0_base.safetensors" in broken[0]


def test_a_training_step_is_timed_as_it_is_planned():
    rows = list(bench_train.rows("tiny", repeats=1))
    step, run = rows[1], parse(bench_train.PARTS["tiny"])[0]
    assert step["clips"] == run.data.batch_size == 8 and step["seconds"] > 0
    assert step["flops"] == step_flops(run.recipe, (8, *run.clip_shape)) > 1e8
    assert step["predicted_bytes"] > 4 * 3 * step["parameters"] > 0
    header = "| part | clips | s/step | model TFLOP/s | of peak | peak GiB | predicted GiB | c s |"
    (line,) = bench_train.table(json.loads(json.dumps(rows)))
    assert line.count("|") == header.count("|") and "tiny, remat full" in line
    assert list(bench_train.table([{"who": "tiny", "error": "failed"}])) == [
        "| tiny | failed | | | | | | |"
    ]
