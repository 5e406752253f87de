"""Small files that claim much: each is refused in one line, before it costs time or memory."""

import io
import json
import pickle
import resource
import struct
import time
import zipfile

import numpy as np
import pytest

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.files.safetensors import HEADER_LIMIT

STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
)


def number(n):
    data = pickle.encode_long(n)
    return b"\x8a" + bytes([len(data)]) + data


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(shape, strides):
    sizes = [b"(" + b"".join(map(number, each)) + b"t" for each in (shape, strides)]
    empty = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + STORAGE + number(0) + sizes[0] + sizes[1] + b"\x89" + empty + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def doubled(depth):
    """A tuple of itself twice, and so on: its parts are few, those of its parts 2**depth."""
    out = b")"
    for level in range(depth):
        out += b"q" + bytes([level % 256]) + b"h" + bytes([level % 256]) + b"\x86"
    return out


def torch_zip(path, content, **records):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("x/data.pkl", b"\x80\x02" + content + b".")
        for name, data in {"data/0": bytes(4), **records}.items():
            file.writestr(f"x/{name}", data)


def safetensors(path, header, data=b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def entry(shape, offsets=(0, 0), dtype="F32"):
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


ONE = tensor((1,), (1,))

PICKLES = {
    "stride 0": (b"}" + text("w") + tensor((10**7, 10**4), (0, 0)) + b"s", "claim"),
    "many of one storage": (
        b"}(" + b"".join(text(f"{i}") + tensor((2**22,), (0,)) for i in range(99)) + b"u", "claim"
    ),
    "memory of the unpickler": (b"}r\xff\xff\xff\x7f", "0 entries"),
    "key of 2**60 parts": (b"}" + doubled(60) + text("v") + b"s", "has no name"),
    "value of 2**60 parts": (b"}" + text("w") + doubled(60) + b"s", "are no tensors"),
    "name of 2**60 parts": (b"}(" + text("w") + ONE + doubled(60) + text("v") + b"u",
                            "has no name"),
    "bytes": (b"}" + text("w") + b"\x96" + struct.pack("<Q", 2**40) + b"s", "damaged"),
    "two of one name": (b"}(" + (text("w") + ONE) * 2 + b"u", "two entries are called"),
    "truth for a size": (b"}" + text("w") + ONE.replace(number(1), b"\x88", 1) + b"s",
                         "no tensors|damaged"),
    "a set": (b"}" + text("w") + b"\x8fs", "damaged"),
    "copies": (b"}" + b"2" * 10**6, "damaged"),
    "state": (b"ccollections\nOrderedDict\n)R}" + doubled(60) + b"K\x01sb", "has no name"),
}  # fmt: skip

HEADERS = {
    "sizes": (entry([2**31, 2**31]), "describes 'w'"),
    "sizes of nothing": (entry([2**62, 0]), "describes 'w'"),
    "truth for a size": (entry([True], (0, 4)), "describes 'w'"),
    "a fraction": (entry([1.0], (0, 4)), "describes 'w'"),
    "two of one name": (b"{" + entry([1])[1:-1] + b"," + entry([1])[1:-1] + b"}", "one name"),
    "nests": (b"[" * 10**6, "not JSON"),
    "long numbers": (b'{"w":' + b"9" * 10**6 + b"}", "not JSON|describes"),
    "not a number": (b'{"w": NaN}', "describes 'w'"),
}  # fmt: skip


def refused(path):
    """What is said of a file; it takes no second and no memory to say."""
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ValueError) as error:
        open_tensors(path)
    assert time.perf_counter() - since < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2 * path.stat().st_size / 1024 + 500_000
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_claim_much_are_refused(tmp_path, name):
    content, says = PICKLES[name]
    torch_zip(tmp_path / "x.pth", content)
    message = refused(tmp_path / "x.pth")
    assert any(part in message for part in says.split("|")), message


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_claim_much_are_refused(tmp_path, name):
    header, says = HEADERS[name]
    safetensors(tmp_path / "x.safetensors", header, bytes(4))
    message = refused(tmp_path / "x.safetensors")
    assert any(part in message for part in says.split("|")), message


def test_large_tables_of_contents_are_refused(tmp_path):
    safetensors(tmp_path / "x.safetensors", b"{}" + b" " * HEADER_LIMIT)
    assert "header" in refused(tmp_path / "x.safetensors")
    torch_zip(tmp_path / "x.pth", b"}" + text("w") + ONE + b"s" + b" " * 2**22)
    assert "pickle is too large" in refused(tmp_path / "x.pth")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", b"")
    data = bytearray(archive.getvalue())
    data[-10:-6] = struct.pack("<L", 2**31)
    (tmp_path / "x.pth").write_bytes(data)
    assert "table of contents is too large" in refused(tmp_path / "x.pth")


def test_compressed_records_are_not_blown_up(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"}.")
        file.writestr("x/byteorder", bytes(2**28))
    assert "big-endian" in refused(tmp_path / "x.pth")


def test_what_may_be_shared_is_read(tmp_path):
    content = b"}(" + b"".join(text(f"{i}") + tensor((8,), (0,)) for i in range(99)) + b"u"
    torch_zip(tmp_path / "x.pth", content)
    source = open_tensors(tmp_path / "x.pth")
    assert len(source.tensors) == 99 and np.array_equal(source.read("7"), np.zeros(8))
