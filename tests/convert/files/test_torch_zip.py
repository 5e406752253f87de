import io
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.torch_writing import write_torch_zip

torch = pytest.importorskip("torch", reason="needs the extra [test]")
pytestmark = pytest.mark.torch

MATRIX = torch.arange(24.0).reshape(4, 6)


def saved(path, content):
    torch.save(content, path)
    return open_tensors(path)


def as_numpy(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16", "int64", "int32",
                                  "int16", "int8", "uint8", "bool"])  # fmt: skip
def test_every_dtype_is_read(tmp_path, name):
    tensor = MATRIX.to(getattr(torch, name))
    read = saved(tmp_path / "x.pth", {"w": tensor}).read("w")
    np.testing.assert_array_equal(read, as_numpy(tensor))
    assert read.dtype.name == name


def test_views_of_one_storage_keep_their_strides_and_offsets(tmp_path):
    tensors = {
        "whole": MATRIX,
        "transposed": MATRIX.t(),
        "cut": MATRIX[1:3, 2:5],
        "column": MATRIX[:, 3],
        "repeated": MATRIX.expand(2, 4, 6),
        "scalar": MATRIX[2, 2],
        "empty": MATRIX[:0],
        "parameter": torch.nn.Parameter(MATRIX),
    }
    source = saved(tmp_path / "x.pth", tensors)
    assert source.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(source.read(name), as_numpy(tensor), err_msg=name)
    cut = source.read("transposed", (slice(2, 4), slice(1, 2)))
    np.testing.assert_array_equal(cut, MATRIX.t()[2:4, 1:2])


def test_a_state_dict_with_its_metadata_is_read(tmp_path):
    layer = torch.nn.Linear(3, 4)
    source = saved(tmp_path / "x.pth", layer.state_dict())
    np.testing.assert_array_equal(source.read("weight"), as_numpy(layer.weight))


@pytest.mark.parametrize("key", ["ema", "model_state", "state_dict", "model"])
def test_tensors_under_a_known_entry_are_found(tmp_path, key):
    source = saved(tmp_path / "x.pth", {key: OrderedDict(w=MATRIX), "epoch": 3})
    assert set(source.tensors) == {"w"} and source.entry == key


def test_of_several_entries_the_average_is_taken_if_it_holds_nothing_but_tensors(tmp_path):
    both = {"model": {"w": MATRIX}, "ema": {"w": MATRIX + 1}}
    source = saved(tmp_path / "x.pth", both)
    np.testing.assert_array_equal(source.read("w"), as_numpy(MATRIX + 1))
    assert saved(tmp_path / "x.pth", both | {"ema": {"decay": 0.9}}).entry == "model"
    assert saved(tmp_path / "x.pth", {"w": MATRIX}).entry == ""


def test_a_state_dict_is_written_under_an_entry(tmp_path):
    file = tmp_path / "x.pt"
    write_torch_zip(file, ArrayTensors({"w": as_numpy(MATRIX), "v": np.ones(2)}), "ema")
    read = torch.load(file, weights_only=True)
    assert read.keys() == {"ema"} and torch.equal(read["ema"]["w"], MATRIX)
    assert open_tensors(file).entry == "ema"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([MATRIX], "holds a list, not a dict"),
        ({"w": MATRIX, "epoch": 3}, "1 are no tensors: 'epoch'"),
        ({}, "0 entries"),
        (MATRIX, "holds a Tensor"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        saved(tmp_path / "x.pth", content)


class Packed(torch.Tensor):
    """A tensor of a kind of its own, as torchao and quanto make them."""


@pytest.mark.parametrize(
    "tensor",
    [
        MATRIX.clone().as_subclass(Packed),
        MATRIX.to_sparse(),
    ],
    ids=["subclass", "sparse"],
)
def test_packed_tensors_are_named_as_what_they_are(tmp_path, tensor):
    with pytest.raises(
        ValueError, match=r"x\.pth holds tensors of a kind of their own .*torchao.*use"
    ):
        saved(tmp_path / "x.pth", {"w": tensor})


@pytest.mark.parametrize(
    "name", ["torchao.dtypes.affine_quantized_tensor\nAffineQuantizedTensor",
             "optimum.quanto.tensor.weights.qbytes\nWeightQBytesTensor",
             "torch.distributed.tensor\nDTensor", "torch._utils\n_rebuild_qtensor"],
)  # fmt: skip
def test_classes_of_packed_tensors_are_named(tmp_path, name):
    archive(tmp_path / "x.pth", b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(ValueError, match="holds tensors of a kind of their own"):
        open_tensors(tmp_path / "x.pth")


class Evil:
    """Creates a file when it is unpickled by an ordinary unpickler."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    victim = tmp_path / "victim"
    torch.save({"w": MATRIX, "x": Evil(open, str(victim), "w")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"asks for 'io.open', which is no tensor") as error:
        open_tensors(tmp_path / "x.pth")
    assert "\n" not in str(error.value)
    assert not victim.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert victim.exists()  # the test would have noticed


@pytest.mark.parametrize(
    "function", [eval, getattr, torch.load, np.dtype, torch.nn.Linear, torch.Tensor]
)
def test_every_other_name_is_refused(tmp_path, function):
    torch.save({"w": Evil(function, "1")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"asks for '.*{function.__name__}'"):
        open_tensors(tmp_path / "x.pth")


def archive(path, pickled, **records):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickled)
        for name, data in records.items():
            file.writestr(f"x/{name}", data)
    return path


def test_stand_ins_cannot_be_changed_by_a_pickle(tmp_path):
    build = b"}(\x8c\x06offsetJ\xff\xff\xff\xffub"  # BUILD with {"offset": -1}
    for name in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n",
                 b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"):  # fmt: skip
        with pytest.raises(ValueError, match="damaged or no PyTorch checkpoint"):
            open_tensors(archive(tmp_path / "x.pth", b"\x80\x04" + name + build + b"."))


def test_tensors_must_lie_inside_their_storage(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": MATRIX}, path)
    with zipfile.ZipFile(path) as file:
        pickled = file.read("x/data.pkl")
    archive(path, pickled, **{"data/0": bytes(95)})
    with pytest.raises(ValueError, match="'w' reaches beyond its storage"):
        open_tensors(path)


def test_missing_and_compressed_storages_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": MATRIX}, path)
    with zipfile.ZipFile(path) as file:
        pickled = file.read("x/data.pkl")
    with pytest.raises(ValueError, match="missing or compressed"):
        open_tensors(archive(path, pickled))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/data/0", bytes(96))
    with pytest.raises(ValueError, match="missing or compressed"):
        open_tensors(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", pickle.dumps({"a": 1})])
def test_files_that_are_no_zip_say_so(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match="damaged or no PyTorch checkpoint"):
        open_tensors(tmp_path / "x.pth")


def test_the_format_before_version_1_6_says_what_to_do(tmp_path):
    torch.save({"w": MATRIX}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"save it again with PyTorch 1\.6 or newer"):
        open_tensors(tmp_path / "x.pt")


def test_every_truncation_is_noticed(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": MATRIX}, buffer)
    data, path = buffer.getvalue(), tmp_path / "x.pth"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError) as error:
            open_tensors(path)
        assert "\n" not in str(error.value)


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_damage_gives_one_line_or_a_readable_file(tmp_path, data):
    buffer = io.BytesIO()
    torch.save({"w": MATRIX, "b": MATRIX.t()[1:]}, buffer)
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pth"
    path.write_bytes(raw)
    try:
        source = open_tensors(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        for name in source.tensors:
            source.read(name).tobytes()


def test_pytorch_reads_what_we_write(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a.weight": rng.standard_normal((3, 300)).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(ml_dtypes.bfloat16),
        "transposed": rng.standard_normal((4, 6)).astype(np.float16).T,
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "ids": np.arange(3),
    }
    path = tmp_path / "x.pth"
    write_torch_zip(path, ArrayTensors(arrays))
    theirs, ours = torch.load(path, weights_only=True, mmap=True), open_tensors(path)
    assert theirs.keys() == arrays.keys() == ours.tensors.keys()
    for name, array in arrays.items():
        assert as_numpy(theirs[name]).tobytes() == array.tobytes(), name
        assert theirs[name].shape == array.shape
        assert ours.read(name).tobytes() == array.tobytes(), name
        assert ours.entries[name].offset % 64 == 0 or array.size == 0
