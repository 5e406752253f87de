"""Several files of Latte in one folder: the one that is given finds what lies beside it."""

import dataclasses
import shutil

import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.media.outputs import read_record
from pusa_jax.testing.latte import DIT, write_latte

OF_CLASSES = dataclasses.replace(DIT, dim=24, num_heads=2, num_layers=2)
OF_NONE = dataclasses.replace(OF_CLASSES, num_classes=0)
FEW = ["--num_inference_steps", "2", "--num_frames", "8", "--no_compilation_cache"]


@pytest.fixture
def latte(tmp_path):
    """ffs.pt without classes and ucf101.pt with them, which share an autoencoder and settings."""
    folder = tmp_path / "latte"
    write_latte(folder, 1, OF_NONE)
    (folder / "fvdm.pt").rename(folder / "ffs.pt")
    write_latte(folder, 2, OF_CLASSES)
    (folder / "fvdm.pt").rename(folder / "ucf101.pt")
    return folder


def of_model(line):
    return [line[0], "--model", str(line[1]), *line[2:]]


def test_a_file_samples_with_the_autoencoder_and_the_settings_beside_it(latte, tmp_path):
    out = str(tmp_path / "out.npz")
    line = ["t2v", latte / "ucf101.pt", "--label", "2", *FEW, "--output", out]
    assert main(of_model(line)) == 0
    assert read_record(out)["job"]["model"].endswith("ucf101.pt")
    assert np.load(out)["latents"].shape == (1, 8, 8, 8, 4)


def test_each_file_is_its_own_model(latte):
    for name, config in (("ffs", OF_NONE), ("ucf101", OF_CLASSES)):
        folder = ModelFolder(latte / f"{name}.pt")
        assert folder.config("dit") == config
        assert set(folder.names) == {"dit", "vae"}


def test_a_converted_file_is_a_whole_model(latte, tmp_path):
    src, dst = latte / "ucf101.pt", tmp_path / "converted"
    assert main(["convert", "--src", str(src), "--dst", str(dst)]) == 0
    converted, published = ModelFolder(dst), ModelFolder(src)
    for name in ("dit", "vae"):
        theirs, ours = published.load(name)[1], converted.load(name)[1]
        assert theirs.keys() == ours.keys()
        assert all(np.array_equal(theirs[path], ours[path]) for path in ours)


def test_an_exported_file_is_a_whole_model(latte, tmp_path):
    src, dst = latte / "ucf101.pt", tmp_path / "exported"
    assert main(["export", "--src", str(src), "--dst", str(dst)]) == 0
    assert set(ModelFolder(dst).names) == {"dit", "vae"}
    assert ModelFolder(dst).config("dit") == OF_CLASSES


def test_the_folder_says_that_a_file_may_be_given(latte, capsys):
    assert main(of_model(["t2v", latte, "--output", "out.mp4"])) == 2
    err = capsys.readouterr().err
    assert f"give the file of one, as {latte / 'ffs.pt'}." in err and err.count("\n") == 1


def test_a_file_without_an_autoencoder_beside_it_says_where_one_goes(latte, capsys):
    shutil.rmtree(latte / "vae")
    assert main(of_model(["t2v", latte / "ffs.pt", "--output", "out.mp4"])) == 2
    err = capsys.readouterr().err
    assert "ffs.pt has no vae; it has dit. Expected vae/diffusion_pytorch_model" in err
    assert err.count("\n") == 1


def test_what_is_wrong_in_both_files_is_named_in_one_line(latte):
    weights = latte / "vae" / "diffusion_pytorch_model.safetensors"
    write_torch_zip(latte / "ffs.pt", ArrayTensors(with_one_more(latte / "ffs.pt")), "ema")
    write_safetensors(weights, ArrayTensors(with_one_more(weights)))
    with pytest.raises(ValueError, match=r"one_more \[1\] in ffs\.pt") as error:
        ModelFolder(latte / "ffs.pt").check()
    assert "one_more [1] in vae/diffusion_pytorch_model.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def with_one_more(file):
    source = open_tensors(file)
    tensors = {name: np.array(source.read(name)) for name in source.tensors}
    return {**tensors, "one_more": np.zeros(1, np.float32)}


def test_a_label_is_for_models_of_classes_and_given_once(latte, tmp_path, capsys):
    out = tmp_path / "a.mp4"
    both = ["t2v", "--model", str(latte / "ucf101.pt"), "--label", "1", "--prompt", "2"]
    assert main([*both, "--output", str(out)]) == 2
    assert "give --label 1 or --prompt 2, not both" in capsys.readouterr().err
    assert main(["t2v", "--label", "3", "--output", str(out)]) == 2
    assert "this one reads text: give --prompt" in capsys.readouterr().err
    assert not out.exists()
