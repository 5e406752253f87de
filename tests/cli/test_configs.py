"""Every config builds, is planned on a mesh, and says in one line what is wrong with its flags."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.cli.run_flags import parse
from pusa_jax.cli.train import train_main
from pusa_jax.demo import shipped
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.training import layout
from pusa_jax.training.layout import placement
from pusa_jax.training.metrics import read_records

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*.py") if path.name != "common.py")
DEBUG = str(CONFIGS / "debug.py")


def load(path, *flags):
    return parse([f"--config={path}", *flags])[0]


def test_there_are_the_configs_that_are_promised():
    assert [path.stem for path in FILES] == [
        "debug",
        "fvdm_ffs_b2",
        "fvdm_ptss_1.3b",
        "fvdm_sky_xl2",
        "fvdm_taichi_xl2",
        "fvdm_ucf_xl2",
        "mochi_lora",
        "pusa_full_14b",
        "pusa_lora_1.3b",
        "pusa_lora_ti2v_5b",
        "pusa_v05_full_mochi",
        "pusa_v1_lora_14b",
        "pusa_wan22_high_14b",
        "pusa_wan22_low_14b",
        "tiny_world",
    ]


LATTE_SIZES = {
    "fvdm_ffs_b2": 129_755_936,
    "fvdm_sky_xl2": 673_994_912,
    "fvdm_taichi_xl2": 673_994_912,
    "fvdm_ucf_xl2": 674_112_416,
}
"""Parameters, tables of positions among them: the sheet of FVDM, §2."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_builds_and_can_be_placed(path):
    run = load(path, "--config.data.batch_size=8")
    mesh = make_mesh(run.mesh.shape(8) | {"data": 4, "context": 2})
    placed = placement(run.recipe, mesh, run.data.batch_size, run.clip_shape, run.text_shape)
    leaves = jax.tree.leaves(placed.state.params)
    if "14b" in path.stem:
        count = {True: 2_453_667_840, False: 14_288_491_584}[run.adapter is not None]
        assert sum(leaf.size for leaf in leaves) == count
        assert run.clip_shape == (21, 60, 104, 16)
    if "5b" in path.stem:
        assert run.clip_shape == (31, 44, 80, 48)
    if path.stem == "mochi_lora":
        visual, text = 3072, 1536  # 48 layers of q, k, v, o; the last has no o of the text stream
        count = 48 * 4 * 2 * visual + 47 * 4 * (visual + text) + 3 * (visual + text)
        assert sum(leaf.size for leaf in leaves) == 16 * count
        assert run.clip_shape == (7, 60, 106, 12)
    if path.stem == "pusa_v05_full_mochi":
        assert run.clip_shape == (28, 60, 106, 12)
        assert sum(leaf.size for leaf in leaves) == 10_027_677_744
    if path.stem in LATTE_SIZES:
        assert run.clip_shape == (16, 32, 32, 4) and run.text_shape == (1, 1)
        assert sum(leaf.size for leaf in leaves) == LATTE_SIZES[path.stem]
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
    command = "make tiny-world" if path.stem == "tiny_world" else "pusa-jax train --config="
    assert re.search(rf"{command}(.|\n)*configs/{re.escape(path.name)}", path.read_text())


def test_the_paper_is_the_default_of_its_config():
    run = load(CONFIGS / "pusa_v1_lora_14b.py")
    assert (run.adapter.rank, run.adapter.alpha, run.adapter.scale) == (512, 512, 1)
    assert (run.optimizer.learning_rate, run.data.batch_size, run.steps) == (1e-5, 8, 900)
    assert (run.data.num_frames, run.data.height, run.data.width) == (81, 480, 832)
    assert run.objective.levels.sampler == "independent" and run.objective.weighting == "pusa"


@pytest.mark.parametrize(
    ("name", "expert", "levels"),
    [("pusa_wan22_high_14b", "dit", (0.875, 1)), ("pusa_wan22_low_14b", "dit_low", (0, 0.875))],
)
def test_an_expert_is_trained_on_the_levels_it_serves(name, expert, levels):
    run = load(CONFIGS / f"{name}.py")
    drawn = run.recipe.objective.levels
    assert (run.recipe.expert, drawn.lowest, drawn.highest) == (expert, *levels)
    with pytest.raises(ValueError, match=r"samples.every must be 0, got 5: one expert alone"):
        load(CONFIGS / f"{name}.py", "--config.samples.every=5")


def test_an_argument_behind_the_name_of_a_config():
    for name in ("fvdm_ptss_1.3b", "fvdm_ffs_b2"):
        assert load(f"{CONFIGS / name}.py:p=0.5").objective.levels.probability == 0.5


@pytest.mark.long
def test_debug_trains_saves_and_samples(tmp_path, capsys):
    flags = ["--config.steps=2", "--config.samples.every=2", "--config.log.every=1"]
    arguments = [f"--config={DEBUG}", f"--workdir={tmp_path}", *flags]
    assert train_main([*arguments, "--config.samples.num_steps=1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "careful: model.weights=random: the weights are drawn, not read; data.folder=random: the "
        "clips are noise. Nothing of use is learned."
    )
    assert [line.split(" ... ")[0] for line in lines[1:3]] == ["load", "compile"]
    assert f"step 2 is saved in {tmp_path / 'checkpoints' / '2'}." in lines
    assert f"step 2 is shown in {tmp_path / 'samples'}." in lines
    assert re.fullmatch(rf"{tmp_path}: 2 steps, loss [0-9.]+, .* s; next: pusa-jax .*", lines[-1])
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [1, 2]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "i2v-000002.png",
        "t2v-000002.png",
    ]
    assert (tmp_path / "checkpoints" / "2").is_dir()
    capsys.readouterr()
    assert train_main([*arguments, "--config.samples.every=0"]) == 0
    err = capsys.readouterr().err
    assert err.splitlines()[1:] == [f"nothing is left to do: {tmp_path} is at step 2 of 2."]
    assert train_main([*arguments, "--config.steps=1", "--config.samples.every=0"]) == 0
    assert f"{tmp_path} is at step 2 already, behind steps=1; nothing" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_that_goes_on_says_where(tmp_path, capsys):
    line = [f"--config={DEBUG}", f"--workdir={tmp_path}", "--config.samples.every=0"]
    assert train_main([*line, "--config.steps=1"]) == 0
    assert train_main([*line, "--config.steps=2", "--quiet"]) == 0
    assert not capsys.readouterr().err.splitlines()[-1].startswith(f"{tmp_path}: 2")
    assert train_main([*line, "--config.steps=3"]) == 0
    assert "goes on at step 2 of 3, from own checkpoint of step 2." in capsys.readouterr().err


def test_a_run_that_cannot_fit_is_refused_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(layout, "device_limit", lambda mesh: 10_000)
    assert main(["train", f"--config={DEBUG}", f"--workdir={tmp_path / 'run'}"]) == 2
    err = capsys.readouterr().err
    assert (
        "adapters and their frozen base, with the optimizer's state, take 0.0 GiB of each of" in err
    )
    assert err.count("\n") == 1 and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.long
def test_sizes_are_those_of_the_folder_of_weights(tmp_path, capsys):
    line = [f"--config={DEBUG}", f"--workdir={tmp_path / 'run'}", "--config.steps=1"]
    line += ["--config.samples.every=0", f"--config.model.weights={shipped.FOLDER}"]
    assert train_main(line) == 0
    assert f"sizes are those of the model in {shipped.FOLDER}." in capsys.readouterr().err
    model = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    own = json.loads((shipped.FOLDER / "config.json").read_text())
    assert model["dit"]["dim"] == own["dim"] and not model["preset"]


@pytest.mark.long
def test_pictures_that_a_kill_has_prevented_are_drawn_by_the_next_run(tmp_path):
    flags = ["--config.steps=2", "--config.samples.every=2", "--config.samples.num_steps=1"]
    arguments = [f"--config={DEBUG}", f"--workdir={tmp_path}", *flags]
    assert train_main(arguments) == 0
    drawn = {path: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    (tmp_path / "samples" / "i2v-000002.png").unlink()
    assert train_main(arguments) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "samples").iterdir()} == drawn


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.optimizer.learning_rat=3"], r"no config\.optimizer\.learning_rat; nearest are "
         r"config\.optimizer\.learning_rate"),
        (["--config.nothing.x=1"], r"there is no config\.nothing\.x; nearest are config\."),
        (["--config.steps=many"], "flag --config.steps=many: invalid literal for int"),
        (["--config.steps=0"], "config: steps must be at least 1, got 0"),
        (["--config.adapter.rank=0"], r"config\.adapter: rank must be at least 1, got 0"),
        (["--config.model.remat=some"], r"config\.model\.remat must be one of none, full"),
        (["--config.model.preset=wan9"], "model needs either a preset or a dit of its own"),
        (["--config.data.height=40"], "must be divisible by 16, got 40"),
        (["--config.data.num_frames=8"], r"number of frames must be 4k\+1, got 8"),
        (["--config.adapter.targets=nothing"], "'nothing' matches no layer; there are blocks/"),
        (["--config.data.folder=/nowhere"], r"/nowhere|pip install 'pusa_jax\[train\]'"),
        (["--config.model.weights=/nowhere"], "/nowhere"),
        (["--config.mesh.context=3"], r"needs \d devices, there are 8; use"),
        (["--learning_rate=3"], "Unknown command line flag 'learning_rate'"),
        (["more"], r"'more' is no flag; usage: pusa-jax train"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys, flags, message):
    code = main(["train", f"--config={DEBUG}", f"--workdir={tmp_path / 'run'}", *flags])
    out = capsys.readouterr()
    assert code == 2 and not out.out and out.err.count("\n") == 1
    assert re.match(f"pusa-jax: error: .*(?:{message})", out.err), out.err
    assert not (tmp_path / "run" / "checkpoints").exists() or not any(
        (tmp_path / "run" / "checkpoints").iterdir()
    )


def test_config_and_workdir_are_needed():
    with pytest.raises(ValueError, match="--config is needed; usage"):
        parse([])
    with pytest.raises(ValueError, match="--workdir is needed; usage"):
        train_main([f"--config={DEBUG}"])
    with pytest.raises(FileNotFoundError, match=r"there is no config file nowhere\.py"):
        parse(["--config=nowhere.py", "--workdir=x"])
    with pytest.raises(ValueError, match="unknown config argument 'q'; known: p"):
        load(f"{CONFIGS / 'fvdm_ptss_1.3b.py'}:q=1")


def test_a_run_is_planned_as_it_is_trained(capsys):
    command = ["plan", "train", f"--config={DEBUG}", "--json", "--config.mesh.context=2"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mesh"] == {"data": 4, "context": 2, "tensor": 1} and report["fits"]
    assert report["program"].startswith("training step of a model of its own, adapters of rank 4")
    assert 0 < report["argument_bytes"] < report["peak_bytes"]
    assert main([*command[:3], "--topology=v9:2x2"]) == 2
    assert "error: unknown topology 'v9:2x2'; known: " in capsys.readouterr().err
    assert main(["plan", "train", "--help"]) == 0
    assert "--topology=v6e:4x4" in capsys.readouterr().out
