import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pusa_jax.convert.files import mapped
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import write_safetensors

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.arange(4).astype(ml_dtypes.bfloat16),
    "scalar": np.array(2.5, np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "steps": np.arange(5, dtype=np.int64),
}


@pytest.fixture
def file(tmp_path):
    save_file(ARRAYS, tmp_path / "x.safetensors", {"rank": "4"})
    return tmp_path / "x.safetensors"


@pytest.fixture
def sharded(tmp_path):
    names = list(ARRAYS)
    weight_map = {}
    for k, part in enumerate((names[:2], names[2:])):
        shard = f"m-0000{k + 1}-of-00002.safetensors"
        save_file({n: ARRAYS[n] for n in part}, tmp_path / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def assert_holds_all(source, prefix=""):
    assert source.tensors.keys() == {prefix + n for n in ARRAYS}
    for name, array in ARRAYS.items():
        read = source.read(prefix + name)
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert source.tensors[prefix + name].shape == array.shape
        assert read.tobytes() == array.tobytes()


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_safetensors_are_read_with_their_metadata(file):
    source = open_tensors(file)
    assert_holds_all(source)
    assert source.metadata == {"rank": "4"}


def test_a_part_of_a_tensor_is_read(file):
    part = open_tensors(file).read("a.weight", (slice(1, 3), slice(0, 2)))
    np.testing.assert_array_equal(part, ARRAYS["a.weight"][1:3, 0:2])


def test_shards_are_read_as_one_checkpoint(sharded):
    assert_holds_all(open_tensors(sharded))


@pytest.mark.parametrize("prefix", ["model.", "diffusion_model.", "model.diffusion_model."])
def test_prefixes_of_repacked_files_are_removed(tmp_path, prefix):
    save_file({prefix + n: a for n, a in ARRAYS.items()}, tmp_path / "x.safetensors")
    assert_holds_all(open_tensors(tmp_path / "x.safetensors"))


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    save_file({"model.a": ARRAYS["a.bias"], "b": ARRAYS["a.bias"]}, tmp_path / "x.safetensors")
    assert set(open_tensors(tmp_path / "x.safetensors").tensors) == {"model.a", "b"}


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_8_bit_floats_are_known(tmp_path, kind):
    data = np.arange(4).astype(
        {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}[kind]
    )
    header = json.dumps(
        {"w": {"dtype": f"F8_{kind.upper()}", "shape": [4], "data_offsets": [0, 4]}}
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data.tobytes())
    np.testing.assert_array_equal(open_tensors(path).read("w"), data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        open_tensors(tmp_path / "x.safetensors")


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        open_tensors(tmp_path / "x.onnx")


def test_missing_shards_are_named(sharded):
    (sharded.parent / "m-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of which.*m-00002-of-00002") as error:
        open_tensors(sharded)
    one_line(error)


def test_an_index_that_names_more_than_the_shards_hold_is_refused(sharded):
    index = json.loads(sharded.read_text())
    index["weight_map"]["ghost"] = "m-00001-of-00002.safetensors"
    sharded.write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match="1 tensors that their shards do not hold: 'ghost'"
    ) as error:
        open_tensors(sharded)
    one_line(error)


def test_a_tensor_the_index_forgot_is_still_listed(sharded):
    index = json.loads(sharded.read_text())
    del index["weight_map"]["steps"]
    sharded.write_text(json.dumps(index))
    assert "steps" in open_tensors(sharded).tensors


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../x.safetensors"}}']
)
def test_a_damaged_index_gives_one_line(sharded, text):
    sharded.write_text(text)
    with pytest.raises(ValueError, match="no index of shards") as error:
        open_tensors(sharded)
    one_line(error)


def test_tensors_of_a_file_share_one_mapping(file, monkeypatch):
    opened = []
    plain = Path.open
    monkeypatch.setattr(Path, "open", lambda *a, **k: opened.append(a[0]) or plain(*a, **k))
    source = open_tensors(file)
    assert opened == [file]  # the table of contents
    arrays = [source.read(name) for name in [*source.tensors, *source.tensors]]
    assert len(arrays) > 2 and opened == [file, file]


def test_a_file_that_shrinks_after_it_was_opened_is_named(file):
    source = open_tensors(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"has become shorter since it was opened") as error:
        for name in source.tensors:
            source.read(name)
    one_line(error)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux")
def test_pages_that_were_looked_at_do_not_pile_up(tmp_path, monkeypatch):
    size, count, limit = 2**20, 24, 2**22
    monkeypatch.setattr(mapped, "RESIDENT_BYTES", limit)
    arrays = {f"w{i}": np.full(size // 4, i, np.float32) for i in range(count)}
    write_safetensors(tmp_path / "x.safetensors", ArrayTensors(arrays))
    source = open_tensors(tmp_path / "x.safetensors")
    first = source.read("w0")
    for name in arrays:
        assert source.read(name).sum() == arrays[name].sum()
        assert resident(tmp_path / "x.safetensors") <= limit + size
    np.testing.assert_array_equal(first, arrays["w0"])  # read again from the file


def resident(path):
    """Bytes of a mapped file that are in the memory of this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    total = 0
    for line in lines:
        if line.endswith(str(path)):
            total += next(int(x.split()[1]) for x in lines if x.startswith("Rss:")) * 1024
    return total


def test_every_truncation_is_noticed(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "cut.safetensors"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.safetensors is (cut short|damaged)") as error:
            open_tensors(path)
        one_line(error)


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_corrupted_header_gives_one_line_or_a_readable_file(file, tmp_path, data):
    raw = bytearray(file.read_bytes())
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    assert_error_or_readable(tmp_path / "bad.safetensors", bytes(raw))


ODD = st.one_of(st.none(), st.integers(-3, 2**70), st.floats(), st.text(max_size=3), st.booleans())


@given(
    entry=st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets", "other"]),
        st.one_of(ODD, st.sampled_from(["F32", "BF16", "F4"]), st.lists(ODD, max_size=40)),
    ),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_header_entry_gives_one_line_or_a_readable_file(tmp_path, entry):
    header = json.dumps({"w": entry}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(8)
    assert_error_or_readable(tmp_path / "bad.safetensors", data)


def assert_error_or_readable(path, raw):
    path.write_bytes(raw)
    try:
        source = open_tensors(path)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path))
    else:
        for name in source.tensors:
            source.read(name).tobytes()
