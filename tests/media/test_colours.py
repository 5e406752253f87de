"""Colours that files say they are in, and that are not those of a screen."""

import io
import types

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from pusa_jax.media import colour, video
from pusa_jax.progress import PusaWarning

COLOUR = (200, 60, 30)


def frame(**tags):
    """What `check_colours` looks at."""
    plain = {"color_trc": 1, "color_primaries": 1, "colorspace": 1, "side_data": {}}
    return types.SimpleNamespace(**plain | tags)


def written(path, tag=None, codec="libx264", **tags):
    with av.open(str(path), "w") as container:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = container.add_stream(codec, rate=16, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if tag:
            stream.codec_context.codec_tag = tag
        for _ in range(5):
            picture = np.full((64, 64, 3), COLOUR, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_dolby_vision_that_nothing_else_can_show_is_refused(tmp_path):
    path = written(tmp_path / "a.mp4", "dvh1", "libx265")
    with pytest.raises(ValueError, match=r"a\.mp4 is Dolby Vision .*profile 5.*convert it"):
        video.read_video(path)


@pytest.mark.parametrize(
    ("tag", "tags"),
    [
        ("hvc1", {"color_trc": 2, "side_data": {"DOVI_RPU_BUFFER": b"x"}}),
        ("hvc1", {"color_trc": 2, "side_data": {"DOVI_METADATA": b"x"}}),
        ("hvc1", {"color_trc": 16, "colorspace": 15}),
        ("dav1", {"color_trc": 0}),
    ],
)
def test_dolby_vision_is_known_by_what_it_has_beside_its_frames(tag, tags):
    with pytest.raises(ValueError, match=r"x\.mkv is Dolby Vision"):
        colour.check_colours("x.mkv", tag, frame(**tags))


@pytest.mark.parametrize("transfer", [1, 16, 18])
def test_dolby_vision_over_a_picture_for_all_is_read(transfer):
    colour.check_colours("x.mov", "dvh1", frame(color_trc=transfer))
    colour.check_colours("x.mov", "hvc1", frame(color_trc=transfer, side_data={"DOVI_METADATA": 1}))
    colour.check_colours("x.mov", "hvc1", frame(color_trc=2))


def test_display_p3_of_a_clip_is_said(tmp_path):
    path = written(tmp_path / "a.mp4", color_primaries=12)
    with pytest.warns(PusaWarning, match=r"a\.mp4 is in the colours of Display P3.*paler"):
        frames, _ = video.read_video(path)
    assert np.abs(frames[0, 9, 9].astype(int) - COLOUR).max() <= 4


RED, GREEN, BLUE = (0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)
"""Columns of Display P3 seen from D50 (ICC registry)."""


def profile(description, columns=(RED, GREEN, BLUE)):
    """An ICC profile of three columns and a plain gamma of 2.2, as cameras embed them."""

    def fixed(value):
        return round(value * 65536).to_bytes(4, "big", signed=True)

    def xyz(values):
        return b"XYZ " + bytes(4) + b"".join(map(fixed, values))

    name = description.encode() + b"\0"
    text = b"desc" + bytes(4) + len(name).to_bytes(4, "big") + name + bytes(78)
    gamma = b"curv" + bytes(4) + (1).to_bytes(4, "big") + (563).to_bytes(2, "big") + bytes(2)
    tags = {b"desc": text, b"wtpt": xyz((0.9642, 1, 0.8249)), b"cprt": b"text" + bytes(8)}
    for letter, column in zip("rgb", columns, strict=True):
        tags |= {f"{letter}XYZ".encode(): xyz(column), f"{letter}TRC".encode(): gamma}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + (start + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = size.to_bytes(4, "big") + bytes(4) + bytes.fromhex("02400000") + b"mntrRGB XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, (0.9642, 1, 0.8249)))
    return head.ljust(128, b"\0") + len(tags).to_bytes(4, "big") + table + body


def saved(path, icc_profile, mode="RGB"):
    Image.new("RGB", (8, 8), (185, 70, 45)).convert(mode).save(path, icc_profile=icc_profile)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_a_picture_in_display_p3_is_brought_to_srgb(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    options = {"lossless": True} if ending == "webp" else {}
    image = Image.new("RGB", (8, 8), (185, 70, 45))
    image.save(path, icc_profile=profile("Display P3"), **options)
    assert np.abs(video.read_image(path)[4, 4].astype(int) - COLOUR).max() <= 6


def test_srgb_and_damaged_profiles_leave_a_picture_as_it_is(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = io.BytesIO(profile("Display P3")).getvalue().replace(b"mntrRGB ", b"mntrGRAY")
    for icc in (srgb, profile("sRGB IEC61966-2.1"), b"damaged", grey):
        picture = video.read_image(saved(tmp_path / "a.png", icc))
        assert (picture == (185, 70, 45)).all()
    grey_picture = video.read_image(saved(tmp_path / "b.png", profile("Display P3"), "L"))
    assert len(np.unique(grey_picture)) == 1
