"""The tiny FVDM: its world, its autoencoder's centring, and the command from nothing to clips."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tiny_fvdm import autoencoder, checking, world
from pusa_jax.models.latte.vae import decode_first, moments
from pusa_jax.testing.compare import assert_close

SCENE = world.Scene(label=4, phase=5.0, aside=16.0)


def test_a_disc_goes_along_the_axis_of_its_class_at_one_speed_and_turns_at_the_edge():
    x, y = SCENE.places(64).T
    steps = np.abs(np.diff(y))
    assert (x == 16).all() and world.LOW <= y.min() < y.max() <= world.HIGH
    assert (steps <= world.SPEED + 1e-9).all() and np.median(steps) == pytest.approx(world.SPEED)
    assert y.min() < world.LOW + 1 and y.max() > world.HIGH - 1


def test_a_true_clip_is_seen_as_one():
    clip = world.render(SCENE, 16)
    assert checking.in_words(clip, 4) == "100% whole, 100% of its colour, 100% steady"
    assert checking.in_words(clip, None) == "100% whole, 100% of its colour, 100% steady"


def test_a_wrong_clip_is_not_seen_as_right():
    clip = world.render(SCENE, 16)
    assert checking.in_words(clip, 1) == "100% whole, 100% of its colour, 0% steady"
    assert checking.in_words(clip, 3) == "100% whole, 0% of its colour, 100% steady"
    empty = np.full_like(clip, 8)
    assert checking.in_words(empty, 4) == "0% whole, 0% of its colour, 0% steady"


def test_centring_moves_latents_and_leaves_pictures():
    leaves, mean = autoencoder.start_values(0), np.asarray([1.0, -2.0, 3.0, 0.5], np.float32)
    moved = autoencoder.centred(leaves, mean)
    frames = jax.random.uniform(jax.random.key(0), (1, 1, 8, 8, 3), minval=-1)
    of = [moments(autoencoder.network(x), frames)[0] for x in (leaves, moved)]
    assert_close(of[1], of[0] - jnp.asarray(mean), 1e-5)
    pictures = [
        decode_first(autoencoder.network(x), latents)[0]
        for x, latents in zip((leaves, moved), of, strict=True)
    ]
    assert_close(pictures[1], pictures[0], 1e-5)


@pytest.mark.long
def test_the_command_trains_writes_and_makes_clips(tmp_path):
    command = [sys.executable, "-m", "experiments.tiny_fvdm", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("fvdm.pt", "config.json", "vae/config.json", "clips/class-0.mp4", "clips/i2v.mp4"):
        assert (tmp_path / name).is_file(), name
    assert f"{tmp_path / 'clips' / 'i2v'}.mp4: " in done.stdout
    assert f"pusa-jax t2v --model {tmp_path} --label 2" in done.stdout
