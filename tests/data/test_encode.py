"""Encoding: whatever interrupts it and however it is shared, the same bytes result."""

import argparse
import csv
import itertools
import json
import os
import shutil
import threading
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("grain", reason="needs the extra [train]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")

from pusa_jax.cli.data import add_data_arguments, add_encode_arguments
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data import writing
from pusa_jax.data.encode import EncodeConfig, read_frames
from pusa_jax.data.encoded import Card, EncodedClips, Example
from pusa_jax.data.lists import Clip, fingerprint, read_clips
from pusa_jax.inference.networks import LoadedNetwork
from pusa_jax.inference.text_encoder import TextEncoder
from pusa_jax.media import video
from pusa_jax.media.pixels import to_pixels
from pusa_jax.models.wan import vae
from pusa_jax.progress import Console, no_progress
from pusa_jax.testing.published import VAE22, write_published_folder, write_ti2v

SHAPE = (1, 2, 2, 4)
LISTED = [Clip(number=i, name=f"{i}.mp4", caption=f"{i}", folder=Path()) for i in range(7)]
BAD = {
    "1.mp4": ValueError("is broken."),
    "2.mp4": OSError("cannot\nbe read."),
    "6.mp4": ValueError(),
}


def card(clips=LISTED, **changes):
    network = {"config": {}, "fingerprint": "a"}
    fields = {"vae": network, "text_encoder": network, "clips": fingerprint(clips)}
    fields |= {"pixels": (1, 16, 16), "clips_per_shard": 2, "clip_shape": SHAPE}
    return Card(text_shape=(4, 3), **fields | changes)


CARD = card()


class Work:
    """Stands in for the networks, and counts what it encodes."""

    def __init__(self, bad=BAD):
        self.bad, self.encoded = bad, []

    def read(self, clip):
        if clip.name in self.bad:
            raise self.bad[clip.name]
        return clip.number

    def encode(self, clip, number):
        self.encoded.append(clip.number)
        rng = np.random.default_rng(number)
        latents = rng.standard_normal(SHAPE).astype(ml_dtypes.bfloat16)
        if number == 3:
            latents[0, 0, 0, 0] = np.nan
        text = rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16)
        return Example(name=clip.name, caption=clip.caption, latents=latents, text=text)

    def run(self, dst, share=(0, 1), card=None, on_progress=no_progress):
        return writing.write_dataset(
            dst,
            LISTED,
            card or CARD,
            read=self.read,
            encode=self.encode,
            no_text=lambda: np.ones((1, 3), ml_dtypes.bfloat16),
            share=share,
            on_progress=on_progress,
        )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    dst = tmp_path_factory.mktemp("whole") / "ds"
    Work().run(dst)
    return content(dst)


def test_skipped_clips_are_listed_with_reasons_and_the_rest_is_kept(tmp_path):
    outcome = Work().run(tmp_path / "ds")
    assert outcome.finished and (outcome.made, outcome.count) == (7, 3)
    lines = (tmp_path / "ds" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(outcome.skipped)
    assert [(clip["line"], clip["file"]) for clip in outcome.skipped] == [
        (2, "1.mp4"), (3, "2.mp4"), (4, "3.mp4"), (7, "6.mp4")
    ]  # fmt: skip
    assert outcome.skipped[1]["reason"] == "cannot be read."
    assert "not finite" in outcome.skipped[2]["reason"]
    clips = EncodedClips(tmp_path / "ds")
    assert [clips.example(i).name for i in range(len(clips))] == ["0.mp4", "4.mp4", "5.mp4"]
    assert not (tmp_path / "ds" / "unfinished").exists()


def test_done_is_done(tmp_path, whole):
    Work().run(tmp_path / "ds")
    again = Work()
    outcome = again.run(tmp_path / "ds")
    assert outcome.finished and outcome.count == 3 and len(outcome.skipped) == 4
    assert not again.encoded and content(tmp_path / "ds") == whole


class KilledError(BaseException):
    """What nothing catches."""


def test_killed_at_every_point_and_run_again_gives_the_same_bytes(tmp_path, whole, monkeypatch):
    replace = os.replace
    for stop in itertools.count():
        dst, moves = tmp_path / f"{stop}", itertools.count()

        def killing(src, target, moves=moves, stop=stop):
            if next(moves) == stop:
                raise KilledError
            replace(src, target)

        first, second = Work(), Work()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killing)
            try:
                first.run(dst)
                break
            except KilledError:
                pass
        assert second.run(dst).finished
        assert content(dst) == whole, stop
        # A clip whose file was not yet in place is the only one that is encoded twice.
        twice = [n for n in set(first.encoded) & set(second.encoded) if n != 3]
        assert len(twice) <= 1, stop
    assert stop > 12


def test_shares_in_any_order_give_the_same_bytes(tmp_path, whole):
    for count in (2, 3, 5):
        dst = tmp_path / f"{count}"
        outcomes = [Work().run(dst, (i, count)) for i in reversed(range(count))]
        assert [outcome.finished for outcome in outcomes] == [False] * (count - 1) + [True]
        assert content(dst) == whole


def test_who_waits_for_the_same_share_takes_what_the_other_has_made(tmp_path, whole):
    waits, second, found = threading.Event(), Work(), []

    class First(Work):
        def encode(self, clip, number):
            assert waits.wait(20)
            return super().encode(clip, number)

    def tell(stage, done, total):
        if stage.startswith("waiting for process"):
            waits.set()

    def begin(work, **how):
        found.append(work.run(tmp_path / "ds", **how))

    first = First()
    threads = [threading.Thread(target=begin, args=(first,))]
    threads[0].start()
    while not list(tmp_path.rglob("share-0-of-1.lock")):
        time.sleep(0.01)
    threads.append(threading.Thread(target=begin, args=(second,), kwargs={"on_progress": tell}))
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert [outcome.finished for outcome in found] == [True, True] and not second.encoded
    assert content(tmp_path / "ds") == whole


def test_a_killed_removal_of_the_working_folder_is_finished(tmp_path, whole):
    Work().run(tmp_path / "ds")
    (tmp_path / "ds" / "unfinished" / "clips").mkdir(parents=True)
    assert Work().run(tmp_path / "ds").finished and content(tmp_path / "ds") == whole


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_request_is_refused(tmp_path, is_finished):
    Work().run(tmp_path / "ds", (0, 1 if is_finished else 2))
    before = sorted(path.name for path in (tmp_path / "ds").rglob("*"))
    for other in (card(pixels=(1, 32, 16)), card(vae={"config": {}, "fingerprint": "b"})):
        with pytest.raises(
            FileExistsError, match=r"another request, which differs in (pixels|vae)"
        ):
            Work().run(tmp_path / "ds", card=other)
    assert before == sorted(path.name for path in (tmp_path / "ds").rglob("*"))


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="no dataset"):
        Work().run(tmp_path)
    with pytest.raises(FileExistsError, match="no dataset"):
        Work().run(tmp_path / "thesis.tex")


def test_without_a_usable_clip_there_is_no_dataset_and_it_can_be_tried_again(tmp_path, whole):
    with pytest.raises(ValueError, match=r"none of 7 clips is usable; first: '0.mp4': x"):
        Work({clip.name: ValueError("x.") for clip in LISTED}).run(tmp_path / "ds")
    assert len((tmp_path / "ds" / "skipped.jsonl").read_text().splitlines()) == 7
    Work().run(tmp_path / "ds")
    assert content(tmp_path / "ds") == whole


def test_a_full_disk_loses_nothing(tmp_path, whole, monkeypatch):
    real = writing.write_records

    def full(path, records):
        raise OSError(28, "No space left on device")

    first, second = Work(), Work()
    monkeypatch.setattr(writing, "write_records", full)
    with pytest.raises(OSError, match="No space left"):
        first.run(tmp_path / "ds")
    monkeypatch.setattr(writing, "write_records", real)
    second.run(tmp_path / "ds")
    assert content(tmp_path / "ds") == whole and not set(first.encoded) & set(second.encoded)


def rows(path, names, lines):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *lines])
    return path


def test_lists_of_either_convention_are_read(tmp_path):
    lines = [("a.mp4", 'says "hi", waves'), ("b.mp4", "")]
    rows(tmp_path / "metadata.csv", ("extra", "file_name", "text"), [("", *x) for x in lines])
    rows(tmp_path / "other.csv", ("video", "prompt"), lines)
    objects = [json.dumps({"video": name, "prompt": text}) for name, text in lines]
    (tmp_path / "x.jsonl").write_text("\ufeff" + "\n\n".join(objects))
    for path in (tmp_path, tmp_path / "other.csv", tmp_path / "x.jsonl"):
        assert [(clip.name, clip.caption) for clip in read_clips(path)] == lines
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.mp4").touch()
    first, second = read_clips(tmp_path)
    assert first.find() == tmp_path / "train" / "a.mp4"
    with pytest.raises(ValueError, match="has no caption"):
        second.find()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metadata.csv", "", "lists no clips"),
        ("metadata.csv", "file_name,text\n", "lists no clips"),
        ("metadata.csv", "path,label\na,b\n", "must have one column with the caption .*'label'"),
        ("metadata.csv", "file_name,text\na.mp4,\xe9t\xe9\n", "damaged.* line 2 is not UTF-8"),
        ("metadata.jsonl", '{"video": "a"', "damaged"),
        ("metadata.jsonl", "[1]\n", "damaged"),
        ("list.txt", "x", "has no list of clips"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, name, text, reason):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as caught:
        read_clips(tmp_path)
    assert "\n" not in str(caught.value)


def test_sizes_that_cannot_be_encoded_are_refused():
    with pytest.raises(ValueError, match="height must be divisible by 16, got 40; nearest are 32"):
        EncodeConfig(height=40)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_published_folder(folder / "model")
    (folder / "src" / "train").mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (12, 40, 64, 3), np.uint8)
    for i, name in enumerate(("a", "b")):
        video.write_video(folder / "src" / "train" / f"{name}.mp4", np.roll(frames, i, 0), 16)
    video.write_video(folder / "src" / "short.mp4", frames[:4], 16)
    video.write_png(folder / "src" / "still.png", frames[0])
    (folder / "src" / "broken.mp4").write_bytes(b"not a video")
    lines = [
        ("a.mp4", "a red dog"), ("absent.mp4", "x"), ("short.mp4", "x"), ("b.mp4", "a blue cat"),
        ("broken.mp4", "x"), ("still.png", "x"), ("a.mp4", " "),
    ]  # fmt: skip
    rows(folder / "src" / "metadata.csv", ("file_name", "text"), lines)
    return folder


def call(capsys, add, *argv):
    parser = argparse.ArgumentParser()
    add(parser)
    args = parser.parse_args([str(arg) for arg in argv])
    args.console = Console(quiet=True)
    assert args.run(args) == 0
    return capsys.readouterr().out


def test_clips_are_encoded_with_the_autoencoder_of_wan22(world, capsys, tmp_path):
    write_ti2v(tmp_path / "model")
    command = ["--model", tmp_path / "model", "--src", world / "src", "--dst", tmp_path / "ds"]
    command += ["--width", 64, "--num_frames", 5, "--dtype", "float32"]
    with pytest.raises(ValueError, match="height must be divisible by 32, got 48; nearest are 32"):
        call(capsys, add_encode_arguments, *command, "--height", 48)
    assert not (tmp_path / "ds").exists()
    out = call(capsys, add_encode_arguments, *command, "--height", 32)
    # Four frames at 16 a second are six at 24, which is the rate of this model.
    assert f"{tmp_path / 'ds'}: 3 clips, 4 skipped" in out

    clips = EncodedClips(tmp_path / "ds")
    assert clips.clip_shape == (2, 2, 4, VAE22.z_dim)
    config = EncodeConfig(height=32, width=64, num_frames=5)
    frames = read_frames(world / "src" / "train" / "b.mp4", config, fps=24.0)
    autoencoder = LoadedNetwork(ModelFolder(tmp_path / "model"), "vae", "float32").autoencoder()
    wanted = autoencoder.encode(to_pixels(frames)[None])[0].astype(ml_dtypes.bfloat16)
    (example,) = (e for e in map(clips.example, range(3)) if e.name == "b.mp4")
    np.testing.assert_array_equal(example.latents, wanted)


@pytest.mark.parametrize("rate", ["model", "keep"])
def test_clips_are_encoded_at_the_rate_of_the_model_and_odd_files_skipped(
    world, capsys, tmp_path, rate
):
    src, dst = tmp_path / "src", tmp_path / "ds"
    src.mkdir()
    levels = [np.full((16, 16, 3), 20 + 10 * i, np.uint8) for i in range(20)]
    video.write_video(src / "fast.mp4", levels, 60)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        src / "whole.jpg"
    )
    (src / "odd.jpg").write_bytes((src / "whole.jpg").read_bytes()[:900])
    (src / "cover.m4a").write_bytes(b"\0\0\0\x18ftypM4A " + bytes(40))
    lines = [("odd.jpg", "x"), ("cover.m4a", "x"), ("half\ud83d.mp4", "x"), ("fast.mp4", "x")]
    (src / "metadata.jsonl").write_text(
        "".join(json.dumps({"video": name, "prompt": text}) + "\n" for name, text in lines)
    )
    command = ["--model", world / "model", "--src", src, "--dst", dst, "--source_fps", rate]
    command += ["--height", 16, "--width", 16, "--num_frames", 5, "--dtype", "float32"]
    out = call(capsys, add_encode_arguments, *command)
    assert f"{dst}: 1 clips, 3 skipped" in out
    assert "skipped line 1, 'odd.jpg'" in out and "odd.jpg is damaged or not a picture" in out
    assert "cover.m4a is damaged" in out and "no character of UTF-8" in out

    frames, _ = video.read_video(src / "fast.mp4")
    taken = frames[[int(3.75 * k) for k in range(5)] if rate == "model" else range(5)]
    autoencoder = LoadedNetwork(ModelFolder(world / "model"), "vae", "float32").autoencoder()
    wanted = autoencoder.encode(to_pixels(taken)[None])[0].astype(ml_dtypes.bfloat16)
    clips = EncodedClips(dst)
    np.testing.assert_array_equal(clips.example(0).latents, wanted)
    said = {"model": "16, resampled by timestamps", "keep": "as in the sources"}[rate]
    assert clips.card.frame_rate == said
    out = call(capsys, add_data_arguments, "inspect", dst, "--sheet", tmp_path / "sheet.png")
    assert f"frame rate               {said}\n" in out


@pytest.mark.parametrize("rate", ["model", "keep"])
def test_a_dry_run_says_what_would_be_encoded_and_makes_nothing(world, capsys, tmp_path, rate):
    fast = [np.zeros((16, 16, 3), np.uint8)] * 20
    shutil.copytree(world / "src", tmp_path / "src")
    video.write_video(tmp_path / "src" / "fast.mp4", fast, 60)
    with (tmp_path / "src" / "metadata.csv").open("a") as file:
        file.write("fast.mp4,x\n")
    command = ["--model", world / "model", "--src", tmp_path / "src", "--dst", tmp_path / "ds"]
    command += ["--height", 32, "--width", 48, "--num_frames", 9, "--source_fps", rate]
    out = call(capsys, add_encode_arguments, *command, "--dry_run")
    is_kept = rate == "keep"
    how = "kept frame by frame" if is_kept else "resampled by timestamps to 16"
    assert f"2 clips of 16 frames a second, {how}\n" in out
    assert (f"1 clips of 60 frames a second, {how}\n" in out) == is_kept
    for reason in ("line 3, 'absent.mp4'", "line 4, 'short.mp4'", "has 4 frames, 9 are needed",
                   "line 6, 'broken.mp4'", "still.png is a picture, 9 frames",
                   "line 8, 'a.mp4': has no caption"):  # fmt: skip
        assert reason in out, reason
    assert f"src: {2 + is_kept} of 8 clips can be encoded" in out
    assert not (tmp_path / "ds").exists()
    with pytest.raises(ValueError, match=r"num_frames|4k"):
        call(capsys, add_encode_arguments, *command, "--dry_run", "--num_frames", 8)
    one = call(capsys, add_encode_arguments, *command, "--dry_run", "--num_frames", 1)
    assert "1 pictures\n" in one


def test_processes_of_a_group_are_asked_for_their_shares(world, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "host[0-3]")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    command = ["--model", world / "model", "--src", world / "src", "--dst", world / "none"]
    with pytest.raises(ValueError, match=r"one of several processes; say which .* --shard \$SLURM"):
        call(None, add_encode_arguments, *command)
    assert not (world / "none").exists()


@pytest.mark.long
def test_real_clips_through_the_command_line(world, capsys):
    """One compilation of the VAE for all that concerns it."""
    command = ["--model", world / "model", "--src", world / "src", "--dst", world / "ds"]
    command += ["--height", 32, "--width", 48, "--num_frames", 9, "--dtype", "float32"]
    out = call(capsys, add_encode_arguments, *command)
    assert f"{world / 'ds'}: 2 clips, 5 skipped" in out
    for reason in ("line 3, 'absent.mp4'", "absent.mp4 is neither", "has 4 frames, 9 are needed",
                   "not a video", "is a picture, 9 frames", "has no caption"):  # fmt: skip
        assert reason in out, reason

    clips = EncodedClips(world / "ds")
    assert clips.clip_shape == (3, 4, 6, 16) and clips.text_shape == (32, 32)
    model = ModelFolder(world / "model")
    autoencoder = LoadedNetwork(model, "vae", "float32").autoencoder()
    text = TextEncoder(model, "float32")
    frames = read_frames(
        world / "src" / "train" / "b.mp4", EncodeConfig(height=32, width=48, num_frames=9)
    )
    pixels = to_pixels(frames)[None]
    first, cache = jax.jit(vae.encode_first)(autoencoder.module, pixels[:, :1])
    second, _ = jax.jit(vae.encode_next)(autoencoder.module, pixels[:, 1:5], cache)
    stored = clips.example(1)
    assert stored.name == "b.mp4"
    wanted = np.concatenate([first, second], axis=1)[0].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(stored.latents[:2], wanted)
    np.testing.assert_array_equal(stored.text, text("a blue cat").astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(
        clips.no_text[:1].astype(np.float32), text("").astype(ml_dtypes.bfloat16).astype(np.float32)
    )

    shutil.copytree(world / "ds", world / "copy")
    sheet = world / "sheet.png"
    out = call(capsys, add_data_arguments, "inspect", world / "copy", "--sheet", sheet)
    assert out.startswith("clips                    2\n") and "  b.mp4: a blue cat\n" in out
    assert video.read_image(sheet).shape == (2 * round(4 * 1600 / 18), 1600, 3)
    more = ["--sheet", sheet, "--model", world / "model", "--count", 1]
    call(capsys, add_data_arguments, "inspect", world / "copy", *more)
    assert video.read_image(sheet).shape == (round(32 * 1600 / (6 * 48)), 1600, 3)
