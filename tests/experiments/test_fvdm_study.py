"""What the study of FVDM sees in clips, on true ones and on ones that are wrong in one way."""

import dataclasses

import numpy as np
import pytest

from experiments.tiny.fvdm import codec, measuring, world
from experiments.tiny.fvdm.training import FRAMES

pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")
from experiments.tiny.fvdm.run import by_task

SCENES = [world.draw(0, i) for i in range(4)]
TRUE = np.stack([world.render(scene, 2 * FRAMES) for scene in SCENES])


@pytest.fixture(scope="module")
def seen():
    return measuring.see(TRUE)


def test_a_scene_never_leaves_the_frame_and_keeps_its_speed_but_where_it_turns():
    places = SCENES[0].places(400)
    assert places.min() >= world.LOW and places.max() <= world.HIGH
    steps = np.abs(np.diff(places[:, 0]))
    assert (steps <= world.SPEED + 1e-9).all()
    assert (steps > world.SPEED - 1e-9).mean() > 0.9


def test_a_long_scene_goes_on_where_a_short_one_ends():
    np.testing.assert_array_equal(SCENES[1].places(64)[:16], SCENES[1].places(16))


def test_true_clips_are_whole_on_their_path_and_steady(seen):
    assert measuring.coherent(seen) == {"coherent": 1.0}
    assert measuring.from_truth(seen, measuring.truth_of(SCENES, 32)).max() < 0.1
    assert measuring.from_rule(seen).max() < 0.2
    later = range(1, 32)
    assert measuring.from_rule_through(seen.frames(later), SCENES, later).max() < 0.1
    assert measuring.drift(seen.frames(slice(16)), seen.frames(slice(16, 32))) < 1
    assert abs(measuring.speed(seen) - world.SPEED) < 0.05
    assert abs(measuring.seam(seen, [16, 24])) < 0.1


def test_the_way_back_is_as_right_as_the_way_on_where_one_frame_is_given():
    back = [dataclasses.replace(scene, phase=-scene.phase) for scene in SCENES]
    seen = measuring.see(np.stack([world.render(scene, FRAMES) for scene in back]))
    later = range(1, FRAMES)
    assert measuring.from_rule_through(seen.frames(later), SCENES, later).max() < 0.1
    true = measuring.truth_of(SCENES, FRAMES)
    assert measuring.from_truth(seen, true).max() > 1


def test_a_standing_object_is_off_the_path():
    seen = measuring.see(np.repeat(TRUE[:, :1], FRAMES, axis=1))
    assert measuring.from_rule(seen).min() > 0.5 and measuring.speed(seen) == 0


def test_a_frame_without_an_object_is_half_a_frame_away_and_not_whole():
    empty = measuring.see(np.full_like(TRUE, 8))
    assert measuring.coherent(empty) == {"coherent": 0.0}
    truth = measuring.truth_of(SCENES, 32)
    np.testing.assert_array_equal(measuring.from_truth(empty, truth), measuring.LOST)
    assert np.isfinite(measuring.features(empty)).all()


def test_a_jump_is_seen_at_the_seam_where_it_is():
    jumped = np.concatenate([TRUE[:, :16], np.roll(TRUE[:, 16:], 5, axis=2)], axis=1)
    seen = measuring.see(jumped)
    assert measuring.seam(seen, [16]) > 1 and measuring.seam(seen, [8]) < 0.1


def test_a_changed_colour_is_a_drift_and_a_distance_from_the_true_one(seen):
    other = [dataclasses.replace(scene, colour=scene.colour[::-1]) for scene in SCENES]
    changed = np.stack([world.render(scene, 32) for scene in other])
    gap = np.median([np.linalg.norm(s.colour[::-1] - s.colour) for s in SCENES])
    made = measuring.see(changed)
    assert abs(measuring.from_colour(made, seen) - gap) < 2
    joined = measuring.see(np.concatenate([TRUE[:, :16], changed[:, 16:]], axis=1))
    assert abs(measuring.drift(joined.frames(slice(16)), joined.frames(slice(16, 32))) - gap) < 2


def test_the_frechet_distance_of_clips_from_themselves_is_nothing(seen):
    assert measuring.frechet_distance(seen, seen) == pytest.approx(0, abs=1e-4)
    assert measuring.frechet_distance(seen, measuring.see(np.full_like(TRUE, 8))) > 1


def test_the_codec_of_frames_keeps_the_disc_whole():
    fitted = codec.fit(TRUE)
    latents = fitted.encode(TRUE)
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(fitted.encode(TRUE[:, 5:6]), latents[:, 5:6], atol=1e-5)
    assert measuring.coherent(measuring.see(fitted.decode(latents)))["coherent"] > 0.9


def test_measures_are_told_apart_by_task():
    rows = [{"plain: speed": 1.0, "long 64: speed": 2.0, "long 64: seam": 3.0}]
    assert by_task(rows) == {"plain": [{"speed": 1.0}], "long 64": [{"speed": 2.0, "seam": 3.0}]}
