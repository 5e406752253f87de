"""The ending of a path says what a clip is written as."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from pusa_jax.media import video
from pusa_jax.media.outputs import check_ending, write_clip

FRAMES = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 32 * 48 * 3).reshape(5, 32, 48, 3)
LATENTS = np.arange(2 * 4 * 6 * 16, dtype=np.float32).reshape(1, 2, 4, 6, 16)
RECORD = {"job": {"seed": 3}}


def write(path):
    check_ending(str(path))
    write_clip(path, FRAMES, LATENTS, 16, RECORD)
    return path


def test_an_mp4_and_an_npz_carry_their_settings(tmp_path):
    assert video.read_metadata(write(tmp_path / "a.mp4")) == RECORD
    with np.load(write(tmp_path / "a.npz")) as found:
        assert np.array_equal(found["latents"], LATENTS)
        assert json.loads(str(found["record"])) == RECORD


def test_an_mp4_is_as_exact_as_its_crf_asks(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    sizes = {}
    for crf in (0, 10, 18, 40):
        path = tmp_path / f"{crf}.mp4"
        write_clip(path, noise, LATENTS, 16, RECORD, crf=crf)
        sizes[crf] = path.stat().st_size
    assert sorted(sizes.values(), reverse=True) == list(sizes.values())
    usual = tmp_path / "usual.mp4"
    write_clip(usual, noise, LATENTS, 16, RECORD)
    assert usual.read_bytes() == (tmp_path / "18.mp4").read_bytes()


def test_a_gif_shows_every_frame_at_its_speed(tmp_path):
    with Image.open(write(tmp_path / "a.GIF")) as picture:
        assert (picture.n_frames, picture.size) == (5, (48, 32))
        assert picture.info["loop"] == 0 and picture.info["duration"] in (60, 62)


def test_a_webm_shows_every_frame(tmp_path):
    with av.open(str(write(tmp_path / "a.webm"))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert [abs(int(f.mean()) - 50 * i) <= 6 for i, f in enumerate(frames)] == [True] * 5


def test_a_png_is_a_strip(tmp_path):
    assert video.read_image(write(tmp_path / "a.png")).shape == (32, 5 * 48, 3)


def test_a_folder_holds_every_frame_and_the_settings(tmp_path):
    check_ending(f"{tmp_path}/clip/")
    folder = tmp_path / "clip"
    write_clip(folder, FRAMES, LATENTS, 16, RECORD)
    assert len(list(folder.glob("*.png"))) == 5
    assert np.array_equal(video.read_image(folder / "00003.png"), FRAMES[3])
    assert json.loads((folder / "settings.json").read_text()) == RECORD


@pytest.mark.parametrize("output", ["a.avi", "a", ".mp4"])
def test_other_endings_are_refused(output):
    with pytest.raises(ValueError, match=r"must end in \.mp4, \.gif, \.webm, \.png, \.npz or / "):
        check_ending(output)
