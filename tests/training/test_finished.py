"""What a run has trained, out of its checkpoint and into files."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from small import DIT, LORA, base, batch, merged, recipe, settings

from pusa_jax.cli.main import main
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.tables import dump, load
from pusa_jax.convert.wan.dit import diffusers_rules, original_rules
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import merge
from pusa_jax.testing.compare import assert_close
from pusa_jax.testing.published import write_published_folder
from pusa_jax.training import export
from pusa_jax.training.checkpoints import RunCheckpoints
from pusa_jax.training.config import ModelConfig
from pusa_jax.training.export import export_adapters
from pusa_jax.training.finished import read_result
from pusa_jax.training.state import TrainState
from pusa_jax.training.step import first_state, model_shapes, network


def write_run(workdir, run):
    """Saves random values as a run saves what it trains; returns them."""
    rng, shapes = np.random.default_rng(0), model_shapes(run.recipe)
    shapes = jax.eval_shape(lambda base: first_state(run.recipe, base, jax.random.key(0)), shapes)
    params = {
        path: 0.3 * rng.standard_normal(leaf.shape, np.float32)
        for path, leaf in shapes.params.items()
    }
    ema = {path: leaf / 2 for path, leaf in params.items()} if run.optimizer.ema_decay else {}
    state = TrainState(step=3, params=params, opt_state=(), ema=ema, key=0)
    checkpoints = RunCheckpoints(workdir / "checkpoints", keep_last=1)
    checkpoints.save(3, state, {"config": run.record(), "git_commit": "c0ffee", "step": 3})
    checkpoints.close()
    return params


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """Workdir and values of a run that trained adapters."""
    workdir = tmp_path_factory.mktemp("lora") / "run"
    return workdir, write_run(workdir, settings())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "tiny"
    write_published_folder(folder)
    return folder


def command(capsys, *line):
    code = main([str(word) for word in line])
    out = capsys.readouterr()
    assert out.err.count("\n") == (code != 0) and "Traceback" not in out.err
    return code, out.out.splitlines(), out.err


def test_a_lora_adds_to_a_model_what_it_added_in_training(adapted, tmp_path):
    workdir, values = adapted
    file, _ = export_adapters(read_result(workdir), tmp_path / "out", dtype="float32")
    leaves = base()
    theirs, ours = (
        merge(leaves, read_lora(file, WAN21.lora)),
        merged(leaves, values, LORA.scale),
    )
    moved = [path for path in ours if not np.array_equal(ours[path], leaves[path])]
    assert len(moved) == 10 and theirs.keys() == ours.keys()
    for path in moved:
        assert_close(theirs[path] - leaves[path], ours[path] - leaves[path], 1e-5, path)


@pytest.mark.torch
def test_diffusers_and_peft_compute_with_a_lora_what_the_run_did(adapted, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra [test]")
    diffusers = pytest.importorskip("diffusers", reason="needs the extra [test]")
    workdir, values = adapted
    file, _ = export_adapters(read_result(workdir), tmp_path / "out", dtype="float32")
    leaves, dit, given = base(), recipe().dit, batch(2)
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=dit.num_heads, attention_head_dim=dit.head_dim, in_channels=4,
        out_channels=4, text_dim=dit.text_dim, freq_dim=dit.freq_dim, ffn_dim=dit.ffn_dim,
        num_layers=dit.num_layers,
    )  # fmt: skip
    tensors = {name: torch.tensor(array) for name, array in dump(leaves, diffusers_rules(dit))}
    theirs.load_state_dict(tensors)
    theirs.load_lora_adapter(
        diffusers.WanPipeline.lora_state_dict(str(file.parent), weight_name=file.name)
    )

    @jax.jit
    def velocity(adapters):
        ours = network(dataclasses.replace(recipe(), dit=dit), adapters, leaves)
        text = ours.project_text(given["text"])
        return ours(given["latents"], jax.numpy.full((2, 3), 437.0), text)

    latents = torch.tensor(np.moveaxis(np.asarray(given["latents"]), -1, 1))
    with torch.no_grad():
        expected = theirs(
            latents, torch.full((2,), 437.0), torch.tensor(np.asarray(given["text"]))
        ).sample
    ours = np.moveaxis(np.asarray(velocity(values)), -1, 1)
    assert_close(ours, expected.numpy(), 1e-5)
    fresh = jax.tree.map(np.zeros_like, values)
    assert np.abs(np.moveaxis(np.asarray(velocity(fresh)), -1, 1) - ours).max() > 0.1


def test_files_say_what_they_are(adapted, tmp_path, capsys):
    code, lines, _ = command(capsys, "export", "--src", adapted[0], "--dst", tmp_path / "out")
    assert (code, [line.rpartition("/")[2] for line in lines]) == (
        0,
        ["pusa_lora.safetensors", "README.md"],
    )
    with safe_open(lines[0], "np") as tensors:
        said = tensors.metadata()
        assert {str(tensors.get_slice(k).get_dtype()) for k in tensors.keys()} == {"BF16"}
    assert (said["rank"], said["alpha"], said["steps"]) == ("4", "8", "3")
    assert said["base"] == "random weights" and said["trained_with"] == "pusa_jax c0ffee"
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\n") and 'library_name: "pusa-jax"' in text
    assert json.loads(text.split("```json\n")[1].split("```")[0]) == settings().record()


def test_a_card_tells_no_paths_and_names_the_model_of_the_hub(adapted):
    model = ModelConfig(preset="wan2.1-t2v-14b", weights="/data/secret/Wan2.1-T2V-14B")
    run = settings(model=model, data=dataclasses.replace(settings().data, folder="/data/clips"))
    card = export.model_card(dataclasses.replace(read_result(adapted[0]), run=run))
    assert 'base_model: "Wan-AI/Wan2.1-T2V-14B"' in card and "/data" not in card


def test_the_names_that_pusa_publishes(adapted, tmp_path, capsys):
    flags = ["--naming", "pusa_v1", "--average", "--dtype", "float32"]
    command(capsys, "export", "--src", adapted[0], "--dst", tmp_path / "mean", *flags)
    file = tmp_path / "mean" / "pusa_lora.safetensors"
    with safe_open(file, "np") as tensors:
        assert tensors.metadata()["average"] == "0.9"
        assert {name.partition(".lora_")[2] for name in tensors.keys()} == {
            "A.default.weight",
            "B.default.weight",
        }
        down = tensors.get_tensor("blocks.1.ffn.2.lora_A.default.weight")
    leaf = adapted[1]["blocks/ffn/down/lora_a"][1] / 2
    np.testing.assert_array_equal(down, leaf.T)
    # Pusa multiplies up @ down by the strength alone; the file holds no alpha to ignore.
    modules = read_lora(file, WAN21.lora).modules
    assert {module.alpha for module in modules.values()} == {None}
    command(capsys, "export", "--src", file, "--dst", tmp_path / "comfy.safetensors")
    again = read_lora(tmp_path / "comfy.safetensors", WAN21.lora).modules
    assert all(np.array_equal(again[t].up, module.up) for t, module in modules.items())


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_all_weights_come_back_in_the_published_layouts(published, tmp_path, capsys, layout):
    small = settings()
    model = dataclasses.replace(small.model, weights=str(published))
    workdir, run = tmp_path / "run", dataclasses.replace(small, adapter=None, model=model)
    values = write_run(workdir, run)
    line = ["export", "--src", workdir, "--dst", tmp_path / "out", "--layout", layout]
    line += ["--dtype", "float32", *(["--with_base"] if layout == "diffusers" else [])]
    code, files, _ = command(capsys, *line)
    assert code == 0
    names = {line.removeprefix(f"{tmp_path}/out/") for line in files}
    rules = {"original": original_rules, "diffusers": diffusers_rules}[layout](DIT)
    wanted = {
        "original": ["diffusion_pytorch_model.safetensors", "config.json", "README.md"],
        "diffusers": [
            "transformer/diffusion_pytorch_model.safetensors",
            "transformer/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "model_index.json",
            "README.md",
        ],
    }[layout]
    assert set(wanted) <= names
    back = load(open_tensors(tmp_path / "out" / wanted[0]), rules, model_shapes(run.recipe))
    assert all(np.array_equal(back[path], leaf) for path, leaf in values.items())
    with pytest.raises(ValueError, match="trained all weights and has no LoRA"):
        export_adapters(read_result(workdir), tmp_path / "lora")


def test_bad_requests_are_one_line_and_write_nothing(adapted, published, tmp_path, capsys):
    workdir, _ = adapted
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    plain = settings(optimizer=dataclasses.replace(settings().optimizer, ema_decay=0.0))
    write_run(tmp_path / "plain", plain)
    dst = tmp_path / "out"
    for src, flags, message in (
        (workdir, ["--step", "2"], "no complete checkpoint of step 2; there: 3."),
        (tmp_path / "plain", ["--average"], "keeps no average: its optimizer.ema_decay is 0"),
        (workdir, ["--lora_path", "x.pt"], "is a run's workdir"),
        (workdir, ["--dst", str(tmp_path / "taken")], "exists already; choose another"),
        (published, ["--average"], "--average is for the workdir of a run"),
        (tmp_path / "absent", [], "absent"),
    ):
        code, _, err = command(capsys, "export", "--src", src, "--dst", dst, *flags)
        assert code == 2 and message in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "taken"]


def test_nothing_half_written_stays(adapted, tmp_path, monkeypatch):
    def full(result):
        raise OSError("no space left")

    monkeypatch.setattr(export, "model_card", full)
    with pytest.raises(OSError, match="no space"):
        export_adapters(read_result(adapted[0]), tmp_path / "out")
    assert not list(tmp_path.iterdir())
