"""`pusa-jax encode --layout`: folders of videos become a dataset of the model that comes along."""

import argparse
import json

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("grain", reason="needs the extra [train]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")

from pusa_jax.cli.data import add_data_arguments, add_encode_arguments
from pusa_jax.cli.info import described
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data.encode import EncodeConfig, encode_folder
from pusa_jax.data.encoded import EncodedClips
from pusa_jax.data.folders import FolderConfig, found, reader
from pusa_jax.inference import packaged
from pusa_jax.inference.networks import LoadedNetwork
from pusa_jax.media import video
from pusa_jax.media.pixels import to_pixels
from pusa_jax.progress import Console
from pusa_jax.testing.latte import write_latte

SMALL = ("--height", 32, "--width", 32, "--num_frames", 5, "--interval", 2)


def call(capsys, add, *argv):
    parser = argparse.ArgumentParser()
    add(parser)
    args = parser.parse_args([str(arg) for arg in argv])
    args.console = Console(quiet=True)
    assert args.run(args) == 0
    return capsys.readouterr().out


def encode(capsys, src, dst, *flags):
    return call(
        capsys, add_encode_arguments, "--model", "tiny", "--src", src, "--dst", dst, *SMALL, *flags
    )


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """Two classes with a video each, and one that is too short."""
    folder = tmp_path_factory.mktemp("ucf")
    frames = np.random.default_rng(0).integers(0, 256, (16, 40, 50, 3), np.uint8)
    for name, part in (("Apple/v_1", frames), ("Bow/v_1", frames[::-1]), ("Bow/v_2", frames[:4])):
        (folder / name).parent.mkdir(exist_ok=True)
        video.write_video(folder / f"{name}.mp4", part, 25)
    return folder


def test_windows_are_encoded_with_numbers_of_classes_as_captions(ucf, capsys, tmp_path):
    flags = ("--layout", "ucf101", "--windows", 3)
    out = encode(capsys, ucf, tmp_path / "ds", *flags)
    assert f"{tmp_path / 'ds'}: 6 clips, 3 skipped" in out
    assert "'Bow/v_2.mp4#0'" in out and "has 4 frames; clips of 5 at an interval of 2 need 5" in out
    clips = EncodedClips(tmp_path / "ds")
    clips.check()
    examples = [clips.example(i) for i in range(6)]
    assert [(example.name, example.caption) for example in examples] == [
        (f"{name}#{i}", label) for name, label in (("Apple/v_1.mp4", "0"), ("Bow/v_1.mp4", "1"))
        for i in range(3)
    ]  # fmt: skip
    assert clips.card.classes == ("Apple", "Bow") and clips.card.pixels == (5, 32, 32)
    assert clips.card.layout == {"layout": "ucf101", "windows": 3, "interval": 2}
    assert clips.card.frame_rate == "one of 2 frames of the sources"

    videos = found(ucf, FolderConfig(layout="ucf101", windows=3, interval=2))
    read = reader(videos, 5, 32)
    vae = LoadedNetwork(ModelFolder(packaged.found("tiny")), "vae", "float32").autoencoder()
    for clip, example in zip(videos.clips, examples, strict=False):
        wanted = vae.encode(to_pixels(read(clip))[None])[0].astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(example.latents, wanted)

    for share in ("1/2", "0/2"):
        encode(capsys, ucf, tmp_path / "shared", *flags, "--shard", share)
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / d).iterdir()} for d in ("ds", "shared")
    )
    assert one == two
    with pytest.raises(FileExistsError, match=r"another request, which differs in .*layout"):
        encode(capsys, ucf, tmp_path / "ds", *flags, "--interval", 1)
    sheet = ("--sheet", tmp_path / "sheet.png")
    out = call(capsys, add_data_arguments, "inspect", tmp_path / "ds", *sheet)
    assert '"layout": "ucf101"' in out and "classes                  2\n" in out


def test_a_dry_run_counts_windows_and_makes_nothing(ucf, capsys, tmp_path):
    out = encode(capsys, ucf, tmp_path / "ds", "--layout", "ucf101", "--windows", 3, "--dry_run")
    assert "6 clips of 25 frames a second, kept frame by frame\n" in out
    assert "skipped line 7, 'Bow/v_2.mp4#0': " in out and "has 4 frames" in out
    assert f"{ucf}: 6 of 9 clips can be encoded" in out
    (tmp_path / "sky" / "v").mkdir(parents=True)
    for number in range(11):
        picture = np.full((20, 30, 3), number, np.uint8)
        video.write_png(tmp_path / "sky" / "v" / f"{number}.png", picture)
    out = encode(capsys, tmp_path / "sky", tmp_path / "ds", "--layout", "skytimelapse", "--dry_run")
    assert "1 clips of numbered pictures\n" in out
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--windows", 2), "--windows is for videos in folders; name their --layout"),
        (("--layout", "ucf101", "--width", 48), "clips of ucf101 are square, got 32x48"),
        (("--layout", "ucf101", "--source_fps", "model"), "source_fps must be 'keep', got 'model'"),
        (("--layout", "ucf101", "--num_frames", 6), "frames must be 4k\\+1, got 6"),
        (
            ("--layout", "taichi"),
            "has video files and no folders of pictures, .* try faceforensics",
        ),
        (("--layout", "ucf101", "--windows", 0), "at least 1, got 0 and 2"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_nothing_is_made(
    ucf, capsys, tmp_path, flags, reason
):
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as caught:
        encode(capsys, ucf, tmp_path / "ds", *flags)
    assert "\n" not in str(caught.value) and not (tmp_path / "ds").exists()


def test_a_layout_has_the_published_size_of_clips_by_default(ucf, tmp_path):
    parser = argparse.ArgumentParser()
    add_encode_arguments(parser)
    words = ["--model", "tiny", "--src", str(ucf), "--dst", str(tmp_path / "ds")]
    args = parser.parse_args([*words, "--layout", "ucf101", "--shard", "0/1"])
    args.console = Console(quiet=True)
    # The model that comes along takes 4 k + 1 frames, which the published 16 are not.
    with pytest.raises(ValueError, match=r"must be 4k\+1, got 16"):
        args.run(args)


def test_a_dataset_begun_by_an_older_version_is_gone_on_with(ucf, capsys, tmp_path):
    (tmp_path / "src").mkdir()
    video.write_video(tmp_path / "src" / "a.mp4", np.zeros((5, 32, 32, 3), np.uint8), 16)
    (tmp_path / "src" / "metadata.csv").write_text("file_name,text\na.mp4,black\n")
    size = SMALL[:6]
    words = ("--model", "tiny", "--src", tmp_path / "src", "--dst", tmp_path / "ds", *size)
    call(capsys, add_encode_arguments, *words, "--shard", "1/2")
    path = tmp_path / "ds" / "unfinished" / "card.json"
    card = json.loads(path.read_text())
    for added in ("layout", "classes"):
        del card[added]
    path.write_text(json.dumps(card))
    assert "1 clips, 0 skipped" in call(capsys, add_encode_arguments, *words)


def test_a_clip_whose_caption_names_no_class_is_skipped(tmp_path):
    write_latte(tmp_path / "model")
    (tmp_path / "src").mkdir()
    for name, caption in (("a", "2"), ("b", "a cat")):
        video.write_png(tmp_path / "src" / f"{name}.png", np.zeros((16, 16, 3), np.uint8))
        (tmp_path / "src" / f"{name}.txt").write_text(caption)
    config = EncodeConfig(height=16, width=16, num_frames=1)
    outcome = encode_folder(tmp_path / "model", tmp_path / "src", tmp_path / "ds", config)
    assert [each["file"] for each in outcome.skipped] == ["b.png"]
    assert "must be the number of a class, 0 to 256, got 'a cat'" in outcome.skipped[0]["reason"]
    clips = EncodedClips(tmp_path / "ds")
    assert clips.captions() == ["2"] and clips.at([0])["text"].tolist() == [[[2]]]
    said = "\n".join(described(tmp_path / "ds"))
    assert "labels: numbers of classes, from the list" in said
    assert "text" not in said and "fingerprint numbers" not in said
