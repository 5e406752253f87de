"""Fitting and writing pictures and clips, and the settings that travel in them."""

import json
import os
import shutil

import av
import numpy as np
import pytest
from clips import assert_one_line, clip
from PIL import Image

from pusa_jax.media import video
from pusa_jax.media.pixels import to_pixels, to_uint8

# Sizes and ranges


@pytest.mark.parametrize("mode", ["crop", "letterbox", "stretch"])
def test_fit_to_the_own_size_changes_nothing(mode):
    np.testing.assert_array_equal(video.fit(clip(2), 48, 64, mode), clip(2))


def test_crop_cuts_both_sides_evenly():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 255
    assert (video.fit(image, 40, 40, "crop") == 255).all()
    assert (video.fit(np.rot90(image), 40, 40, "crop") == 255).all()


def test_crop_fills_the_size_keeping_proportions():
    y, x = np.mgrid[:90, :160]
    disc = np.where((y - 45) ** 2 + (x - 80) ** 2 < 30**2, 255, 0).astype(np.uint8)
    fitted = video.fit(np.repeat(disc[..., None], 3, -1), 60, 60, "crop")[..., 0]
    rows, columns = np.flatnonzero(fitted.max(1) > 127), np.flatnonzero(fitted.max(0) > 127)
    assert abs(len(rows) - 40) <= 1
    assert abs(len(columns) - 40) <= 1


def test_letterbox_centres_the_whole_picture_on_black():
    white = np.full((40, 100, 3), 255, np.uint8)
    fitted = video.fit(white, 50, 50, "letterbox")
    assert (fitted[15:35] == 255).all()
    assert not fitted[:15].any()
    assert not fitted[35:].any()


@pytest.mark.parametrize("mode", ["crop", "letterbox", "stretch"])
def test_resampling_is_lanczos(mode):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((32, 24), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(video.fit(image, 24, 32, mode), np.asarray(expected))


def test_a_clip_is_fitted_frame_by_frame():
    frames = clip(3)
    fitted = video.fit(frames, 32, 32, "crop")
    assert fitted.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(fitted[1], video.fit(frames[1], 32, 32, "crop"))


def test_unknown_fit_lists_the_known_ones():
    with pytest.raises(ValueError, match="mode='zoom'; choose one of crop, letterbox, stretch"):
        video.fit(clip(1), 32, 32, "zoom")


def test_pixels_span_minus_one_to_one():
    pixels = to_pixels(np.arange(256, dtype=np.uint8))
    assert pixels.dtype == np.float32
    assert pixels[0] == -1
    assert pixels[255] == 1
    np.testing.assert_array_equal(pixels, np.arange(256, dtype=np.float32) * (2 / 255) - 1)


def test_frames_are_truncated_not_rounded():
    pixels = np.array([-2, -1, -1 + 1.99 / 127.5, 0, 0.999, 1, 3], np.float32)
    assert to_uint8(pixels).tolist() == [0, 0, 1, 127, 254, 255, 255]


def test_not_finite_frames_are_refused():
    with pytest.raises(ValueError, match="1 of 6 pixel values are not finite"):
        to_uint8(np.array([[0, np.nan, 1], [0, 0, 0]], np.float32))


# Writing


def test_iterator_of_frames_gives_the_same_file(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(), 16)
    video.write_video(tmp_path / "b.mp4", iter(clip()), 16)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_index_is_in_front(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(), 16)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


SETTINGS = {
    "prompt": 'a "cat", 猫\n🐈 \\ \udcff' + "long " * 2000,
    "seed": 2**63,
    "multipliers": [0.2, 1.0],
    "negative": None,
}


def test_settings_travel_in_the_file(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(2), 16, SETTINGS)
    assert video.read_metadata(tmp_path / "a.mp4") == SETTINGS


def test_settings_have_a_tag_of_their_own(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(2), 16, {"seed": 7})
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert json.loads(container.metadata["pusa_jax"]) == {"seed": 7}


def test_settings_survive_as_plain_comment(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(2), 16, {"seed": 7})
    with av.open(str(tmp_path / "a.mp4")) as container:
        comment = container.metadata["comment"]
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=16)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(clip(1)[0], format="rgb24")))
        container.mux(stream.encode(None))
    assert json.loads(comment) == {"seed": 7}
    assert video.read_metadata(tmp_path / "b.mp4") == {"seed": 7}


def test_foreign_tags_need_not_be_utf8(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(2), 16, {"by": "Jorgen"})
    data = (tmp_path / "a.mp4").read_bytes().replace(b"Jorgen", "Jörgen".encode("latin-1"))
    (tmp_path / "a.mp4").write_bytes(data)
    assert len(video.read_video(tmp_path / "a.mp4")[0]) == 2


@pytest.mark.parametrize("comment", [None, "shot on holiday", "[1, 2]"])
def test_foreign_clip_has_no_settings(tmp_path, comment):
    video.write_video(tmp_path / "a.mp4", clip(2), 16)
    if comment is not None:
        with av.open(str(tmp_path / "a.mp4"), "w") as container:
            container.metadata["comment"] = comment
            stream = container.add_stream("libx264", rate=16)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(clip(1)[0], format="rgb24")))
            container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="carries no settings"):
        video.read_metadata(tmp_path / "a.mp4")


def failing(frames):
    yield from frames
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: {"frames": clip(2, 47, 64)}, "even height and width, got 47x64"),
        (lambda: {"frames": clip(2, 48, 63)}, "even height and width, got 48x63"),
        (lambda: {"frames": clip(0)}, "no frames"),
        (lambda: {"frames": [clip(1)[0], clip(1, 32)[0]]}, "frame 1 is uint8"),
        (lambda: {"fps": 0}, "positive number, got 0"),
        (lambda: {"fps": float("nan")}, "positive number, got nan"),
        (lambda: {"metadata": {"x": object()}}, "plain JSON"),
        (lambda: {"metadata": {"x": float("nan")}}, "JSON"),
        (lambda: {"path": "a.avi"}, "must end in .mp4"),
    ],
)
def test_refused_output_leaves_nothing(tmp_path, arguments, message):
    given = {"path": "new/a.mp4", "frames": clip(2), "fps": 16} | arguments()
    with pytest.raises(ValueError, match=message) as caught:
        video.write_video(**given | {"path": tmp_path / given["path"]})
    assert_one_line(caught)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_failure_midway_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(2), 16)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(RuntimeError, match="out of memory"):
        video.write_video(tmp_path / "a.mp4", failing(clip(90, width=512)), 16)
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_success_leaves_one_file(tmp_path):
    video.write_video(tmp_path / "new" / "a.mp4", clip(2), 16)
    video.write_png(tmp_path / "new" / "a.png", clip(1)[0])
    assert sorted(os.listdir(tmp_path / "new")) == ["a.mp4", "a.png"]


def test_png_is_exact(tmp_path):
    video.write_png(tmp_path / "a.png", clip(1)[0])
    np.testing.assert_array_equal(video.read_image(tmp_path / "a.png"), clip(1)[0])


def test_strip_runs_from_first_to_last_frame():
    frames = clip(9)
    strip = video.frame_strip(frames, 3)
    np.testing.assert_array_equal(strip, np.concatenate([frames[0], frames[4], frames[8]], axis=1))


def test_strip_of_a_short_clip_shows_it_whole():
    assert video.frame_strip(clip(2), 5).shape == (48, 128, 3)


def test_a_colon_or_percent_in_a_name_is_only_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.write_video(tmp_path / "a.mp4", clip(2), 16, {"seed": 1})
    for name in ("file:b.mp4", "50%d.mp4", "-c.mp4", "two\nlines.mp4"):
        shutil.copy("a.mp4", name)
        assert video.read_metadata(name) == {"seed": 1}
        video.write_video(name, clip(2), 16)
