"""Pictures that people have: what is not read says the way out, and values keep their meaning."""

import sys

import numpy as np
import pytest
from clips import clip
from PIL import Image

from pusa_jax.diffusion import tasks
from pusa_jax.media import video
from pusa_jax.media.frames import as_frames

PICTURE = clip(1)[0]


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_heic_says_what_reads_it(tmp_path, without_heif, brand):
    for name in ("IMG_1.HEIC", "a.jpg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
        with pytest.raises(ValueError, match=f"{name} is a HEIC picture; pip install pillow-heif"):
            video.read_image(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is a HEIC picture; a video file is expected"):
            video.read_video(tmp_path / name)


def test_an_animated_webp_is_no_clip_but_a_picture(tmp_path):
    first, second = Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(video.read_image(tmp_path / "a.webp"), PICTURE)
    with pytest.raises(ValueError, match=r"a\.webp is an animated WebP.*convert it to mp4"):
        video.read_video(tmp_path / "a.webp")


def test_a_picture_of_floats_is_read_by_its_range(tmp_path):
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(tmp_path / "a.tiff")
    assert (video.read_image(tmp_path / "a.tiff") == 128).all()
    for name, values in (("b", np.full((4, 6), 90, np.float32)), ("c", np.full((4, 6), 9, "i4"))):
        Image.fromarray(values).save(tmp_path / f"{name}.tiff")
        with pytest.raises(ValueError, match=f"{name}.tiff is damaged or not a picture: .* "):
            video.read_image(tmp_path / f"{name}.tiff")


def test_grey_of_16_bit_keeps_its_brightness(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 6 4 65535\n" + np.full((4, 6), 40000, ">u2").tobytes())
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "a.png")
    for name in ("a.pgm", "a.png"):
        assert (video.read_image(tmp_path / name) == 40000 >> 8).all()


GIVEN = {
    "floats": lambda: clip(13) / np.float32(255),
    "doubles": lambda: clip(13) / 255,
    "images": lambda: [Image.fromarray(frame) for frame in clip(13)],
    "a sequence of floats": lambda: tuple(clip(13) / np.float32(255)),
    "rounded beyond 1": lambda: clip(13) / np.float32(255) * np.float32(1.000001),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_clips_are_taken_as_people_hold_them(kind):
    given = GIVEN[kind]()
    (extended,) = tasks.extend(given, 4)
    np.testing.assert_array_equal(extended.frames, clip(13))
    assert extended.frames.dtype == np.uint8
    (completed,) = tasks.complete(given, 4, 4)
    np.testing.assert_array_equal(completed.frames, clip(13))
    opening, closing = tasks.transition(given, given, 6, 4)
    np.testing.assert_array_equal(opening.frames, clip(13)[-9:])
    np.testing.assert_array_equal(closing.frames[1:], clip(13)[:12])
    direct = tasks.Condition(frames=given, take=(0,), at=(0,), multipliers=(0.0,))
    np.testing.assert_array_equal(direct.frames, clip(13))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_pictures_are_taken_as_people_hold_them(mode):
    image = Image.fromarray(PICTURE).convert(mode)
    expected = as_frames(image)
    for conditions in (
        tasks.image_to_video(image),
        tasks.start_end(image, expected / np.float32(255), 9),
        tasks.loop(image, 9),
        tasks.interpolate([image, image], 9),
    ):
        for condition in conditions:
            np.testing.assert_array_equal(condition.frames, expected[None])


WRONG = {
    "a clip for a picture": (lambda: tasks.image_to_video(clip(3)), "one picture .* got a clip"),
    "a picture for a clip": (lambda: tasks.extend(PICTURE, 4), "a clip .* got a picture"),
    "one image": (lambda: tasks.interpolate(Image.fromarray(PICTURE), 9), "got one Image"),
    "a path": (lambda: tasks.image_to_video("a.png"), "got the path 'a.png'"),
    "clips": (lambda: tasks.extend([clip(2)] * 13, 4), "a sequence must hold pictures"),
    "channels first": (lambda: as_frames(np.zeros((3, 8, 8), "f4")), r"float32 \[3, 8, 8\]"),
    "[-1, 1]": (lambda: as_frames(np.full((8, 8, 3), -1.0)), "from -1 to -1"),
    "levels in floats": (lambda: as_frames(PICTURE.astype("f4")), "floats must lie in"),
    "grey": (lambda: as_frames(PICTURE[..., 0]), r"uint8 \[48, 64\]"),
    "four channels": (lambda: as_frames(np.zeros((8, 8, 4), "u1")), r"uint8 \[8, 8, 4\]"),
    "16 bit": (lambda: as_frames(PICTURE.astype("u2")), "ndarray uint16"),
    "not a number": (lambda: as_frames(np.full((8, 8, 3), np.nan)), "from nan to nan"),
    "nothing": (lambda: as_frames(None), "NoneType"),
    "no pictures": (lambda: as_frames([]), "the sequence is empty"),
    "two sizes": (lambda: as_frames([PICTURE, PICTURE[:8]]), "differ in size"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_anything_else_is_refused_with_what_it_is(kind):
    call, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["floats", "images"])
def test_clips_are_written_as_people_hold_them(tmp_path, kind):
    for name, frames in (("a", GIVEN[kind]()), ("b", clip(13))):
        video.write_video(tmp_path / f"{name}.mp4", frames, 16)
    read = [video.read_video(tmp_path / f"{name}.mp4")[0] for name in "ab"]
    np.testing.assert_array_equal(*read)
    video.write_png(tmp_path / "a.png", GIVEN[kind]()[0])
    np.testing.assert_array_equal(video.read_image(tmp_path / "a.png"), PICTURE)
