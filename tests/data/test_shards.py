"""What a dataset says is held against its card: nothing it names is imported or followed."""

import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("grain", reason="needs the extra [train]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")

from test_encoded import COUNT, example, write

from pusa_jax.data import inspection
from pusa_jax.data.encoded import EncodedClips
from pusa_jax.data.shards import shard_name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "ds")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "ds")


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def forget_sums(folder):
    (folder / "sums.json").unlink()


PROGRAM = """
import sys
from pusa_jax.data import inspection
from pusa_jax.data.encoded import EncodedClips
try:
    EncodedClips(sys.argv[1]).example(0)
except ValueError as error:
    print(error)
"""


def test_a_module_named_in_a_dataset_is_not_imported(folder, tmp_path):
    forget_sums(folder)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    paths = f"{Path(__file__).parents[2]}:{tmp_path}"
    for at in ("text_feature.Text", "features_dict.FeaturesDict"):
        for name in ("evil.Text", "this.Text"):
            shutil.copy(folder / "features.json", tmp_path / "kept.json")
            change(folder / "features.json", f"tensorflow_datasets.core.features.{at}", name)
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(folder)],
                capture_output=True, text=True, cwd=tmp_path,
                env={"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
            )  # fmt: skip
            assert "is none of pusa_jax" in done.stdout and name in done.stdout, done.stderr
            assert not (tmp_path / "ran").exists() and "Zen" not in done.stdout
            shutil.copy(tmp_path / "kept.json", folder / "features.json")


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("dataset_info.json", "{DATASET}", "../{DATASET}", "filepathTemplate"),
        ("dataset_info.json", "{DATASET}", "/etc/{DATASET}", "filepathTemplate"),
        ("dataset_info.json", '"train"', '"../train"', r"splits\.name"),
        ("dataset_info.json", '"array_record"', '"tfrecord"', "fileFormat"),
        ("dataset_info.json", '"pusa_clips"', '"mnist"', "name is 'mnist'"),
        ("dataset_info.json", '"4"', '"999999999"', "shards hold 7 clips"),
        ("dataset_info.json", '"4"', '"-4"', "shardLengths"),
        ("dataset_info.json", '"4"', "4", "shardLengths"),
        ("features.json", '"uint16"', '"object"', "dtype"),
        ("features.json", '"12"', '"1000000000"', "dimensions"),
        ("features.json", '"caption"', '"kaption"', "caption"),
        ("metadata.json", "12]", "1000000000]", "dimensions|text"),
    ],
)
def test_what_is_not_as_we_write_it_is_refused(folder, file, old, new, says):
    forget_sums(folder)
    change(folder / file, old, new)
    with pytest.raises(ValueError, match=says) as error:
        EncodedClips(folder).example(0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("has_sums", [True, False])
def test_a_missing_shard_is_named(folder, has_sums):
    if not has_sums:
        forget_sums(folder)
    (folder / shard_name(1, 2)).unlink()
    with pytest.raises(ValueError, match=shard_name(1, 2)):
        EncodedClips(folder)


@pytest.mark.parametrize("place", [100, -100])
def test_a_shard_with_other_ends_is_not_opened(folder, place):
    file = folder / shard_name(1, 2)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"have changed or are missing, first {file.name}"):
        EncodedClips(folder)


def test_datasets_without_sums_are_read_as_before(folder):
    forget_sums(folder)
    clips = EncodedClips(folder)
    assert len(clips) == COUNT and clips.example(3).caption == example(3).caption
    clips.check()


def test_a_flipped_byte_of_a_dataset_is_noticed_or_without_effect(folder):
    files = [path for path in folder.iterdir() if path.name != "no_text.npy"]
    rng, noticed = np.random.default_rng(0), 0
    for number in range(70):
        file = files[number % len(files)]
        data = file.read_bytes()
        # A shard of this size is mostly padding; what it holds lies in front.
        at = int(rng.integers(min(len(data), 9000)))
        file.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            clips = EncodedClips(folder)
            found = [clips.example(i) for i in range(COUNT)]
        except ValueError as error:
            noticed += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            for i, ours in enumerate(found):
                wanted = example(i)
                assert (ours.name, ours.caption) == (wanted.name, wanted.caption)
                for one, other in ((ours.latents, wanted.latents), (ours.text, wanted.text)):
                    np.testing.assert_array_equal(one.view(np.uint16), other.view(np.uint16))
            if file.suffix != ".json":
                with pytest.raises(ValueError, match="have changed"):
                    clips.check()
        file.write_bytes(data)
    assert noticed > 30


def test_nothing_pickled_is_read(folder):
    forget_sums(folder)
    np.save(folder / "no_text.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"no_text\.npy cannot be read"):
        _ = EncodedClips(folder).no_text


def test_latents_are_bfloat16(whole):
    assert EncodedClips(whole).example(0).latents.dtype == ml_dtypes.bfloat16


def test_latents_that_are_no_numbers_are_named(tmp_path, monkeypatch):
    broken = example(2)
    broken.latents[0, 0, 0, 0] = np.nan
    monkeypatch.setattr("test_encoded.example", lambda i: broken if i == 2 else example(i))
    clips = EncodedClips(write(tmp_path / "ds"))
    with pytest.raises(ValueError, match=r"1 clips whose latents are not finite, first '2\.mp4'"):
        inspection.measured(clips, COUNT)
