"""FVDM's files as trainers leave them: what is peeled, what is refused, what is written."""

import json

import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.latte import dit, vae
from pusa_jax.convert.latte.foreign import LATTE
from pusa_jax.convert.lora import parse_lora, read_lora, write_lora
from pusa_jax.convert.tables import bind, load
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.vae import FrameVAE
from pusa_jax.models.lora import Target, check_fit
from pusa_jax.testing.latte import DIT, VAE, write_latte
from pusa_jax.weights.leaves import shapes_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fvdm")
    write_latte(folder)
    return folder


def settings(file):
    return json.loads(file.with_name("config.json").read_text())


def test_a_tiny_model_is_written_as_it_is_published(folder):
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert files == ["config.json", "fvdm.pt", "vae/config.json", weights]
    for file, tables, rules, build, config in (
        (folder / "fvdm.pt", dit, dit.original_rules, LatteVideo, DIT),
        (folder / weights, vae, vae.diffusers_rules, FrameVAE, VAE),
    ):
        source = open_tensors(file)
        assert tables.config_from_source(source, settings(file)) == config
        shapes = shapes_for(build, config)
        assert len(bind(source, rules(config), shapes)) == len(shapes)


@pytest.fixture(scope="module")
def arrays(folder):
    source = open_tensors(folder / "fvdm.pt")
    return {name: np.array(source.read(name)) for name in source.tensors}


def read(file, folder):
    source = open_tensors(file)
    config = dit.config_from_source(source, settings(folder / "fvdm.pt"))
    return load(source, dit.original_rules(config), shapes_for(LatteVideo, config))


def test_the_prefixes_of_compiled_and_distributed_models_are_dropped(folder, arrays, tmp_path):
    file, expected = tmp_path / "x.pt", read(folder / "fvdm.pt", folder)
    for prefix in ("_orig_mod.", "module.", "module._orig_mod."):
        write_torch_zip(file, ArrayTensors({f"{prefix}{n}": x for n, x in arrays.items()}), "ema")
        for path, leaf in read(file, folder).items():
            np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_a_state_dict_alone_is_read(folder, arrays, tmp_path):
    write_torch_zip(tmp_path / "x.pt", ArrayTensors(arrays))
    assert read(tmp_path / "x.pt", folder).keys() == shapes_for(LatteVideo, DIT).keys()


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_a_checkpoint_without_an_average_is_refused_in_one_line(folder, arrays, tmp_path, entry):
    write_torch_zip(tmp_path / "x.pt", ArrayTensors(arrays), entry)
    with pytest.raises(
        ValueError, match=rf"it has no ema, the running .*, only '{entry}'; save chec"
    ) as error:
        read(tmp_path / "x.pt", folder)
    assert "\n" not in str(error.value)


def test_trainers_files_are_read_by_pytorch_as_well(folder, arrays):
    torch = pytest.importorskip("torch", reason="needs the extra [test]")
    content = torch.load(folder / "fvdm.pt", weights_only=True)
    assert content.keys() == {"ema"} and content["ema"].keys() == arrays.keys()
    for name, x in arrays.items():
        np.testing.assert_array_equal(content["ema"][name].numpy(), x, err_msg=name)


def test_of_average_and_model_the_average_is_read(folder, arrays, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra [test]")
    ema = {n: torch.from_numpy(x) for n, x in arrays.items()}
    model = {n: x + 1 for n, x in ema.items()}
    optimizer = {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"model": model, "ema": ema, "opt": optimizer, "step": 7}, tmp_path / "x.pt")
    np.testing.assert_array_equal(
        read(tmp_path / "x.pt", folder)["pos_embed"], arrays["pos_embed"][0]
    )


def test_every_layout_has_files_tables_and_settings():
    for network in LATTE.networks.values():
        assert network.files.keys() == network.rules.keys() == network.settings.keys()
    assert LATTE.networks["dit"].entry == "ema" and not LATTE.tokenizer


def adapters(names, rank=2):
    rng = np.random.default_rng(0)
    return {
        f"{name}.lora_{side}.weight": rng.standard_normal(shape).astype(np.float32)
        for name, out in names.items()
        for side, shape in (("A", (rank, DIT.dim)), ("B", (out, rank)))
    }


def test_a_lora_around_the_fused_layer_is_shared_out(tmp_path):
    """As PEFT lays it around FVDM's own module."""
    names = {"blocks_spatial.0.attn.qkv": 3 * DIT.dim, "blocks_temp.1.attn.proj": DIT.dim}
    arrays = adapters(names)
    lora = parse_lora(ArrayTensors(arrays), LATTE.lora.of(DIT))
    check_fit(shapes_for(LatteVideo, DIT), lora)
    ups = [lora.modules[Target(f"blocks/spatial/{layer}", 0)].up for layer in "qkv"]
    whole = arrays["blocks_spatial.0.attn.qkv.lora_B.weight"]
    np.testing.assert_array_equal(np.concatenate(ups), whole)
    assert Target("blocks/temporal/o", 1) in lora.modules
    write_lora(tmp_path / "x.safetensors", lora, LATTE.lora.of(DIT), dtype="float32")
    again = read_lora(tmp_path / "x.safetensors", LATTE.lora.of(DIT))
    for target, module in lora.modules.items():
        np.testing.assert_array_equal(again.modules[target].up, module.up)
