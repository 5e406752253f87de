"""What a video holds of its given frames and pieces."""

import dataclasses

import numpy as np
import pytest
from made_jobs import CONFIGS, model_of

from pusa_jax.diffusion import tasks
from pusa_jax.inference.layout import Layout, joints, layout_of, pixels_of
from pusa_jax.models.families import preset
from pusa_jax.models.latte.family import LATTE

FRAME = np.zeros((8, 8, 3), np.uint8)


def test_the_layout_has_places_in_order_with_their_multipliers():
    conditions = tasks.interpolate([FRAME, FRAME, FRAME], 9, (8, 0, 4), (0.5, 0.1, 0.3))
    found = layout_of(conditions, model_of(CONFIGS), None)
    assert found == Layout(stride=4, fps=16.0, at=(0, 4, 8), multipliers=(0.1, 0.3, 0.5))
    assert layout_of([], model_of(CONFIGS), None).at == ()


def test_a_clip_in_pieces_has_their_length():
    configs = dataclasses.replace(CONFIGS, dit=preset("fvdm-xl-2-ucf101").dit)
    configs = dataclasses.replace(configs, vae=preset("fvdm-xl-2-ucf101").vae)
    model = model_of(configs)
    model.folder.family = LATTE
    assert layout_of([], model, 8).piece == 16
    assert layout_of([], model, None).piece is None


def test_pixels_of_latent_frames_lie_side_by_side():
    assert [list(pixels_of(place, 4)) for place in range(3)] == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert [list(pixels_of(place, 1)) for place in range(3)] == [[0], [1], [2]]


def test_pieces_begin_where_the_one_before_has_ended():
    cut = Layout(stride=1, fps=8.0, piece=16)
    assert joints(cut, 8, 40) == [16, 24, 32]
    assert joints(cut, 4, 28) == [16]
    assert joints(cut, 4, 29) == [16, 28]
    assert joints(Layout(stride=4, fps=16.0, piece=3), 1, 20) == [9, 17]
    assert joints(cut, None, 40) == joints(Layout(stride=1, fps=8.0), 8, 40) == []
    assert joints(cut, 16, 40) == joints(cut, 0, 40) == []


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"fps": 0.0}, {"fps": 1001.0}, {"at": (1,)}])
def test_layouts_of_no_clip_are_refused(wrong):
    with pytest.raises(ValueError, match="no clip is laid out like this"):
        Layout(**({"stride": 4, "fps": 16.0} | wrong))
    Layout(stride=1, fps=1000.0)
