"""The tiny FVDM: its world, its autoencoder's centring, and the command from nothing to clips."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tiny_fvdm import autoencoder, checking, judging, world
from pusa_jax.testing.compare import assert_close

SCENE = world.Scene(label=4, phase=5.0, aside=16.0)


def test_a_disc_goes_along_the_axis_of_its_class_at_one_speed_and_turns_at_the_edge():
    x, y = SCENE.places(64).T
    steps = np.abs(np.diff(y))
    assert (x == 16).all() and world.LOW <= y.min() < y.max() <= world.HIGH
    assert (steps <= world.SPEED + 1e-9).all() and np.median(steps) == pytest.approx(world.SPEED)
    assert y.min() < world.LOW + 1 and y.max() > world.HIGH - 1


def seen(clip, label):
    return checking.in_words(checking.shares(clip, label))


def test_a_true_clip_is_seen_as_one():
    clip = world.render(SCENE, 16)
    assert seen(clip, 4) == "100% whole, 100% of its colour, 100% steady"
    assert seen(clip, None) == "100% whole, 100% of its colour, 100% steady"


def test_a_wrong_clip_is_not_seen_as_right():
    clip = world.render(SCENE, 16)
    assert seen(clip, 1) == "100% whole, 100% of its colour, 0% steady"
    assert seen(clip, 3) == "100% whole, 0% of its colour, 100% steady"
    empty = np.full_like(clip, 8)
    assert seen(empty, 4) == "0% whole, 0% of its colour, 0% steady"


def test_several_clips_of_a_kind_are_of_other_scenes_and_judged_together():
    chosen = judging.repeated(2, ["i2v", "plain"])
    assert [*chosen] == ["plain.0", "i2v.0", "plain.1", "i2v.1"]
    assert not np.array_equal(*(chosen[f"i2v.{i}"].inputs[0] for i in range(2)))
    found = {"plain.0": {"whole": 1.0}, "i2v.0": {"whole": 0.0}, "plain.1": {"whole": 0.5}}
    lines = ["| clip | whole |", "|---|---|", "| plain | 75% |", "| i2v | 0% |"]
    assert judging.table(found).splitlines() == lines


def test_centring_moves_latents_and_leaves_what_the_decoder_gets():
    rng, z = np.random.default_rng(0), autoencoder.VAE.z_dim
    shapes = {"quantise/kernel": (8, 2 * z), "quantise/bias": (2 * z,)}
    shapes |= {"unquantise/kernel": (z, z), "unquantise/bias": (z,)}
    leaves = {path: jnp.asarray(rng.standard_normal(shape)) for path, shape in shapes.items()}
    mean, seen = rng.standard_normal(z), rng.standard_normal((5, 8))

    def linear(leaves, name, x):
        kernel, bias = (np.asarray(leaves[f"{name}/{part}"]) for part in ("kernel", "bias"))
        return x @ kernel + bias

    moved = autoencoder.centred(leaves, mean)
    before, after = (linear(x, "quantise", seen) for x in (leaves, moved))
    assert_close(after, before - np.append(mean, np.zeros(z)), 1e-5)
    decoded = [
        linear(x, "unquantise", latents[:, :z]) for x, latents in ((leaves, before), (moved, after))
    ]
    assert_close(decoded[1], decoded[0], 1e-5)


@pytest.mark.long
def test_the_command_trains_writes_and_makes_clips(tmp_path):
    command = [sys.executable, "-m", "experiments.tiny_fvdm", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("fvdm.pt", "config.json", "vae/config.json", "clips/class-0.mp4", "clips/i2v.mp4"):
        assert (tmp_path / name).is_file(), name
    assert f"{tmp_path / 'clips' / 'i2v'}.mp4: " in done.stdout
    assert f"pusa-jax t2v --model {tmp_path} --label 2" in done.stdout
