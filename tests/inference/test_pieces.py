"""A long clip in pieces: how it is cut, what is carried over, what is refused."""

import numpy as np
import pytest

from pusa_jax.inference.pieces import Pieces, carried, check_given, sample_pieces, seed_of


def made(pieces):
    """Samples pieces whose latents say which piece and place they are; what each began with."""
    begun = []

    def sample(number, given):
        latents = np.full((1, pieces.frames, 1, 1, 1), 100.0 * number)
        latents += np.arange(pieces.frames).reshape(1, -1, 1, 1, 1)
        for condition in given or ():
            latents[:, condition.index] = np.asarray(condition.latents)[:, 0]
        begun.append(None if given is None else [c.index for c in given])
        return latents

    return np.concatenate(list(sample_pieces(sample, pieces)), axis=1).ravel(), begun


def test_fifteen_pieces_with_eight_carried_over_make_128_frames():
    pieces = Pieces(frames=16, overlap=8, total=128)
    clip, begun = made(pieces)
    assert pieces.count == 15
    assert len(clip) == 128
    assert begun == [None] + [[*range(8)]] * 14


def test_a_piece_begins_with_the_end_of_the_one_before_in_its_order():
    clip, _ = made(Pieces(frames=4, overlap=1, total=10))
    assert clip.tolist() == [0, 1, 2, 3, 101, 102, 103, 201, 202, 203]
    (only,) = carried(np.arange(4.0).reshape(1, 4, 1, 1, 1), 1)
    assert (only.index, only.multiplier, float(only.latents.squeeze())) == (0, 0.0, 3.0)


def test_frames_beyond_the_length_asked_for_are_left_out():
    clip, begun = made(Pieces(frames=4, overlap=2, total=7))
    assert clip.tolist() == [0, 1, 2, 3, 102, 103, 202]
    assert len(begun) == 3


@pytest.mark.parametrize("overlap", [0, 16, 17])
def test_pieces_that_overlap_by_nothing_or_everything_are_refused(overlap):
    with pytest.raises(ValueError, match=rf"1 to 15 of the one before, got {overlap}\."):
        Pieces(frames=16, overlap=overlap, total=32)


@pytest.mark.parametrize("total", [12, 16])
def test_a_clip_no_longer_than_a_piece_is_refused(total):
    with pytest.raises(ValueError, match=rf"more than the 16 frames of one, got {total}: say how"):
        Pieces(frames=16, overlap=8, total=total)


def test_frames_given_behind_the_first_piece_are_refused():
    pieces = Pieces(frames=16, overlap=8, total=32)
    check_given([0, 15], pieces)
    with pytest.raises(ValueError, match=r"places 0 to 15, got 16\."):
        check_given([0, 16], pieces)


def test_every_piece_has_noise_of_its_own_and_the_first_that_of_the_clip():
    seeds = [seed_of(seed, piece) for seed in (0, 1, 2) for piece in range(5)]
    assert [seed_of(seed, 0) for seed in (0, 1, 2)] == [0, 1, 2]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
