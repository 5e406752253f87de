"""What phones, cameras and taggers write: rates, orientations, covers, colours, odd tags."""

import functools
import itertools
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import clip, write
from PIL import Image

from pusa_jax.media import colour, pictures, timing, video
from pusa_jax.media.frames import as_frames

LOSSLESS = {"codec": "libx264rgb", "pix_fmt": "rgb24", "crf": "0"}


def grey_levels(count, step=2):
    """Frames told apart by their brightness."""
    return np.stack([np.full((32, 32, 3), 10 + step * i, np.uint8) for i in range(count)])


def numbers(frames, step=2):
    return np.round((frames.mean((1, 2, 3)) - 10) / step).astype(int).tolist()


@pytest.mark.parametrize("rate", [24, 30, 60])
def test_a_clip_is_brought_to_another_rate_by_its_timestamps(tmp_path, rate):
    write(tmp_path / "a.mp4", grey_levels(90), time_base=Fraction(1, rate), **LOSSLESS)
    frames, fps = video.read_video(tmp_path / "a.mp4", 9, fps=16)
    assert fps == 16
    assert numbers(frames) == [int(k * rate / 16 + 1e-6) for k in range(9)]
    frames, _ = video.read_video(tmp_path / "a.mp4", 9, start=-9, fps=16)
    assert numbers(frames) == [int(89 - k * rate / 16 + 1e-6) for k in range(8, -1, -1)]


def test_a_varying_rate_is_followed(tmp_path):
    pts = [0, 1, 2, 8, 9, 10]
    write(tmp_path / "a.mp4", grey_levels(6, 20), pts, time_base=Fraction(1, 16), **LOSSLESS)
    frames, _ = video.read_video(tmp_path / "a.mp4", 10, fps=16)
    assert numbers(frames, 20) == [0, 1, 2, 2, 2, 2, 2, 2, 3, 4]


def test_too_short_at_the_models_rate_says_both_rates(tmp_path):
    write(tmp_path / "a.mp4", grey_levels(60), time_base=Fraction(1, 60))
    with pytest.raises(ValueError, match=r"has 16 frames, 81 are needed at 16 .* own rate is 60"):
        video.read_video(tmp_path / "a.mp4", 81, fps=16)


@pytest.mark.parametrize("fps", [None, 16])
def test_the_end_of_a_long_clip_is_sought_and_the_same(tmp_path, monkeypatch, fps):
    levels = grey_levels(120)
    write(tmp_path / "a.mp4", np.concatenate([levels] * 5), **LOSSLESS, g="24")
    decoded, original = [], timing.decoded

    def counted(*given, **named):
        for frame in original(*given, **named):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(timing, "decoded", counted)
    frames, _ = video.read_video(tmp_path / "a.mp4", 13, -13, fps)
    assert numbers(frames) == [*range(107, 120)]
    assert len(decoded) < 120


MATRICES = {
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): np.fliplr,
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1),
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, -1, 0): lambda p: np.rot90(p, 2).swapaxes(0, 1),
    (0, -1, 1, 0): np.rot90,
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_display_matrices(tmp_path, matrix):
    video.write_video(tmp_path / "a.mp4", clip(2), 16)
    plain, _ = video.read_video(tmp_path / "a.mp4")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (v << 16 for v in matrix)
    nine = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in nine)
    (tmp_path / "a.mp4").write_bytes(data)
    turned, _ = video.read_video(tmp_path / "a.mp4")
    np.testing.assert_array_equal(turned[1], MATRICES[matrix](plain[1]))


def test_a_picture_with_odd_tags_is_read_and_turned(tmp_path):
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 3, b"72\0\0")  # text, not a fraction
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + turned + resolution + bytes(4)
    Image.fromarray(np.rot90(clip(1)[0])).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(video.read_image(tmp_path / "a.png"), clip(1)[0])


@pytest.mark.parametrize("error", [TypeError, AttributeError, OverflowError, ZeroDivisionError])
def test_whatever_pillow_raises_names_the_file(tmp_path, monkeypatch, error):
    video.write_png(tmp_path / "a.png", clip(1)[0])

    def fail(*_):
        raise error("odd\ntag")

    monkeypatch.setattr(pictures, "upright_rgb", fail)
    with pytest.raises(ValueError, match=r"a\.png is damaged or not a picture: odd tag"):
        video.read_image(tmp_path / "a.png")


def test_floats_and_pillow_images_become_uint8():
    picture = clip(1)[0]
    np.testing.assert_array_equal(as_frames(picture / np.float32(255)), picture)
    np.testing.assert_array_equal(as_frames(Image.fromarray(picture)), picture)
    for bad in (picture.astype(np.float32), picture[..., 0], picture.astype(np.int32)):
        with pytest.raises(ValueError, match="got"):
            as_frames(bad)


HDR = {"arib-std-b67": 18, "smpte2084": 16}
"""Transfer of HLG and of PQ, and their code points."""


@functools.cache
def to_hdr(transfer):
    """A filter, which takes long to be made."""
    graph = av.filter.Graph()
    shape = {"width": 64, "height": 64, "format": "rgb24"}
    steps = [graph.add_buffer(**shape, time_base=Fraction(1, 16))]
    steps.append(graph.add("setparams", "color_primaries=bt709:color_trc=bt709"))
    to = f"out_primaries=bt2020:out_transfer={transfer}:out_color_matrix=bt2020nc"
    steps.append(graph.add("scale", to + ":intent=relative_colorimetric"))
    steps += [graph.add("format", "yuv420p10le"), graph.add("buffersink")]
    for before, after in itertools.pairwise(steps):
        before.link_to(after)
    graph.configure()
    return graph


def as_hdr(colour_of_all, transfer):
    """A frame of 64x64 as a phone writes it."""
    picture = np.full((64, 64, 3), colour_of_all, np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    frame.time_base = Fraction(1, 16)
    to_hdr(transfer).push(frame)
    return to_hdr(transfer).pull()


@pytest.mark.parametrize("transfer", HDR)
def test_hdr_is_brought_to_bt709(transfer):
    hdr = as_hdr((200, 60, 30), transfer)
    assert hdr.color_trc == HDR[transfer]
    assert np.abs(colour.upright_rgb(hdr)[32, 32].astype(int) - (200, 60, 30)).max() <= 8


def test_one_filter_serves_all_frames_of_a_clip(tmp_path, monkeypatch):
    made, original = [], colour._to_bt709

    def counted(frame):
        made.append(frame.color_trc)
        return original(frame)

    monkeypatch.setattr(colour, "_to_bt709", counted)
    graphs: colour.Graphs = {}
    for transfer in (*HDR, *HDR):
        for level in (40, 120, 200):
            hdr = as_hdr(level, transfer)
            assert np.abs(colour.upright_rgb(hdr, graphs)[32, 32].astype(int) - level).max() <= 8
    assert made == [18, 16]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 18, 9
        for level in (40, 120, 200):
            frame = as_hdr(level, "arib-std-b67")
            frame.pts = level // 80
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    made.clear()
    read, _ = video.read_video(tmp_path / "a.mp4")
    assert np.abs(read.mean((1, 2, 3)) - (40, 120, 200)).max() <= 8 and made == [18]


def test_untagged_high_definition_is_bt709(tmp_path):
    frame = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), (20, 150, 90), np.uint8), "rgb24")
    yuv = frame.reformat(format="yuv420p", dst_colorspace=1)
    yuv.colorspace = 2
    assert np.abs(colour.upright_rgb(yuv)[9, 9].astype(int) - (20, 150, 90)).max() <= 3
