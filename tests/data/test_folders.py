"""Folders as the published sets have them: which videos and classes, and which frames are read."""

import numpy as np
import pytest
from PIL import Image

from pusa_jax.data import windows
from pusa_jax.data.folders import (
    LAYOUTS,
    PUBLISHED,
    FolderConfig,
    found,
    look,
    numbered,
    reader,
)
from pusa_jax.media import crops, video

VIDEOS = ("faceforensics", "ucf101")
FRAMES = ("skytimelapse", "taichi")


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def levels(count, height=16, width=16):
    """Frames that tell their numbers: grey levels 5 apart, brighter to the left."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (5 * np.arange(count))[:, None, None, None]
    frames[:, :, : width // 2] += 2
    return frames


def pictures(folder, frames, name="f_{:03d}.png"):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(number))


def listing(src, layout, **how):
    return found(src, FolderConfig(layout=layout, **how))


def test_every_video_of_the_tree_gives_its_windows(tmp_path):
    touch(tmp_path, "b.mp4", "deep/er/a.AVI", "notes.txt", ".hidden/c.mp4", "deep/._a.AVI", "p.png")
    videos = listing(tmp_path, "faceforensics", windows=2)
    assert list(videos.names) == ["b.mp4", "deep/er/a.AVI"] and videos.classes == ()
    names = ["b.mp4#0", "b.mp4#1", "deep/er/a.AVI#0", "deep/er/a.AVI#1"]
    assert [(clip.number, clip.name) for clip in videos.clips] == list(enumerate(names))
    assert {clip.caption for clip in videos.clips} == {""}
    assert [videos.of(clip) for clip in videos.clips[1:3]] == [("b.mp4", 1), ("deep/er/a.AVI", 0)]


def test_the_caption_is_the_place_of_the_class_among_the_sorted_folders(tmp_path):
    touch(tmp_path, "YoYo/v.avi", "Archery/v.avi", "Archery/w.avi", "apple/v.avi", "list.txt")
    (tmp_path / "Basketball").mkdir()  # has no videos here, and its number all the same
    videos = listing(tmp_path, "ucf101")
    assert videos.classes == ("Archery", "Basketball", "YoYo", "apple")
    assert {clip.name: clip.caption for clip in videos.clips} == {
        "Archery/v.avi#0": "0", "Archery/w.avi#0": "0", "YoYo/v.avi#0": "2", "apple/v.avi#0": "3"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["v.avi", "Archery/group/v.avi"])
def test_a_video_outside_the_classes_is_named(tmp_path, name):
    touch(tmp_path, "Archery/v.avi", name)
    with pytest.raises(
        ValueError, match=f"'{name}' lies in no folder of a class; ucf101 has CLASS/"
    ):
        listing(tmp_path, "ucf101")


def test_every_folder_with_pictures_is_a_video(tmp_path):
    touch(tmp_path, "x/1/a_1.jpg", "x/2/a_1.png", "y/a_1.JPG", "z/notes.txt", ".t/a_1.jpg")
    for layout in FRAMES:
        videos = listing(tmp_path, layout)
        assert list(videos.names) == ["x/1", "x/2", "y"]
        assert {clip.caption for clip in videos.clips} == {""} and videos.classes == ()


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    touch(tmp_path, "f_10.jpg", "f_9.jpg", "video7_frame_00000011.3.png", "cover.txt", "f8.jpeg")
    names = [path.name for path in numbered(tmp_path)]
    assert names == ["f8.jpeg", "f_9.jpg", "f_10.jpg", "video7_frame_00000011.3.png"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [(("a.jpg", "a_1.jpg"), "'a.jpg' has no number"), (("1.jpg", "01.png"), "of the same number")],
)
def test_pictures_whose_order_is_not_known_are_refused(tmp_path, names, reason):
    with pytest.raises(ValueError, match=reason):
        numbered(touch(tmp_path, *names))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_kind_is_refused_in_one_line(tmp_path, layout):
    other = "p/1.jpg" if layout in VIDEOS else "c/v.mp4"
    fitting = "skytimelapse, taichi" if layout in VIDEOS else "faceforensics, ucf101"
    cases = [
        (tmp_path / "none", FileNotFoundError, "does not exist"),
        (touch(tmp_path, "file") / "file", ValueError, "is a file"),
        (touch(tmp_path / "empty", "x.txt"), FileNotFoundError, f"which {layout} reads.$"),
        (touch(tmp_path / "other", other), FileNotFoundError, f"which {layout} .* try {fitting}.$"),
    ]
    for src, kind, reason in cases:
        with pytest.raises(kind, match=reason) as caught:
            listing(src, layout)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"windows": 0}, "at least 1, got 0 and 3"), ({"interval": -1}, "at least 1, got 1 and -1")],
)
def test_settings_that_make_no_sense_are_refused(how, reason):
    with pytest.raises(ValueError, match=reason):
        FolderConfig(layout="taichi", **how)


def test_sets_are_cropped_and_mirrored_as_published():
    published = {
        "faceforensics": (crops.short_side_then_cut, True, windows.spread),
        "ucf101": (crops.short_side_then_cut, True, windows.spread),
        "skytimelapse": (crops.cut_then_scale, False, windows.strided),
        "taichi": (crops.as_they_are, True, windows.strided),
    }
    assert {k: (x.crop, x.is_flipped, x.indices) for k, x in LAYOUTS.items()} == published
    least = {name: layout.least(16, 3) for name, layout in LAYOUTS.items()}
    assert least == {"faceforensics": 16, "ucf101": 16, "skytimelapse": 49, "taichi": 46}
    assert PUBLISHED == {"height": 256, "width": 256, "num_frames": 16}


@pytest.mark.parametrize(
    ("interval", "rate"), [(1, "as in the sources"), (2, "one of 2 frames of the sources")]
)
def test_the_card_says_how_videos_became_clips(tmp_path, interval, rate):
    videos = listing(touch(tmp_path, "b/v.mp4", "a/v.mp4"), "ucf101", interval=interval, windows=4)
    layout = {"layout": "ucf101", "windows": 4, "interval": interval}
    assert videos.says() == {"frame_rate": rate, "layout": layout, "classes": ("a", "b")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clip_has_the_frames_of_its_window_mirrored_where_the_set_is(tmp_path, layout):
    frames = levels(40)
    if layout in VIDEOS:
        name = "c/v.mp4"
        video.write_video(tmp_path / name, frames, 25)
        frames = video.read_video(tmp_path / name)[0]
    else:
        name = "c"
        pictures(tmp_path / name, frames)
    videos = listing(tmp_path, layout, windows=12, interval=2)
    read, flips = reader(videos, 6, 16), set()
    for number, clip in enumerate(videos.clips):
        drawn = windows.draw(name, number, 40, 12)
        wanted = frames[LAYOUTS[layout].indices(drawn.begin, 40, 6, 2)]
        is_mirrored = drawn.is_flipped and layout != "skytimelapse"
        flips.add(is_mirrored)
        np.testing.assert_array_equal(read(clip), wanted[:, :, ::-1] if is_mirrored else wanted)
    assert flips == ({False} if layout == "skytimelapse" else {False, True})


def test_mirroring_comes_before_a_crop_that_is_not_even(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 21, 3), np.uint8)
    pictures(tmp_path / "v", frames)
    videos = listing(tmp_path, "skytimelapse", interval=1, windows=8)
    read = reader(videos, 8, 16)
    np.testing.assert_array_equal(read(videos.clips[0]), frames[:8, :, 2:18])
    odd = video.read_video(written(tmp_path / "odd" / "v.mp4", frames[:, :, :20]))[0]
    videos = listing(tmp_path / "odd", "faceforensics", interval=1, windows=8)
    flipped = next(c for c in videos.clips if windows.draw("v.mp4", c.number, 9, 8).is_flipped)
    wanted = crops.short_side_then_cut(odd[:8, :, ::-1], 12)
    np.testing.assert_array_equal(reader(videos, 8, 12)(flipped), wanted)


def written(path, frames):
    path.parent.mkdir(parents=True)
    video.write_video(path, frames, 25)
    return path


def test_what_is_read_depends_neither_on_the_order_nor_on_the_place_of_the_folder(tmp_path):
    for place in ("one", "two"):
        written(tmp_path / place / "c" / "v.mp4", levels(30))
        written(tmp_path / place / "d" / "w.mp4", levels(25))
    first, second = (listing(tmp_path / place, "ucf101", windows=3) for place in ("one", "two"))
    forwards = [reader(first, 4, 16)(clip) for clip in first.clips]
    read = reader(second, 4, 16)
    backwards = [read(clip) for clip in reversed(second.clips)][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    # Others beside it, or more windows of each, change no window there was.
    written(tmp_path / "two" / "a" / "u.mp4", levels(25))
    third = listing(tmp_path / "two", "ucf101", windows=4)
    read = reader(third, 4, 16)
    same = {clip.name: read(clip) for clip in third.clips}
    np.testing.assert_array_equal(forwards, [same[clip.name] for clip in first.clips])


@pytest.mark.parametrize(("layout", "least"), [("skytimelapse", 13), ("taichi", 10)])
def test_short_folders_of_frames_are_named_with_what_they_need(tmp_path, layout, least):
    for count in (least - 1, least):
        pictures(tmp_path / f"{count}", levels(count))
    videos = listing(tmp_path, layout)
    seen = {clip.name: rate for clip, rate in look(videos, 4)}
    read = reader(videos, 4, 16)
    for clip in videos.clips:
        if clip.name == f"{least}#0":
            assert len(read(clip)) == 4 and seen[clip.name] == 0
        else:
            reason = f"has {least - 1} frames; clips of 4 at an interval of 3 need {least}"
            with pytest.raises(ValueError, match=reason):
                read(clip)
            assert reason in str(seen[clip.name])


def test_a_video_file_shorter_than_a_window_is_taken_whole(tmp_path):
    for count in (3, 4, 7):
        video.write_video(tmp_path / f"{count}.mp4", levels(count), 25)
    videos = listing(tmp_path, "faceforensics")
    read = reader(videos, 4, 16)
    short, least, more = videos.clips
    with pytest.raises(ValueError, match=r"3\.mp4 has 3 frames; clips of 4 .* need 4"):
        read(short)
    for clip, indices in ((least, [0, 1, 2, 3]), (more, [0, 2, 4, 6])):
        name, number = videos.of(clip)
        stored = video.read_video(tmp_path / name)[0][indices]
        is_mirrored = windows.draw(name, number, len(stored), 12).is_flipped
        np.testing.assert_array_equal(read(clip), stored[:, :, ::-1] if is_mirrored else stored)
    rates = [rate for _, rate in look(videos, 4)]
    assert "3 frames" in str(rates[0]) and rates[1:] == [25, 25]


def test_pictures_that_do_not_fit_together_or_the_set_are_named(tmp_path):
    pictures(tmp_path / "two" / "v", levels(12))
    Image.new("RGB", (20, 16)).save(tmp_path / "two" / "v" / "f_009.png")
    pictures(tmp_path / "broken" / "v", levels(12))
    (tmp_path / "broken" / "v" / "f_000.png").write_bytes(b"x")
    for src, size, reason in (
        ("two", 16, "its pictures are of two sizes, 16x16 and 16x20"),
        ("broken", 16, "f_000.png is damaged or not a picture"),
    ):
        videos = listing(tmp_path / src, "taichi")
        with pytest.raises(ValueError, match=reason):
            reader(videos, 4, size)(videos.clips[0])
        ((_, seen),) = look(videos, 4)  # which opens the first picture alone
        assert seen == 0 if src == "two" else "f_000.png is damaged" in str(seen)
    (clip,) = (videos := listing(tmp_path / "two", "taichi", interval=4)).clips
    (tmp_path / "two" / "v" / "f_009.png").unlink()
    with pytest.raises(ValueError, match="its frames are 16x16, this set is not cropped"):
        reader(videos, 2, 32)(clip)


def test_a_video_is_counted_once_for_all_its_windows(tmp_path, monkeypatch):
    length, counted = video.video_length, []
    for name in ("a.mp4", "b.mp4"):
        video.write_video(tmp_path / name, levels(6), 30000 / 1001)

    def count(path):
        counted.append(path.name)
        return length(path)

    monkeypatch.setattr(video, "video_length", count)
    videos = listing(tmp_path, "faceforensics", windows=3)
    assert [rate for _, rate in look(videos, 4)] == [29.97] * 6
    read = reader(videos, 4, 16)
    for clip in videos.clips:
        read(clip)
    assert counted == ["a.mp4", "b.mp4"]
