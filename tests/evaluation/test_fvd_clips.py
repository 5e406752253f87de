"""Which frames of which videos are looked at."""

import numpy as np
import pytest
from clips import write
from PIL import Image

from pusa_jax.evaluation import clips
from pusa_jax.evaluation.clips import Clip, Video, choose, indices, read, videos_in


def still(value, height=32, width=32):
    return np.full((height, width, 3), value, np.uint8)


def pictures(folder, count, names="{:04}.png"):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(still(3 * i)).save(folder / names.format(i))


def film(path, count):
    """A video whose n-th frame is as bright as 3 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, np.stack([still(3 * i) for i in range(count)]))


@pytest.fixture
def folder(tmp_path):
    film(tmp_path / "videos/b/one.mp4", 20)
    film(tmp_path / "videos/a.avi", 12)
    pictures(tmp_path / "videos/c", 15)
    pictures(tmp_path / "videos/.hidden", 40)
    (tmp_path / "videos/notes.txt").write_text("of no video")
    Image.fromarray(still(0)).save(tmp_path / "videos/b/sheet.png")
    return tmp_path / "videos"


def test_files_and_folders_of_frames_are_videos_in_the_order_of_their_names(folder):
    found = videos_in(folder)
    assert [one.name for one in found] == ["a.avi", "b/one.mp4", "c"]
    assert [one.length() for one in found] == [12, 20, 15]


def test_frames_without_leading_zeros_keep_their_order(tmp_path):
    pictures(tmp_path / "v/a", 12, "f{}.png")
    (only,) = videos_in(tmp_path / "v")
    assert only.frames[:3] == ("f0.png", "f1.png", "f2.png") and only.frames[-1] == "f11.png"


def test_short_videos_are_left_out(folder):
    chosen = choose(folder, 2, frames=5, interval=3, seed=None)
    assert [clip.video.name for clip in chosen] == ["b/one.mp4", "c"]
    assert [clip.begin for clip in chosen] == [0, 0]


def test_too_few_videos_are_counted(folder):
    with pytest.raises(ValueError, match=r"has 2 videos of at least 15 frames \(1 more are short"):
        choose(folder, 3, frames=5, interval=3, seed=0)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="has 0 videos of at least 16 frames, 1 are needed"):
        choose(folder / "empty", 1, frames=16, interval=1, seed=0)


def test_no_more_videos_are_counted_than_needed(folder, monkeypatch):
    def refuse(self):
        assert self.name == "a.avi", self.name
        return 12

    monkeypatch.setattr(clips, "READERS", 1)
    monkeypatch.setattr(Video, "length", refuse)
    assert len(choose(folder, 1, frames=12, interval=1, seed=None)) == 1


def test_real_clips_begin_anywhere_up_to_where_the_last_frame_ends_the_video(tmp_path, monkeypatch):
    many = [Video(name=str(i), path=tmp_path, frames=("x",) * 50) for i in range(600)]
    monkeypatch.setattr(clips, "videos_in", lambda folder: many)
    chosen = choose(tmp_path, 600, frames=16, interval=3, seed=0)
    # 50 frames - 48 + 3 - 1 = 4: StyleGAN-V's randint(0, 4), both ends included.
    assert {clip.begin for clip in chosen} == {0, 1, 2, 3, 4}
    assert indices(4, 16, 3)[-1] == 49
    again = choose(tmp_path, 600, frames=16, interval=3, seed=0)
    other = choose(tmp_path, 600, frames=16, interval=3, seed=1)
    assert chosen == again and chosen != other


@pytest.mark.parametrize("place", [1, 2], ids=["file", "pictures"])
def test_a_clip_is_every_third_frame_from_where_it_begins(folder, place):
    found = read(Clip(video=videos_in(folder)[place], begin=2), 4, 3, 32)
    assert found.shape == (4, 32, 32, 3)
    assert np.abs(found.mean(axis=(1, 2, 3)) - 3 * np.array([2, 5, 8, 11])).max() < 1.5


def test_frames_of_another_size_are_cut_to_a_square(tmp_path):
    wide = np.concatenate([still(0, 32, 16), still(200, 32, 32), still(0, 32, 16)], axis=1)
    write(tmp_path / "w.mp4", np.stack([wide] * 3))
    found = read(Clip(video=videos_in(tmp_path)[0], begin=0), 3, 1, 16)
    assert found.shape == (3, 16, 16, 3) and found[:, 4:-4, 4:-4].min() > 180


def test_what_is_no_folder_or_no_video_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of videos .*none: it is not there"):
        videos_in(tmp_path / "none")
    (tmp_path / "v.mp4").write_bytes(b"nothing")
    with pytest.raises(FileNotFoundError, match="it is a file"):
        videos_in(tmp_path / "v.mp4")
    with pytest.raises(ValueError, match=r"v\.mp4 is damaged or not a video"):
        choose(tmp_path, 1, frames=9, interval=1, seed=None)


def test_a_video_that_takes_the_place_of_another_is_told_apart(folder):
    (one, *_, frames) = videos_in(folder)
    before = one.state(), frames.state()
    film(one.path, 13)
    Image.fromarray(still(9)).save(frames.path / "0003.png")
    assert one.state() != before[0] and frames.state() != before[1]
