"""Pictures and prompts that are not of the tiny model's world are called so."""

import numpy as np
import pytest

from pusa_jax.demo.words import EXAMPLE, is_of_the_world, oddities
from pusa_jax.demo.world import NARROW, WIDE, draw, render
from pusa_jax.media.pictures import fit

SIZE = WIDE.size


def seen(picture):
    """A picture of any size as a task gives it to the model."""
    return fit(np.asarray(picture, np.uint8), SIZE, SIZE, "crop")


@pytest.mark.parametrize("world", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("scale", [1, 8], ids=["as made", "as written"])
def test_first_frames_of_the_world_are_of_it(world, scale):
    for i in range(40):
        scene = draw(world, 5, i)
        frame = render(scene)[0].repeat(scale, axis=0).repeat(scale, axis=1)
        assert is_of_the_world(seen(frame)), scene.caption


@pytest.mark.parametrize("size", [SIZE, 128, 512])
def test_noise_is_not_of_the_world_however_large(size):
    """Made smaller, noise is grey."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    assert not is_of_the_world(seen(noise))


def test_a_plain_or_shaded_surface_without_a_shape_is_not_of_the_world():
    grey = np.full((SIZE, SIZE, 3), 128)
    shaded = grey + np.linspace(-40, 40, SIZE)[:, None, None]
    assert not is_of_the_world(seen(grey)) and not is_of_the_world(seen(shaded))


def test_two_shapes_or_one_that_fills_the_picture_are_not_of_the_world():
    first, last = (render(draw(NARROW, 0, 0))[i] for i in (0, -1))
    one = first if first[:, : SIZE // 2].sum() > last[:, : SIZE // 2].sum() else last
    two = np.concatenate([one[:, : SIZE // 2], one[:, : SIZE // 2]], axis=1)
    large = np.full((SIZE, SIZE, 3), 8)
    large[4:-4, 4:-4] = (224, 48, 48)
    assert is_of_the_world(one)
    assert not is_of_the_world(seen(large))
    assert not is_of_the_world(seen(np.concatenate([two, two])))


def test_every_odd_thing_has_its_own_line():
    noise = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    assert not list(oddities(EXAMPLE, [render(draw(WIDE, 5, 0))[:1]]))
    lines = list(oddities("a cat", [noise]))
    assert len(lines) == 2 and "'a cat'" in lines[0] and "noise" in lines[1]
