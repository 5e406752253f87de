"""`pusa-jax info` names whatever people have as what it is."""

import json

import numpy as np
import pytest
from clips import clip, write
from PIL import Image

from pusa_jax.cli.main import main
from pusa_jax.media import outputs

SETTINGS = {"job": {"prompt": "a cat"}, "seed": 3}


@pytest.fixture
def info(capsys):
    """What the command prints, or its error."""

    def call(path):
        code = main(["info", str(path)])
        out, err = capsys.readouterr()
        assert code == (2 if err else 0) and (not err or err.count("\n") == 1)
        return out + err

    return call


def picture(path, count=1, **options):
    frames = [Image.new("RGB", (48, 32), (40 * i, 9, 9)) for i in range(count)]
    frames[0].save(path, save_all=count > 1, append_images=frames[1:], **options)
    return path


def test_pictures_are_named(info, tmp_path):
    assert "picture (JPEG), 48x32, mode RGB" in info(picture(tmp_path / "a.jpg"))
    moving = info(picture(tmp_path / "a.webp", 5))
    assert "picture (WEBP)" in moving and "an animation of 5 pictures, of which the first" in moving
    (tmp_path / "bad.png").write_bytes(b"x")
    assert "damaged or not a picture" in info(tmp_path / "bad.png")


def test_a_photograph_in_heic_is_named_with_the_way_out(info, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(500))
    assert "is a HEIC picture; pip install pillow-heif" in info(path)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_a_clip_of_others_is_named(info, tmp_path, ending):
    write(tmp_path / f"a.{ending}", clip(16))
    told = info(tmp_path / f"a.{ending}")
    assert "h264), 64x48, 16 frames a second, 1.0 s" in told and "carries no settings" in told


@pytest.mark.parametrize("name", ["a.mp4", "a.npz", "a"])
def test_settings_are_printed_of_every_form_that_holds_them(info, tmp_path, name):
    path = tmp_path / name
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    outputs.write_clip(path, frames, np.zeros((1, 2, 4, 4, 16), np.float32), 16, SETTINGS)
    told = info(path)
    assert json.loads(told[told.index("{") :]) == SETTINGS


@pytest.mark.parametrize("has_list", [True, False])
def test_a_list_of_clips_says_what_is_wrong_with_it(info, tmp_path, has_list):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    if has_list:
        (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,a cat\nc.mp4,a dog\n")
        assert info(tmp_path) == info(tmp_path / "metadata.csv").replace("/metadata.csv:", ":")
    else:
        (tmp_path / "a.txt").write_text("a cat")
    told = info(tmp_path)
    assert "list of 2 clips with captions, 1 of them usable" in told
    assert ("line 3, 'c.mp4'" if has_list else "there is no b.txt") in told


def test_other_files_and_folders_are_refused_with_what_is_known(info, tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"x")
    assert "pictures, clips, lists of clips, weights (.jpg," in info(tmp_path / "a.mp3")
    (tmp_path / "a.npz").write_bytes(b"x")
    assert "a.npz carries no settings" in info(tmp_path / "a.npz")
    assert "has no DiT, VAE or text encoder" in info(tmp_path)
    assert "no folder or file" in info(tmp_path / "none.safetensors")
