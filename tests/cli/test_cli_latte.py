"""Commands on a tiny FVDM: what is refused in a line, and every one of them from clips to clips."""

import json
import shutil

import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.media import video
from pusa_jax.testing.latte import DIT, write_latte
from pusa_jax.testing.published import write_published_folder

SIZE = ["--height", "64", "--width", "64", "--num_frames", "8"]
FEW = ["--prompt", "1", "--num_inference_steps", "2", "--no_compilation_cache"]
LORA = """
from pusa_jax.configs.common import adapters, fvdm

def get_config():
    config = fvdm("fvdm-b-2")
    config.adapter = adapters(2, 2.0)
    config.adapter.targets = "blocks/(spatial|temporal)/[qkvo]"
    return config
"""


def frames(seed, count=30, size=(64, 64)):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model, two that are refused, pictures, and videos as the four sets have them."""
    folder = tmp_path_factory.mktemp("latte_cli")
    write_latte(folder / "model")
    source = open_tensors(folder / "model" / "fvdm.pt")
    tensors = {name: np.array(source.read(name)) for name in source.tensors}
    shutil.copytree(folder / "model", folder / "no_ema")
    write_torch_zip(folder / "no_ema" / "fvdm.pt", ArrayTensors(tensors), "model")
    shutil.copytree(folder / "model" / "vae", folder / "latte-1" / "vae")
    mark = {"temporal_transformer_blocks.0.attn1.to_q.weight": np.zeros((8, 8), np.float32)}
    (folder / "latte-1" / "transformer").mkdir()
    write_safetensors(folder / "latte-1" / "transformer" / "x.safetensors", ArrayTensors(mark))
    wan = tmp_path_factory.mktemp("wan")
    write_published_folder(wan)
    for file in wan.glob("models_t5*"):
        shutil.copy(file, folder / "latte-1")
    for name in ("a.png", "b.png"):
        video.write_png(folder / name, frames(1, 1)[0])
    for number in range(2):
        for name in ("ucf/a", "ucf/b", "ffs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            video.write_video(folder / name / f"{number}.mp4", frames(number, size=(72, 80)), 25)
        for name in ("sky", "taichi"):
            (folder / name / f"{number}").mkdir(parents=True)
            for place, picture in enumerate(frames(number)):
                video.write_png(folder / name / f"{number}" / f"{place:03}.png", picture)
    (folder / "lora.py").write_text(LORA)
    return folder


@pytest.fixture(autouse=True)
def in_its_folder(world, monkeypatch):
    monkeypatch.chdir(world)


JOB = ["t2v", "--model", "model", "--output", "out.mp4"]
TWO = [*JOB, "--num_frames", "16", "--overlap"]
REFUSED = {
    "a label outside the classes": (
        [*JOB, "--prompt", "3"],
        "label 3 is outside the classes of the model: use 0 to 2.",
    ),
    "a text": ([*JOB, "--prompt", "a cat"], "must be the number of a class, 0 to 2, got 'a c"),
    "a negative text": (
        [*JOB, "--prompt", "1", "--negative_prompt", "blurry"],
        "must be the number of a class, 0 to 2, got 'blurry'",
    ),
    "a fast run": (
        [*JOB, "--prompt", "1", "--fast"],
        "nothing was published for latte in few steps: leave out --fast.",
    ),
    "a frame too many": (
        [*JOB, "--prompt", "1", "--num_frames", "9"],
        "9 frames, but this model has positions for 8; longer clips are sampled in pieces, as with "
        "--overlap 4.",
    ),
    "another size": (
        [*JOB, "--prompt", "1", "--height", "128"],
        "clips of 128x64 pixels, height x width, but this model has positions for 64x64.",
    ),
    "pieces that overlap by everything": (
        [*TWO, "8", "--prompt", "1"],
        "pieces of 8 frames can take over 1 to 7 of the one before, got 8.",
    ),
    "pieces that do not overlap": ([*TWO, "0", "--prompt", "1"], "can take over 1 to 7 of"),
    "another solver": (
        [*JOB, "--prompt", "1", "--solver", "unipc"],
        "Latte is sampled with ddim or ddpm, not with unipc.",
    ),
    "no average": (
        ["convert", "--src", "no_ema", "--dst", "out"],
        "no_ema/fvdm.pt: it has no ema, the running average that is sampled with, only 'model'",
    ),
    "a Latte of texts": (
        ["t2v", "--model", "latte-1", "--prompt", "a cat", "--output", "out.mp4"],
        "latte-1/transformer/x.safetensors: it is a Latte that takes a text, which is not supp",
    ),
    "a layout it has not": (
        ["export", "--src", "model", "--dst", "out", "--layout", "diffusers"],
        "the dit of latte has no diffusers layout; use original.",
    ),
    "clips without positions": (
        ["plan", "train", "--config=fvdm_ffs_b2", "--config.data.num_frames=17"],
        "17 frames, but this model has positions for 16;",
    ),
}


@pytest.mark.parametrize(("line", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_cannot_take_is_one_line_and_writes_nothing(world, capsys, line, words):
    before = sorted(world.rglob("*"))
    assert main([*line]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out
    assert sorted(world.rglob("*")) == before


def test_an_autoencoder_alone_is_that_of_its_family(world, capsys):
    for path in ("model/vae", "model/vae/diffusion_pytorch_model.safetensors"):
        assert main(["info", path]) == 0
        assert capsys.readouterr().out.startswith(("published folder", "file"))
    assert main(["export", "--src", "model/vae", "--dst", "vae", "--layout", "diffusers"]) == 0
    capsys.readouterr()
    written, own = (
        (world / name / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("vae", "model")
    )
    assert written == own


def test_a_model_goes_to_its_own_layout_and_back(world):
    assert main(["convert", "--src", "model", "--dst", "converted"]) == 0
    assert main(["export", "--src", "converted", "--dst", "back"]) == 0
    source, written = (open_tensors(world / name / "fvdm.pt") for name in ("model", "back"))
    assert set(source.tensors) == set(written.tensors)
    for name in source.tensors:
        np.testing.assert_array_equal(source.read(name), written.read(name), err_msg=name)
    settings = [
        json.loads((world / name / "config.json").read_text()) for name in ("model", "back")
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        ([], {"guidance_scale": 7.0}),
        (["--preset", "official"], {"guidance_scale": 7.0}),
        (["--cfg_scale", "2", "--solver", "ddpm", "--num_inference_steps", "250"],
         {"guidance_scale": 2.0, "solver": "ddpm", "num_steps": 250}),
    ],
)  # fmt: skip
def test_without_flags_a_job_is_of_no_class_and_of_the_models_size(seen, more, changes):
    assert main(["t2v", "--model", "classes", *more]) == 0
    published = {"height": 256, "width": 256, "num_frames": 16, "num_steps": 50, "solver": "ddim"}
    for name, value in (published | changes).items():
        assert getattr(seen.job.settings, name) == value, name
    assert (seen.job.prompt, seen.job.negative_prompt, seen.job.overlap) == ("", "", None)


TRAINED = [
    *("--config.model.weights=model", "--config.data.height=64", "--config.data.width=64"),
    *("--config.data.num_frames=8", "--config.data.batch_size=2", "--config.log.every=1"),
    *("--config.samples.num_steps=2", "--config.log.tensorboard=False", "--quiet"),
    *("--config.mesh.context=4", "--no_compilation_cache"),
]
LAYOUTS = {"ucf101": "ucf", "faceforensics": "ffs", "skytimelapse": "sky", "taichi": "taichi"}


def call(*argv):
    assert main([str(arg) for arg in argv]) == 0, argv


@pytest.mark.long
def test_clips_are_encoded_trained_on_and_what_was_trained_samples(world, capsys):
    for layout, src in LAYOUTS.items():
        call("encode", "--model", "model/vae", "--layout", layout, "--src", src, "--dst",
             f"{src}-clips", *SIZE)  # fmt: skip
        call("data", "inspect", f"{src}-clips")
    run = ["train", "--config=fvdm_ucf_xl2", "--workdir=run", "--config.data.folder=ucf-clips"]
    run += ["--config.data.validation=1", "--config.samples.every=1", *TRAINED]
    call(*run, "--config.steps=1")
    call(*run, "--config.steps=2")
    assert len(list((world / "run" / "samples").iterdir())) == 4
    assert "val_loss" in (world / "run" / "metrics.jsonl").read_text()
    call("export", "--src", "run", "--dst", "tuned", "--with_base", "--average")
    assert "text-to-video" not in (world / "tuned" / "README.md").read_text()
    call("i2v", "--model", "tuned", *FEW, "--image_paths", "a.png", "--output", "tuned.mp4")
    call("rerun", "tuned.mp4", "--output", "again.mp4")
    call("train", "--config=lora.py", "--workdir=lora", "--config.data.folder=ffs-clips",
         "--config.steps=1", "--config.samples.every=0", *TRAINED)  # fmt: skip
    call("export", "--src", "lora", "--dst", "adapters")
    merged = ["--lora_path", "adapters/pusa_lora.safetensors", "--output", "lora.mp4"]
    call("t2v", "--model", "model", *FEW, *merged)
    capsys.readouterr()
    for path in ("run", "lora", "tuned", "tuned.mp4", "ucf-clips", merged[1]):
        call("info", path)
        assert capsys.readouterr().out


@pytest.mark.long
def test_clips_of_other_classes_or_lengths_are_refused_before_training(world, capsys):
    (world / "four").mkdir()
    for name in "abcd":
        shutil.copytree(world / "ucf" / "a", world / "four" / name)
    call("encode", "--model", "model", "--layout", "ucf101", "--src", "four", "--dst", "d", *SIZE)
    capsys.readouterr()
    line = ["train", "--config=fvdm_ffs_b2", "--workdir=none", *TRAINED, "--config.data.folder=d"]
    for more, words in (
        ([], "d has clips of other classes: label 3 is outside the classes of the model: use 0"),
        (["--config.data.num_frames=9"], "9 frames, but this model has positions for 8"),
    ):
        assert main([*line, *more]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert not (world / "none").exists()


@pytest.mark.long
def test_a_mesh_samples_what_one_device_samples(world, monkeypatch):
    import jax

    devices = jax.devices()
    found = {}
    for count, mesh in ((1, "data=1"), (4, "data=2,context=2"), (4, "context=2,tensor=2")):
        monkeypatch.setattr(jax, "devices", lambda *_, count=count: devices[:count])
        call("t2v", "--model", "model", *FEW, "--dtype", "float32", "--mesh", mesh, "--output",
             f"{mesh}.npz")  # fmt: skip
        found[mesh] = np.load(f"{mesh}.npz")["latents"]
    alone = found.pop("data=1")
    assert alone.shape == (1, DIT.num_frames, 8, 8, 4)
    for mesh, latents in found.items():
        assert np.linalg.norm(latents - alone) <= 1e-5 * np.linalg.norm(alone), mesh
