"""FVD of folders of videos: what is kept of a killed run, and what makes features other ones."""

import dataclasses

import numpy as np
import pytest
from small_fvd import CONFIG, write_network, write_videos

from pusa_jax.evaluation import clips, features, fvd
from pusa_jax.evaluation.features import Extractor
from pusa_jax.evaluation.frechet import distance, nothing, statistics
from pusa_jax.evaluation.fvd import FVDConfig, list_of, statistics_of
from pusa_jax.media.pictures import write_png

BATCH = 2
SETTINGS = FVDConfig(clips=11, frames=9, size=32, real_interval=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fvd")
    write_videos(folder / "real", [20, 17, *[22] * 10], seed=1)
    write_videos(folder / "generated", [9] * 12, seed=2)
    write_network(folder / "i3d.pt")
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """One program for all tests."""
    monkeypatch.setattr(features, "BATCH", BATCH)


@pytest.fixture(scope="module")
def extractor(world):
    return Extractor(world / "i3d.pt", size=32)


def found(world, extractor, work, what="real", settings=SETTINGS, on_progress=None):
    side = settings.side(what)
    chosen = side.choose(world / what)
    return statistics_of(side, chosen, extractor, work, on_progress or (lambda *_: None))


def test_the_network_is_read_with_its_sizes(extractor):
    assert extractor.config == CONFIG and extractor.width == 5


def test_statistics_are_those_of_the_chosen_clips(world, extractor, tmp_path):
    side = SETTINGS.side("real")
    chosen = side.choose(world / "real")
    assert len(chosen) == 11 and all(clip.video.name != "1.mp4" for clip in chosen)
    frames = np.stack([clips.read(clip, 9, 2, 32) for clip in chosen])
    pairs = [extractor(frames[i : i + 2]) for i in (0, 2, 4, 6, 8, 9)]
    expected = statistics(np.concatenate([*pairs[:-1], pairs[-1][1:]]))
    here = found(world, extractor, tmp_path)
    assert here.count == 11
    np.testing.assert_allclose(here.products, expected.products, rtol=1e-5)


def test_a_killed_run_goes_on_with_the_clips_that_are_missing(world, extractor, tmp_path):
    whole = found(world, extractor, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(stage, done, total):
        if done == BATCH:
            raise Killed

    with pytest.raises(Killed):
        found(world, extractor, tmp_path / "killed", on_progress=kill)
    (file,) = (tmp_path / "killed").iterdir()
    file.write_bytes(file.read_bytes() + b"half a record")
    computed = []
    again = found(
        world, extractor, tmp_path / "killed", on_progress=lambda s, d, n: computed.append(d)
    )
    assert computed == list(range(BATCH, 12))
    np.testing.assert_allclose(again.products, whole.products, rtol=1e-6)
    (other,) = (tmp_path / "whole").iterdir()
    assert file.name == other.name and len(file.read_bytes()) == len(other.read_bytes())


def test_what_is_kept_is_not_computed_again(world, extractor, tmp_path, monkeypatch):
    before = found(world, extractor, tmp_path)
    monkeypatch.setattr(fvd, "_read", lambda *_: pytest.fail("read again"))
    after = found(world, extractor, tmp_path)
    np.testing.assert_array_equal(before.products, after.products)


@pytest.mark.parametrize("change", ["seed", "interval", "network", "video"])
def test_features_of_something_else_are_computed_anew(world, extractor, tmp_path, change):
    work, settings, network = tmp_path / "work", SETTINGS, extractor
    before = found(world, extractor, work)
    match change:
        case "seed":
            settings = dataclasses.replace(settings, seed=1)
        case "interval":
            settings = dataclasses.replace(settings, real_interval=1)
        case "network":
            network = Extractor(write_network(tmp_path / "other.pt", seed=1), size=32)
        case "video":
            write_videos(tmp_path / "real", [22] * 12, seed=7)
            world = tmp_path
    after = found(world, network, work, settings=settings)
    assert len(list(work.iterdir())) == 2
    assert not np.array_equal(before.products, after.products)


def test_processes_share_the_clips(world, extractor, tmp_path, monkeypatch):
    whole = found(world, extractor, tmp_path / "whole")
    parts = []
    for index in range(2):
        monkeypatch.setattr(fvd.jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(fvd.jax, "process_count", lambda: 2)
        monkeypatch.setattr(fvd.processes, "gathered", lambda array: array[None])
        parts.append(found(world, extractor, tmp_path / "parts"))
    assert [part.count for part in parts] == [6, 5]
    np.testing.assert_allclose(parts[0].total + parts[1].total, whole.total, rtol=1e-6)
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_a_damaged_frame_is_named(extractor, tmp_path):
    for number in range(2):
        (tmp_path / f"v/{number}").mkdir(parents=True)
        for i in range(9):
            write_png(tmp_path / f"v/{number}/{i}.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "v/1/4.png").write_bytes(b"no picture")
    side = dataclasses.replace(SETTINGS, clips=2).side("generated")
    with pytest.raises(ValueError, match=r"1/4\.png is damaged"):
        statistics_of(side, side.choose(tmp_path / "v"), extractor, tmp_path / "work")


def test_a_process_without_a_clip_adds_nothing():
    part = nothing(3)
    assert part.count == 0 and part.products.shape == (3, 3)


def test_other_videos_are_further_away_than_the_same_ones(world, extractor, tmp_path):
    real = found(world, extractor, tmp_path)
    generated = found(world, extractor, tmp_path, "generated")
    assert distance(real, real) < 1e-9 < distance(real, generated)


def test_processes_that_see_other_videos_disagree(world, tmp_path):
    write_videos(tmp_path / "real", [30] * 12)
    side = SETTINGS.side("real")
    here, there = (list_of(side.choose(place / "real")) for place in (world, tmp_path))
    assert here == list_of(side.choose(world / "real")) != there
    assert list_of(dataclasses.replace(side, seed=1).choose(world / "real")) != here


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clips": 1}, "clips must be at least 2, got 1"),
        ({"real_clips": 0}, "real_clips must be at least 2, got 0"),
        ({"frames": 8}, "frames must be at least 9, got 8"),
        ({"real_interval": 0}, "real_interval must be at least 1"),
        ({"generated_interval": -1}, "generated_interval must be at least 1"),
        ({"size": 0}, "size must be at least 32"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_without_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FVDConfig(**fields)


def test_the_name_is_that_of_the_papers():
    assert FVDConfig().name == "fvd2048_16f"
    assert FVDConfig(clips=256, frames=128).name == "fvd256_128f"
    real, generated = (FVDConfig(real_clips=704).side(what) for what in ("real", "generated"))
    assert (real.clips, real.interval, real.seed) == (704, 3, 0)
    assert (generated.clips, generated.interval, generated.seed) == (2048, 1, None)
    assert (real.frames, real.size) == (generated.frames, generated.size) == (16, 256)
