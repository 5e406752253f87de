"""The command `pusa-jax fvd`, with a tiny network and tiny videos."""

import functools
import json

import numpy as np
import pytest
from groups import run_two
from small_fvd import write_network, write_videos

from pusa_jax.cli.main import main
from pusa_jax.evaluation import features, fvd

SMALL = ["--frames", "9", "--size", "32", "--real_interval", "2", "--no_compilation_cache"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fvd")
    write_videos(folder / "real", [20, 17, 22, 18, 30], seed=1)
    write_videos(folder / "generated", [9] * 4, seed=2)
    write_network(folder / "i3d.pt")
    return folder


@pytest.fixture
def call(world, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; the network sees 32 pixels."""
    small = functools.partial(features.Extractor, size=32)
    assert fvd.Extractor is not small  # imported before: beartype reads its annotations once
    monkeypatch.setattr(features, "Extractor", small)
    monkeypatch.chdir(tmp_path)

    def run(*flags, folders=("real", "generated"), network="i3d.pt"):
        paths = [str(world / name) for name in folders]
        given = ["--features", str(world / network)] if network else []
        code = main(["fvd", *paths, *given, *SMALL, *flags])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_distance_is_printed_under_the_name_of_the_papers(call, tmp_path):
    code, out, err = call("--clips", "4")
    assert code == 0 and out.startswith("fvd4_9f = ") and out.count("\n") == 1
    assert float(out.split()[-1]) > 0
    assert "real and generated clips are no more than the 5 features" in err
    kept = sorted(path.name.partition("-")[0] for path in (tmp_path / "outputs/fvd").iterdir())
    assert kept == ["generated", "real"]
    assert call("--clips", "4")[1] == out


def test_a_set_has_no_distance_to_itself(call):
    _, out, _ = call(
        "--clips", "4", "--generated_interval", "2", "--seed", "0", folders=("real",) * 2
    )
    begins_elsewhere = float(out.split()[-1])
    _, out, _ = call("--clips", "4", "--real_interval", "1", folders=("generated",) * 2)
    assert abs(float(out.split()[-1])) < 1e-6 < begins_elsewhere


def test_too_few_videos_are_counted_before_anything_is_computed(call, tmp_path):
    code, out, err = call("--clips", "5")
    assert code == 2 and not out and not (tmp_path / "outputs").exists()
    error = err.splitlines()[-1]
    assert "real has 4 videos of at least 18 frames (1 more are shorter), 5 are needed" in error


def test_there_may_be_fewer_real_clips(call):
    code, out, _ = call("--clips", "4", "--real_clips", "3")
    assert code == 0 and out.startswith("fvd4_9f = ") and out.endswith(" (3 real clips)\n")


def test_missing_weights_say_where_they_come_from(call):
    for network, what in ((None, "give --features"), ("none.pt", "no I3D weights at")):
        code, out, err = call(network=network)
        assert code == 2 and not out and err.count("\n") == 1
        assert what in err and "i3d_torchscript.pt" in err and "StyleGAN-V" in err


def test_weights_of_another_network_are_told(call, world):
    (world / "odd.pt").write_bytes(b"PK odd")
    code, _, err = call(network="odd.pt")
    assert code == 2 and "odd.pt is damaged or no PyTorch checkpoint" in err.splitlines()[-1]


def test_statistics_take_the_place_of_the_real_videos(call):
    _, first, _ = call("--clips", "4", "--statistics", "s.npz")
    code, second, _ = call("--clips", "4", "--statistics", "s.npz", folders=("gone", "generated"))
    assert code == 0 and second == first
    code, _, err = call("--clips", "3", "--statistics", "s.npz")
    assert code == 2 and "clips is 4 there and 3 here" in err.splitlines()[-1]
    code, _, err = call("--clips", "4", "--statistics", "s.json")
    assert code == 2 and "ends in .npz, got 's.json'" in err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--clips", "1"], "clips must be at least 2, got 1"),
        (["--clips", "4", "--frames", "8"], "frames must be at least 9, got 8"),
    ],
)
def test_numbers_without_sense_are_one_line(call, flags, says):
    code, out, err = call(*flags)
    assert code == 2 and not out and says in err and err.count("\n") == 1


@pytest.mark.long
def test_two_processes_find_the_same_statistics(world, tmp_path):
    line = ["fvd", world / "real", world / "generated", "--features", world / "i3d.pt", *SMALL]
    line = [*map(str, line), "--clips", "4", "--quiet"]
    two = ["-m", "pusa_jax", *line, "--statistics", "two.npz"]
    run_two(two, {"JAX_PLATFORMS": "cpu"}, tmp_path)
    assert len(list((tmp_path / "outputs/fvd").glob("*-of-2.features"))) == 4
    one = [*line, "--work", str(tmp_path / "one"), "--statistics", str(tmp_path / "one.npz")]
    assert main(one) == 0
    with np.load(tmp_path / "two.npz") as ours, np.load(tmp_path / "one.npz") as theirs:
        assert int(ours["count"]) == 4 and json.loads(str(ours["settings"]))["clips"] == 4
        np.testing.assert_allclose(ours["products"], theirs["products"], rtol=1e-5)
