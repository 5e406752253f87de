"""The command line and broken weights: what is wrong is named in one line, nothing is written."""

import collections
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pusa_jax.cli.main import main
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.media import video
from pusa_jax.testing.published import write_published_folder

pytestmark = pytest.mark.long

DIT = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_published_folder(folder)
    return folder


@pytest.fixture
def broken(published, tmp_path):
    """A copy of the DiT's file to break: (its folder, its tensors, write-back)."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "config.json").write_bytes((published / "config.json").read_bytes())
    tensors = load_file(published / DIT)
    save_file(tensors, folder / DIT)
    return folder, tensors, lambda: save_file(tensors, folder / DIT)


def convert(capsys, src, dst, *more):
    code = main(["convert", "--src", str(src), "--dst", str(dst), *more])
    out = capsys.readouterr()
    if code:
        assert out.err.count("\n") == 1 and "Traceback" not in out.err
        assert not dst.exists() and not list(dst.parent.glob("*.tmp"))
    return code, out.err


def test_all_wrong_tensors_are_named(broken, capsys, tmp_path):
    folder, tensors, write = broken
    del tensors["blocks.0.norm3.bias"], tensors["head.head.bias"]
    tensors["blocks.0.extra.weight"] = np.zeros(3, np.float32)
    tensors["blocks.1.ffn.2.bias"] = np.zeros(5, np.float32)
    write()
    code, err = convert(capsys, folder, tmp_path / "dst")
    assert code == 2
    for name in (
        "blocks.0.norm3.bias",
        "head.head.bias",
        "blocks.0.extra.weight",
        "blocks.1.ffn.2.bias",
    ):
        assert name in err


def test_an_image_to_video_checkpoint_is_refused_with_the_reason(broken, capsys, tmp_path):
    folder, tensors, write = broken
    wide = np.zeros((96, 36, 1, 2, 2), np.float32)
    tensors["patch_embedding.weight"] = wide
    write()
    code, err = convert(capsys, folder, tmp_path / "dst")
    assert code == 2 and "image-to-video" in err and "in_dim 16" in err


@pytest.mark.parametrize("keep", [4, 100, 100_000])
def test_a_truncated_file_is_refused(broken, capsys, tmp_path, keep):
    folder, _, _ = broken
    data = (folder / DIT).read_bytes()
    (folder / DIT).write_bytes(data[:keep])
    code, err = convert(capsys, folder, tmp_path / "dst")
    assert code == 2 and DIT in err


def test_a_pickle_that_wants_more_than_tensors_is_not_executed(capsys, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "src").mkdir()
    with zipfile.ZipFile(tmp_path / "src" / "Wan2.1_VAE.pth", "w") as archive:
        content = collections.OrderedDict(weight=Evil())
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
    code, err = convert(capsys, tmp_path / "src", tmp_path / "dst")
    assert code == 2 and "open" in err
    assert not (tmp_path / "executed").exists()


def test_a_lora_that_fits_no_layer_is_refused_before_weights_are_read(published, capsys, tmp_path):
    lora = {
        "blocks.0.self_attn.q.lora_A.weight": np.zeros((2, 40), np.float32),
        "blocks.0.self_attn.q.lora_B.weight": np.zeros((40, 2), np.float32),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    size = ["--height", "32", "--width", "32", "--num_frames", "5"]
    command = [
        "t2v",
        "--model",
        published,
        "--prompt",
        "",
        "--lora_path",
        tmp_path / "lora.safetensors",
    ]
    code = main([str(x) for x in [*command, *size, "--output", tmp_path / "out.mp4"]])
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and "lora.safetensors" in err and "40x40" in err
    assert not (tmp_path / "out.mp4").exists()


def test_published_converted_and_exported_folders_sample_the_same_latents(
    published, capsys, tmp_path
):
    converted, again = tmp_path / "converted", tmp_path / "diffusers"
    assert main(["convert", "--src", str(published), "--dst", str(converted)]) == 0
    export = ["export", "--src", str(converted), "--dst", str(again), "--layout", "diffusers"]
    assert main(export) == 0
    prints = set()
    for i, model in enumerate((published, converted, again)):
        output = tmp_path / f"{i}.mp4"
        size = [
            "--height",
            "32",
            "--width",
            "32",
            "--num_frames",
            "5",
            "--num_inference_steps",
            "1",
        ]
        line = ["t2v", "--model", str(model), "--prompt", "a cat", *size, "--dtype", "float32"]
        assert main([*line, "--output", str(output)]) == 0
        capsys.readouterr()
        assert main(["info", str(output)]) == 0
        prints.add(json.loads(capsys.readouterr().out)["latents_sha256"])
    assert len(prints) == 1


def test_exporting_to_the_original_layout_gives_the_files_back(published, capsys, tmp_path):
    assert main(["export", "--src", str(published), "--dst", str(tmp_path / "out")]) == 0
    before, after = load_file(published / DIT), load_file(tmp_path / "out" / DIT)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_info_counts_parameters_of_a_folder(published, capsys):
    assert main(["info", str(published)]) == 0
    out = capsys.readouterr().out
    assert "dit:" in out and "vae:" in out and "text_encoder:" in out


def test_a_folder_can_be_sampled_from_python(published):
    """The program of the README, on a tiny model."""
    settings = SamplingConfig(height=32, width=48, num_frames=9, num_steps=1)
    pipe = PusaPipeline.from_pretrained(published, dtype="float32")
    image = video.fit(np.zeros((40, 40, 3), np.uint8), settings.height, settings.width, "crop")
    result = pipe("a red dog", conditions=tasks.image_to_video(image), settings=settings)
    assert result.frames.shape == (9, 32, 48, 3) and result.latents.shape == (1, 3, 4, 6, 16)


def test_a_lora_is_written_in_the_form_other_tools_load(capsys, tmp_path):
    golden = Path(__file__).parents[1] / "golden"
    out = tmp_path / "lora.safetensors"
    assert main(["export", "--src", str(golden / "lora_s0.pusa_v1.pt"), "--dst", str(out)]) == 0
    names = load_file(out).keys()
    assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in names
    assert not [name for name in names if "default" in name or "alpha" in name]
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    assert "rank [4]" in capsys.readouterr().out
