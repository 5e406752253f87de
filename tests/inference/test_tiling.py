import itertools

import numpy as np
import pytest

from pusa_jax.inference import tiling
from pusa_jax.models.family import Tiles

VIDEO = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 80, 3)).astype(np.float32)


def area_mean(video):
    """A tile function without memory of its surroundings: 8 x 8 means, so that tiling is exact."""
    b, t, h, w, c = video.shape
    return np.asarray(video).reshape(b, t, h // 8, 8, w // 8, 8, c).mean(axis=(3, 5))


def enlarge(latents):
    return np.repeat(np.repeat(latents, 8, axis=2), 8, axis=3)


def starts(length, size, stride):
    return [span.start for span in tiling.spans(length, size, stride)]


def test_published_sizes_have_the_tiles_of_the_original():
    assert starts(90, 30, 15) == [0, 15, 30, 45, 60]
    assert starts(160, 52, 26) == [0, 26, 52, 78, 104, 130]
    assert len(tiling.tiles((90, 160), Tiles(size=(30, 52), stride=(15, 26)))) == 30
    assert len(tiling.tiles((60, 104), Tiles(size=(30, 52), stride=(15, 26)))) == 9
    assert len(tiling.tiles((44, 80), Tiles(size=(30, 52), stride=(15, 26)))) == 6


def test_a_start_is_skipped_where_the_tile_before_reaches_the_border():
    assert starts(7, 4, 2) == [0, 2, 4]
    assert starts(4, 4, 2) == [0]
    assert starts(3, 4, 2) == [0]


def test_weights_are_those_of_the_drawing():
    first, second, last = tiling.spans(7, 4, 2)
    assert first.weights().tolist() == [1, 1, 1, 0.5]
    assert second.weights().tolist() == [0.5, 1, 1, 0.5]
    assert last.weights().tolist() == [0.5, 1, 1]
    assert second.scaled(2).weights().tolist() == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]


def test_the_falling_ramp_wins_where_both_meet():
    middle = tiling.spans(12, 4, 1)[1]
    assert np.allclose(middle.weights(), [1 / 3, 1, 2 / 3, 1 / 3])


def test_every_cell_is_covered_and_no_weight_is_zero():
    for length, size in itertools.product(range(1, 30), range(1, 12)):
        for stride in range(1, size + 1):
            cover = np.zeros(length)
            for span in tiling.spans(length, size, stride):
                assert span.weights().min() > 0
                cover[span.positions] += 1
            assert cover.min() >= 1


def test_blending_tiles_of_a_local_function_gives_the_whole():
    encoded = tiling.encode_tiled(area_mean, VIDEO, 8, Tiles(size=(5, 4), stride=(3, 3)))
    np.testing.assert_allclose(encoded, area_mean(VIDEO), atol=1e-6)
    decoded = tiling.decode_tiled(enlarge, encoded, 8, Tiles(size=(4, 6), stride=(2, 3)))
    np.testing.assert_allclose(decoded, enlarge(area_mean(VIDEO)), atol=1e-6)


def test_two_disagreeing_tiles_fade_into_each_other():
    brightness = iter([0.0, 1.0])

    def decode_tile(latents):
        return np.full_like(enlarge(latents)[..., :3], next(brightness))

    latents = np.zeros((1, 1, 4, 6, 16), np.float32)
    line = tiling.decode_tiled(decode_tile, latents, 8, Tiles(size=(4, 4), stride=(4, 2)))[
        0, 0, 0, :, 0
    ]
    ramp = np.arange(1, 17) / 16
    fade = ramp / (ramp + ramp[::-1])
    np.testing.assert_allclose(line, [0] * 16 + [*fade] + [1] * 16, atol=1e-6)


def test_decoded_video_is_clamped_and_latents_are_not():
    decoded = tiling.decode_tiled(
        enlarge, 3 * area_mean(VIDEO) + 2, 8, Tiles(size=(4, 6), stride=(2, 3))
    )
    assert decoded.min() >= -1 and decoded.max() == 1
    encoded = tiling.encode_tiled(area_mean, 3 * VIDEO + 2, 8, Tiles(size=(5, 4), stride=(3, 3)))
    assert encoded.max() > 1 and isinstance(encoded, np.ndarray)


def test_progress_counts_every_tile():
    seen = []
    tiling.encode_tiled(
        area_mean, VIDEO, 8, Tiles(size=(5, 4), stride=(3, 3)), lambda *n: seen.append(n)
    )
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match=r"between 1 and the tile size 4, got"):
        tiling.encode_tiled(area_mean, VIDEO, 8, Tiles(size=(4, 4), stride=(4, stride)))


def test_a_size_that_is_no_multiple_of_a_cell_is_refused():
    with pytest.raises(ValueError, match=r"divisible by 8, got 60 x 80"):
        tiling.encode_tiled(area_mean, VIDEO[:, :, :60], 8, Tiles(size=(4, 4), stride=(4, 4)))


def test_a_tile_that_ends_at_the_border_does_not_fade_there():
    """Alone that would not be seen; beside tiles of the other axis it would shift their shares."""
    assert [span.ramps for span in tiling.spans(4, 4, 2)] == [(0, 0)]
    assert [span.ramps for span in tiling.spans(6, 4, 2)] == [(0, 2), (2, 0)]
    assert tiling.spans(6, 4, 2)[1].weights().tolist() == [0.5, 1, 1, 1]


def test_tiles_are_those_of_their_own_axis_row_by_row():
    found = [
        (r.start, r.stop, c.start, c.stop)
        for r, c in tiling.tiles((6, 5), Tiles(size=(4, 3), stride=(2, 2)))
    ]
    assert found == [(0, 4, 0, 3), (0, 4, 2, 5), (2, 6, 0, 3), (2, 6, 2, 5)]


def test_where_four_tiles_meet_each_weighs_the_lesser_of_its_two_ramps():
    """§3.5 of pusa-v1.md: the minimum of two ramps, not their product."""
    brightness = iter([1.0, 0.0, 0.0, 0.0])

    def encode_tile(pixels):
        return np.full((1, 1, 4, 4, 1), next(brightness), np.float32)

    video = np.zeros((1, 1, 48, 48, 3), np.float32)
    first = tiling.encode_tiled(encode_tile, video, 8, Tiles(size=(4, 4), stride=(2, 2)))[
        0, 0, :, :, 0
    ]
    falling, rising = [1.0, 0.5], [0.5, 1.0]
    for i, j in itertools.product(range(2), range(2)):
        weights = [min(a[i], b[j]) for a in (falling, rising) for b in (falling, rising)]
        assert first[2 + i, 2 + j] == pytest.approx(weights[0] / sum(weights))


@pytest.mark.parametrize("tile, stride", [((5, 4), (2, 3)), ((4, 6), (4, 1))])
def test_height_and_width_of_tile_and_stride_are_told_apart(tile, stride):
    seen = []

    def encode_tile(pixels):
        seen.append(pixels.shape[2:4])
        return area_mean(pixels)

    tiling.encode_tiled(encode_tile, VIDEO, 8, Tiles(size=tile, stride=stride))
    grid = tiling.tiles((8, 10), Tiles(size=tile, stride=stride))
    assert seen == [(8 * (r.stop - r.start), 8 * (c.stop - c.start)) for r, c in grid]
    rows, columns = (starts(*axis) for axis in zip((8, 10), tile, stride, strict=True))
    assert [(r.start, c.start) for r, c in grid] == [*itertools.product(rows, columns)]


def test_progress_of_decoding_counts_every_tile():
    seen = []
    latents = np.zeros((1, 1, 8, 10, 3), np.float32)
    tiling.decode_tiled(
        enlarge, latents, 8, Tiles(size=(5, 4), stride=(3, 3)), lambda *n: seen.append(n)
    )
    assert seen == [(i, 6) for i in range(1, 7)]


def test_a_width_that_is_no_multiple_of_a_cell_is_refused():
    with pytest.raises(ValueError, match=r"divisible by 8, got 64 x 76"):
        tiling.encode_tiled(area_mean, VIDEO[:, :, :, :76], 8, Tiles(size=(4, 4), stride=(4, 4)))


def test_a_frame_without_tiles_is_refused():
    with pytest.raises(ValueError, match=r"no tile to blend for a frame of \(4, 4\) cells"):
        tiling.blend([], (4, 4))
