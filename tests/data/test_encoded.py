"""Datasets: what is stored comes back to the bit, in an order that seed and step decide."""

import dataclasses
import itertools
import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from small import DIT, settings

pytest.importorskip("grain", reason="needs the extra [train]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.torch_writing import write_torch_zip
from pusa_jax.data import encoded as data
from pusa_jax.data import inspection, shards
from pusa_jax.data.pusa_v1 import import_folder
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.training.config import DataConfig, ModelConfig
from pusa_jax.training.loop import train

SHAPE, TEXT, COUNT = (3, 4, 6, 16), (8, 12), 7


def card(**changes):
    vae = {"config": {"dim": 8}, "fingerprint": "a1"}
    fields = {"vae": vae, "text_encoder": vae, "clips": "list", "clips_per_shard": 4}
    return data.Card(
        **{"clip_shape": SHAPE, "text_shape": TEXT, "pixels": (9, 32, 48), **fields, **changes}
    )


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(ml_dtypes.bfloat16)


def example(i):
    return data.Example(
        name=f"{i}.mp4", caption=f"Nº {i}", latents=noise(i, *SHAPE), text=noise(i, 2 + i % 4, 12)
    )


def write(folder, count=COUNT):
    folder.mkdir()
    records = [data.serialized(example(i)) for i in range(count)]
    parts = [records[i : i + 4] for i in range(0, count, 4)]
    for i, part in enumerate(parts):
        data.write_records(folder / shards.shard_name(i, len(parts)), part)
    lengths = [len(part) for part in parts]
    data.write_metadata(folder, card(), lengths, sum(map(len, records)), folder / "staging")
    np.save(folder / data.NO_TEXT, noise(99, 1, 12).view(np.uint16))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "ds")


@pytest.fixture(scope="module")
def clips(folder):
    return data.EncodedClips(folder)


def ids(batches, count):
    return [next(batches)["id"] for _ in range(count)]


def test_every_bit_comes_back_and_text_is_padded_with_zeros(clips):
    assert len(clips) == COUNT and clips.card == card()
    batch = clips.at(range(COUNT))
    for i, (latents, text) in enumerate(zip(batch["latents"], batch["text"], strict=True)):
        wanted = example(i)
        assert latents.dtype == text.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(latents.view(np.uint16), wanted.latents.view(np.uint16))
        n = len(wanted.text)
        np.testing.assert_array_equal(text[:n].view(np.uint16), wanted.text.view(np.uint16))
        assert not text[n:].any()
        assert clips.example(i).caption == wanted.caption
    assert clips.no_text.shape == TEXT and not clips.no_text[1:].any()


def test_tfds_opens_it_by_itself_and_without_tensorflow(folder):
    program = """
import sys, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
source = builder.as_data_source(split="train")
assert "tensorflow" not in sys.modules and "pusa_jax" not in sys.modules
last, card = source[6], builder.info.metadata
print(len(source), last["id"].decode(), last["latents"].shape, card["dtype"])
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True)
    assert done.stdout.decode().strip() == f"7 6.mp4 {SHAPE} bfloat16", done.stderr.decode()


def test_only_this_module_pulls_grain_and_tfds():
    program = """
import sys, pusa_jax.data.lists, pusa_jax.training.step, pusa_jax.cli.data, pusa_jax.cli.main
assert not {"grain", "tensorflow_datasets", "array_record"} & set(sys.modules)
import pusa_jax.data.encoded, jax
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_order_is_a_function_of_seed_and_step(clips):
    straight = ids(clips.batches(4, range(4), 5), 9)
    assert straight == ids(clips.batches(4, range(4), 5), 9)
    assert straight != ids(clips.batches(4, range(4), 6), 9)
    names = list(itertools.chain(*straight))
    epochs = [names[i : i + COUNT] for i in range(0, 35, COUNT)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs[0])) == COUNT and len(set(map(tuple, epochs))) == 5


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_their_rows_of_the_same_batches(clips, processes):
    rows = [range(i * 8 // processes, (i + 1) * 8 // processes) for i in range(processes)]
    shares = [ids(clips.batches(8, part, 1), 3) for part in rows]
    whole = ids(clips.batches(8, range(8), 1), 3)
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole


def test_a_batch_may_be_one_clip(clips):
    one_by_one = itertools.chain(*ids(clips.batches(1, range(1), 5), 8))
    assert list(one_by_one) == list(itertools.chain(*ids(clips.batches(4, range(4), 5), 2)))


def test_a_dataset_smaller_than_a_batch_is_repeated(clips):
    batch = next(clips.batches(20, range(20), 0))
    assert batch["latents"].shape == (20, *SHAPE) and set(batch["id"]) == {
        f"{i}.mp4" for i in range(COUNT)
    }


def test_restored_batches_go_on_exactly_whatever_the_number_of_processes(clips):
    batches = clips.batches(4, range(4), 2)
    next(batches), next(batches)
    state = json.loads(json.dumps(batches.state()))
    wanted = [next(batches) for _ in range(3)]
    for used in (0, 5):  # a fresh iterator, and one that had gone elsewhere
        again = clips.batches(4, range(2, 4), 2)
        ids(again, used)
        again.restore(state)
        for batch in wanted:
            got = next(again)
            assert got["id"] == batch["id"][2:4]
            np.testing.assert_array_equal(
                got["latents"].view(np.uint16), batch["latents"][2:4].view(np.uint16)
            )


def test_a_state_of_another_order_is_refused(clips):
    state = clips.batches(4, range(4), 2).state()
    with pytest.raises(ValueError, match=r"seed 2 \(now 3\)"):
        clips.batches(4, range(4), 3).restore(state)


def test_a_720p_clip_takes_less_than_14_megabytes():
    text = noise(1, 512, 4096)
    record = data.serialized(
        data.Example(name="x", caption="x", latents=noise(0, 21, 90, 160, 16), text=text)
    )
    assert len(record) < 14e6, len(record)


def test_what_is_no_dataset_is_refused_in_one_line(tmp_path, folder):
    for path, error, text in (
        (tmp_path / "absent", FileNotFoundError, "write one with pusa-jax encode"),
        (tmp_path, ValueError, "no complete dataset"),
    ):
        with pytest.raises(error, match=text):
            data.EncodedClips(path)
    for name, content in (("dataset_info.json", "{}"), ("metadata.json", '{"format": 99}')):
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="this version"):
        data.EncodedClips(tmp_path)


def test_an_empty_dataset_says_so(tmp_path):
    with pytest.raises(ValueError, match="holds no clips"):
        data.EncodedClips(write(tmp_path / "ds", 0))


def test_captions_are_all_there_are_or_the_numbers_of_the_classes(clips):
    assert clips.captions() == [f"Nº {i}" for i in range(COUNT)]
    assert clips.part([2, 4]).captions() == ["Nº 2", "Nº 4"]
    of_a_set = clips.part([2])
    for classes, captions in ((("a", "b"), ["0", "1"]), ((), [])):
        of_a_set.card = card(layout={"layout": "any"}, classes=classes)
        assert of_a_set.captions() == captions


def test_a_dataset_of_another_shape_or_vae_is_refused(clips):
    clips.check_fits(SHAPE, TEXT, {"config": {"dim": 8}, "fingerprint": "a1"})
    with pytest.raises(ValueError, match=r"\[3, 4, 6, 16\] \(9 frames of 32x48\), the run wants"):
        clips.check_fits((5, 4, 6, 16), TEXT)
    with pytest.raises(ValueError, match="text features"):
        clips.check_fits(SHAPE, (512, 4096))
    with pytest.raises(
        ValueError, match=r"another VAE .*: fingerprint is 'a1' there and 'b2' here"
    ):
        clips.check_fits(SHAPE, TEXT, {"config": {"dim": 8}, "fingerprint": "b2"})
    with pytest.raises(ValueError, match=r"another VAE .*: config\.dim is 8 there and 9 here"):
        clips.check_fits(SHAPE, TEXT, {"config": {"dim": 9}, "fingerprint": "a1"})


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({}, {}, r"config\.dim is 8 there and 9 here"),
        ({}, {"width": 64}, r"latents .* of \[3, 4, 6, 16\] \(9 frames of 32x48\), the run wants"),
        ({"text_dim": 13}, {}, r"text features .*\[8, 12\].* wants \[8, 13\]"),
    ],
)
def test_a_run_holds_its_data_against_its_model_before_it_starts(
    clips, tmp_path, model, data, message
):
    dit = dataclasses.replace(DIT, **{"in_dim": 16, "out_dim": 16, "text_len": 8} | model)
    size = {"height": 32, "width": 48, "num_frames": 9} | data
    run = settings(
        model=ModelConfig(dit=dit, vae=VAEConfig(dim=9)),
        data=DataConfig(folder=str(clips.folder), **size),
    )
    with pytest.raises(ValueError, match=message):
        train(run, clips, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def published(folder, count=3):
    (folder / "train").mkdir(parents=True)
    lines = ["file_name,text", *(f"{i}.mp4,caption {i}" for i in range(count))]
    (folder / "metadata.csv").write_text("\n".join(lines))
    tensors = []
    for i in range(count):
        context = np.zeros((1, 20, 32), ml_dtypes.bfloat16)
        context[0, : 3 + i] = noise(i, 3 + i, 32)
        tensors.append({"latents": noise(i, 16, 3, 4, 6), "prompt_emb.context": context})
    return tensors


def test_published_tensors_are_imported(tmp_path):
    tensors = published(tmp_path / "src")
    for i, arrays in enumerate(tensors):
        path = tmp_path / "src" / "train" / f"{i}.mp4.tensors.pth"
        write_torch_zip(path, ArrayTensors(arrays))
    outcome = import_folder(tmp_path / "src", tmp_path / "ds")
    assert outcome.finished and outcome.count == 3 and not outcome.skipped
    clips = data.EncodedClips(tmp_path / "ds")
    assert clips.card.pixels == (9, 32, 48)
    for i, arrays in enumerate(tensors):
        stored = clips.example(i)
        wanted = np.moveaxis(arrays["latents"], 0, -1)
        np.testing.assert_array_equal(stored.latents.astype(float), wanted.astype(float))
        assert stored.text.shape == (3 + i, 32) and stored.caption == f"caption {i}"
        padded = clips.at([i])["text"][0]
        np.testing.assert_array_equal(
            padded.astype(float), arrays["prompt_emb.context"][0].astype(float)
        )
    with pytest.raises(ValueError, match="no features of the empty prompt"):
        _ = clips.no_text


@pytest.mark.torch
def test_files_written_by_torch_are_imported_and_bad_ones_skipped(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra [test]")
    tensors = published(tmp_path / "src", 5)
    for i, arrays in enumerate(tensors):
        latents, context = (torch.tensor(x.astype(np.float32)) for x in arrays.values())
        content = {
            "latents": latents.bfloat16()[:, : 2 if i == 3 else 3],
            "prompt_emb": {"context": context.bfloat16()},
            "image_emb": {},
        }
        if i == 2:
            content["prompt_emb"] = {"context": "words"}
        torch.save(content, tmp_path / "src" / "train" / f"{i}.mp4.tensors.pth")
    (tmp_path / "src" / "train" / "4.mp4.tensors.pth").write_bytes(b"PK nothing")
    outcome = import_folder(tmp_path / "src", tmp_path / "ds")
    assert outcome.count == 2
    reasons = {clip["file"]: clip["reason"] for clip in outcome.skipped}
    assert "no tensors" in reasons["2.mp4"] and "first clip has" in reasons["3.mp4"]
    assert "damaged" in reasons["4.mp4"]
    stored = data.EncodedClips(tmp_path / "ds").example(1)
    wanted = np.moveaxis(tensors[1]["latents"], 0, -1)
    np.testing.assert_array_equal(stored.latents.astype(float), wanted.astype(float))


def test_inspection_names_odd_clips_and_draws_a_sheet(tmp_path, clips):
    read, record = inspection.measured(clips, 3)
    assert [e.name for e in read] == ["0.mp4", "3.mp4", "6.mp4"]
    assert record["clips"] == COUNT and record["odd"] == {} and len(record["captions"]) == 3
    assert 0.9 < record["latents rms"]["max"] < 1.1
    sheet = inspection.contact_sheet(read)
    assert sheet.shape == (3 * round(4 * 1600 / 18), 1600, 3) and sheet.std() > 10


def test_inspection_says_why_a_clip_is_odd(tmp_path, clips):
    odd = {
        "large": dict(latents=noise(1, *SHAPE) * 9),
        "small": dict(latents=noise(1, *SHAPE) * 0.1),
        "still": dict(latents=np.repeat(noise(1, 1, *SHAPE[1:]), SHAPE[0], axis=0)),
        "mute": dict(caption=" "),
    }
    made = {name: dataclasses.replace(example(1), name=name, **x) for name, x in odd.items()}
    part = clips.part([0, 2, 5])
    assert part.at([1, 2])["id"] == ["2.mp4", "5.mp4"] and len(part) == 3
    part.example = [*made.values()].__getitem__
    part._numbers = range(4)
    found = inspection.measured(part, 4)[1]["odd"]
    assert list(found) == list(odd)
    assert "its latents are large, rms 8.85" in found["large"] and "0.3 to 3.0" in found["large"]
    assert "are small" in found["small"] and "nothing moves" in found["still"]
    assert found["mute"] == "it has no caption"


def test_an_example_is_the_same_bytes_in_every_process():
    program = """
import hashlib, sys
import numpy as np
from pusa_jax.data import encoded as data
for i in range(8):
    latents, text = np.full((1, 1, 1, 2), i, np.float32), np.zeros((i, 3), np.float32)
    example = data.Example(name=str(i), caption="x", latents=latents, text=text)
    print(hashlib.sha256(data.serialized(example)).hexdigest())
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and len(set(runs[0].split())) == 8


def test_a_shard_that_does_not_fit_on_the_disk_is_an_error_and_leaves_nothing(tmp_path):
    program = """
import os, resource, signal, sys
from pathlib import Path
from pusa_jax.data import encoded as data
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    data.write_records(Path(sys.argv[1]) / "shard", [os.urandom(100_000) for _ in range(10)])
except OSError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "shard could not be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
