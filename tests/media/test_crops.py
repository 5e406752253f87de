"""Crops of the published sets, against the plain formula for every pixel."""

import numpy as np
import pytest

from pusa_jax.media import crops


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)


def bilinear(frames, sides, ratio):
    """One pixel after the other, by the four around its place."""
    height, width = frames.shape[1:3]
    out = np.zeros((len(frames), *sides, 3))
    for i in range(sides[0]):
        for j in range(sides[1]):
            y, x = (max((k + 0.5) * ratio - 0.5, 0.0) for k in (i, j))
            for row in (int(y), int(y) + 1):
                for column in (int(x), int(x) + 1):
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    pixel = frames[:, min(row, height - 1), min(column, width - 1)]
                    out[:, i, j] += share * pixel
    return out


@pytest.mark.parametrize(
    ("height", "width", "size", "sides", "top", "left"),
    [
        (24, 41, 8, (8, 13), 0, 2),  # 13.67 pixels lose their fraction, 2.5 go to the even side
        (24, 45, 8, (8, 15), 0, 4),  # 3.5
        (30, 12, 8, (20, 8), 6, 0),
        (10, 7, 16, (22, 16), 3, 0),
        (9, 9, 9, (9, 9), 0, 0),
    ],
)
def test_the_short_side_comes_to_size_and_the_middle_is_cut(height, width, size, sides, top, left):
    frames = picture(height, width)
    wanted = bilinear(frames, sides, min(height, width) / size)
    wanted = wanted[:, top : top + size, left : left + size]
    got = crops.short_side_then_cut(frames, size)
    assert got.shape == (2, size, size, 3)
    np.testing.assert_allclose(got, wanted, atol=0.5001)


@pytest.mark.parametrize(
    ("height", "width", "size", "top", "left"),
    [(12, 17, 8, 0, 2), (12, 19, 8, 0, 4), (21, 12, 16, 4, 0), (6, 6, 6, 0, 0)],
)
def test_the_square_in_the_middle_is_cut_and_comes_to_size(height, width, size, top, left):
    frames, short = picture(height, width), min(height, width)
    square = frames[:, top : top + short, left : left + short]
    wanted = bilinear(square, (size, size), short / size)
    np.testing.assert_allclose(crops.cut_then_scale(frames, size), wanted, atol=0.5001)


def test_frames_of_the_right_size_stay_to_the_bit():
    frames = picture(8, 8)
    for crop in (crops.as_they_are, crops.short_side_then_cut, crops.cut_then_scale):
        np.testing.assert_array_equal(crop(frames, 8), frames)


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (4, 4)])
def test_frames_that_are_not_cropped_must_have_the_size(shape):
    with pytest.raises(ValueError, match=f"frames are {shape[0]}x{shape[1]}, .* needs 8x8"):
        crops.as_they_are(picture(*shape), 8)


@pytest.mark.torch
@pytest.mark.parametrize(("height", "width"), [(24, 41), (45, 20), (15, 15)])
def test_pixels_are_those_of_pytorch(height, width):
    torch = pytest.importorskip("torch", reason="needs the extra [test]")
    frames = picture(height, width)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    scale = 8 / min(height, width)
    scaled = torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="bilinear")
    top, left = (round((side - 8) / 2) for side in scaled.shape[-2:])
    wanted = scaled[..., top : top + 8, left : left + 8].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(crops.short_side_then_cut(frames, 8), wanted, atol=0.5001)
