"""Folders of Wan2.2-T2V-A14B: two denoisers of one shape, told apart by where they lie."""

import json
import shutil

import numpy as np
import pytest

from pusa_jax.convert.folders.converted import convert_folder
from pusa_jax.convert.folders.export import export_model
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.folders.summary import summary
from pusa_jax.models.wan.family import WAN21, WAN22
from pusa_jax.testing.published import write_published_folder, write_two_experts

LAYOUTS = ("original", "diffusers")
EXPERTS = {
    "original": {"dit": "high_noise_model", "dit_low": "low_noise_model"},
    "diffusers": {"dit": "transformer", "dit_low": "transformer_2"},
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=LAYOUTS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / request.param
    write_two_experts(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "model"
    write_two_experts(folder)
    return folder


@pytest.fixture
def own(original, tmp_path):
    return shutil.copytree(original, tmp_path / "own")


def leaves(folder, name):
    return {p: np.asarray(x).tobytes() for p, x in ModelFolder(folder).load(name)[1].items()}


def refusal(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_both_layouts_are_read(folder):
    found = ModelFolder(folder)
    assert found.family is WAN22
    assert found.names == ("dit", "dit_low", "vae", "text_encoder")
    assert found.config("dit") == found.config("dit_low")
    assert found.config("dit").num_heads == 4  # which only the config.json of each expert says
    found.check()


def test_the_expert_for_high_noise_is_the_one_that_lies_there(folder):
    places = EXPERTS[folder.name]
    for name, place in places.items():
        alone = ModelFolder(folder / place / WEIGHTS)
        other = "dit" if name == "dit_low" else "dit_low"
        assert alone.names == ("dit",) and alone.family is WAN21  # nothing in the file says so
        assert leaves(folder / place / WEIGHTS, "dit") == leaves(folder, name)
        assert leaves(folder, name) != leaves(folder, other)


def test_conversion_keeps_both_experts_and_all_bits(folder, tmp_path):
    dst = convert_folder(folder, tmp_path / "dst")
    found = ModelFolder(dst)
    assert found.family is WAN22 and found.names == ModelFolder(folder).names
    for name in found.names:
        assert leaves(dst, name) == leaves(folder, name)
        assert found.config(name) == ModelFolder(folder).config(name)
    assert (found.tokenizer() / "tokenizer.json").is_file()
    assert convert_folder(folder, dst) == dst  # is known to be this conversion


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_and_import_undo_each_other(folder, tmp_path, layout):
    dst = tmp_path / "out"
    written = export_model(ModelFolder(folder), dst, layout)
    for name, place in EXPERTS[layout].items():
        assert dst / place / WEIGHTS in written and dst / place / "config.json" in written
        assert leaves(dst, name) == leaves(folder, name)
    if layout == "original":
        assert dst / "Wan2.1_VAE.pth" in written
    else:
        index = json.loads((dst / "model_index.json").read_text())
        assert index["boundary_ratio"] == 0.875
        assert index["transformer_2"] == ["diffusers", "WanTransformer3DModel"]
    back = export_model(ModelFolder(dst), tmp_path / "back", folder.name)
    assert {file.parent.name for file in back} >= {*EXPERTS[folder.name].values()}
    for name in ModelFolder(folder).names:
        assert leaves(tmp_path / "back", name) == leaves(folder, name)


def test_the_boundary_of_a_folder_goes_before_the_familys(tmp_path):
    folder = tmp_path / "model"
    write_two_experts(folder, "diffusers", boundary=0.9)
    dst = convert_folder(folder, tmp_path / "dst")
    export_model(ModelFolder(dst), tmp_path / "out", "diffusers")
    for place in (folder, dst, tmp_path / "out"):
        assert ModelFolder(place).first_levels == {"dit": 0.9, "dit_low": 0.0}
        assert "below noise level 0.9 the expert for low noise takes over" in summary(place)
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["boundary_ratio"] == 0.9
    export_model(ModelFolder(dst), tmp_path / "plain", "original")  # has no place for it
    assert ModelFolder(tmp_path / "plain").first_levels == {"dit": 0.875, "dit_low": 0.0}


@pytest.mark.parametrize("boundary", [1.5, -0.1, True, "high"])
def test_a_boundary_outside_0_to_1_is_refused(tmp_path, boundary):
    folder = tmp_path / "model"
    write_two_experts(folder, "diffusers")
    index = json.loads((folder / "model_index.json").read_text()) | {"boundary_ratio": boundary}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model_index\.json has boundary_ratio=.*must be 0 to 1"):
        ModelFolder(folder)


def test_a_damaged_boundary_of_a_converted_folder_is_said(original, tmp_path):
    dst = convert_folder(original, tmp_path / "dst")
    manifest = json.loads((dst / "pusa_jax.json").read_text()) | {"boundary": 2.0}
    del manifest["sum"]  # or its sum would say so first
    (dst / "pusa_jax.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"its boundary is 2\.0\); convert again"):
        ModelFolder(dst)


@pytest.mark.parametrize(
    ("missing", "places"),
    [("dit", "high_noise_model or transformer"), ("dit_low", "low_noise_model or transformer_2")],
)
def test_a_missing_expert_is_said(folder, tmp_path, missing, places):
    half = shutil.copytree(folder, tmp_path / "half")
    shutil.rmtree(half / EXPERTS[folder.name][missing])
    with pytest.raises(ValueError, match=f"lacks an expert of wan2.2, the {missing}") as error:
        convert_folder(half, tmp_path / "dst")
    assert f"expected {places} in it" in refusal(error)
    assert not (tmp_path / "dst").exists()


def test_an_expert_of_a_model_that_only_its_index_describes_is_missed(tmp_path):
    folder = tmp_path / "model"
    write_two_experts(folder, "diffusers")
    for name in ("transformer_2", "vae", "text_encoder"):
        shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match="the dit_low"):
        ModelFolder(folder)
    # As Diffusers writes it for models without a second expert.
    (folder / "model_index.json").write_text('{"boundary_ratio": null, "transformer_2": [null]}')
    assert ModelFolder(folder).family is WAN21


@pytest.mark.parametrize("name", ["dit", "dit_low"])
def test_the_folder_of_one_expert_alone_is_that_expert(original, tmp_path, name):
    """So that one expert can be trained, or its folder converted, without the other."""
    place = original / EXPERTS["original"][name]
    found = ModelFolder(place)
    assert (found.family, found.names) == (WAN22, (name,))
    assert leaves(place, name) == leaves(original, name)
    assert leaves(convert_folder(place, tmp_path / "dst"), name) == leaves(original, name)


def test_single_files_are_told_apart_by_their_names(own):
    """As ComfyUI keeps them, in one folder and without config.json."""
    for place in EXPERTS["original"].values():
        word = place.removesuffix("_model")
        shutil.move(own / place / WEIGHTS, own / f"wan2.2_t2v_{word}_14B_fp16.safetensors")
        shutil.copy(own / place / "config.json", own / "config.json")
        shutil.rmtree(own / place)
    found = ModelFolder(own)
    assert found.names == ("dit", "dit_low", "vae", "text_encoder")
    assert found.config("dit") == found.config("dit_low")


def test_a_model_of_one_denoiser_in_the_same_folder_is_refused(own, tmp_path):
    write_published_folder(tmp_path / "one")
    shutil.copy(tmp_path / "one" / WEIGHTS, own)
    with pytest.raises(ValueError, match="networks of two models") as error:
        convert_folder(own, tmp_path / "dst")
    text = refusal(error)
    assert f"high_noise_model/{WEIGHTS} is a dit of wan2.2" in text
    assert f"{WEIGHTS} a dit of wan2.1; keep those of one" in text
    assert not (tmp_path / "dst").exists()


def test_both_layouts_in_one_folder_are_refused(own, tmp_path):
    write_two_experts(tmp_path / "other", "diffusers")
    shutil.copytree(tmp_path / "other" / "transformer", own / "transformer")
    with pytest.raises(
        ValueError, match=r"2 candidates for the dit: transformer/.*high_noise_model"
    ):
        ModelFolder(own)


def test_experts_of_other_models_are_refused(own, tmp_path):
    config = own / "low_noise_model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_heads": 2}))
    with pytest.raises(ValueError, match=r"do not belong together: dit is DiTC.*dit_low") as e:
        convert_folder(own, tmp_path / "dst")
    refusal(e)
    assert not (tmp_path / "dst").exists()


def test_a_model_of_one_denoiser_is_still_wan21(tmp_path):
    write_published_folder(tmp_path / "one")
    assert ModelFolder(tmp_path / "one").family is WAN21
    export_model(ModelFolder(tmp_path / "one"), tmp_path / "diffusers", "diffusers")
    assert ModelFolder(tmp_path / "diffusers").family is WAN21
