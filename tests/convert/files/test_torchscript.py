"""TorchScript archives are read as trees of attributes; whatever else they hold is not run."""

import struct
import time
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pusa_jax.convert.files.torchscript import is_torchscript, open_torchscript

torch = pytest.importorskip("torch", reason="needs the extra [test]")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning"),
]


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(2, 3, (1, 2, 3), bias=False)
        self.norm = torch.nn.BatchNorm3d(3)
        self.sizes, self.names, self.table, self.stride = [1, 2], ["a", "b"], {"a": 1}, (1, 2)
        self.word, self.number, self.nothing = "SAME", 0.5, None

    def forward(self, x):
        if self.word == "SAME" and self.sizes[0] == 1 and self.names[0] == "a":
            x = x * self.number + self.table["a"] + self.stride[0]
        return self.norm(self.conv(x))


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Inner()
        self.rest = torch.nn.Sequential(Inner(), torch.nn.Identity())
        self.shared = self.first

    def forward(self, x, rescale: bool = False):
        if rescale:
            x = x / 255
        return self.first(x), self.rest(x), self.shared(x)


MODEL = Outer().eval()
EXAMPLE = torch.zeros(1, 2, 3, 4, 5)


def scripted():
    return torch.jit.script(MODEL)


def traced():
    return torch.jit.trace(MODEL, EXAMPLE)


@pytest.mark.parametrize("made", [scripted, traced])
def test_parameters_and_buffers_are_read_by_their_names(tmp_path, made):
    path, module = tmp_path / "x.pt", made()
    module.save(str(path))
    assert is_torchscript(path)
    source, expected = open_torchscript(path), module.state_dict()
    assert {name for name in source.tensors if not name.startswith("shared")} == {
        name for name in expected if not name.startswith("shared")
    }
    for name, tensor in expected.items():
        np.testing.assert_array_equal(source.read(name), tensor.numpy(), err_msg=name)


def test_a_state_dict_is_no_program(tmp_path):
    torch.save(MODEL.state_dict(), tmp_path / "x.pt")
    assert not is_torchscript(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(b"PK nothing")
    assert not is_torchscript(tmp_path / "y.pt")
    with pytest.raises(ValueError, match="holds a OrderedDict, not a module"):
        open_torchscript(tmp_path / "x.pt")


def test_a_frozen_module_is_told_to_be_saved_before(tmp_path):
    path = tmp_path / "x.pt"
    torch.jit.freeze(scripted()).save(str(path))
    with pytest.raises(ValueError, match=r"holds no named tensors; .* before it is frozen"):
        open_torchscript(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    scripted().save(str(path))
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 60):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError) as error:
            open_torchscript(path)
        assert "\n" not in str(error.value) and not is_torchscript(path)


@given(data=st.data())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_damage_gives_one_line_or_a_readable_file(tmp_path, data):
    raw = bytearray(archive(tmp_path / "x.pt", module(a=module(w=TENSOR), n=b"K\3")).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.pt").write_bytes(raw)
    try:
        source = open_torchscript(tmp_path / "x.pt")
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        for name in source.tensors:
            source.read(name).tobytes()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


MODULE = b"c__torch__\nM\n)\x81"
"""An object of a class of modules, without attributes yet."""

STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\1tQ"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0(K\1t(K\1t\x89ccollections\n"
    b"OrderedDict\n)RtR"
)


def module(**attributes):
    entries = b"".join(text(name) + value for name, value in attributes.items())
    return MODULE + b"}(" + entries + b"ub"


def archive(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("x/data.pkl", b"\x80\x02" + content + b".")
        file.writestr("x/constants.pkl", b"\x80\x02).")
        file.writestr("x/code/__torch__.py", "raise SystemExit")
        file.writestr("x/data/0", np.float32(2.5).tobytes())
    return path


def doubled(depth):
    """A module that holds one module twice, which holds one twice, and so on."""
    out = module(w=TENSOR) + b"q\0"
    for level in range(1, depth):
        before = b"h" + bytes([level - 1])
        out += b"0" + module(a=before, b=before) + b"q" + bytes([level])
    return out


def test_a_module_made_by_hand_is_read(tmp_path):
    source = open_torchscript(archive(tmp_path / "x.pt", module(a=module(w=TENSOR), n=b"K\3")))
    assert set(source.tensors) == {"a.w"} and source.read("a.w").tolist() == [2.5]


HOSTILE = {
    "runs code": (b"cos\nsystem\n(" + text("touch victim") + b"tR", "asks for 'os.system'"),
    "hides code": (module(w=TENSOR, x=b"cbuiltins\neval\n(" + text("1") + b"tR"), "'builtins.eval"),
    "near the name": (b"c__torch__x\nM\n)\x81}b", "asks for '__torch__x.M'"),
    "near the list": (b"ctorch.jit._pickle\nunchecked_cast\n(K\1tR", "asks for 'torch.jit._pickle"),
    "calls a class": (b"c__torch__\nM\n(K\1tR", "damaged"),
    "makes a dict": (b"ccollections\nOrderedDict\n)\x81}b", "damaged"),
    "makes with arguments": (b"c__torch__\nM\n(K\1t\x81}b", "damaged"),
    "changes a stand-in": (b"ctorch._utils\n_rebuild_tensor_v2\n}(" + text("a") + b"K\1ub",
                           "damaged"),
    "changes a class": (b"c__torch__\nM\n}(" + text("a") + b"K\1ub", "damaged"),
    "twice": (module(w=TENSOR) + b"}b", "damaged"),
    "state of a list": (MODULE + b"]b", "damaged"),
    "nothing set": (MODULE, "holds no named tensors"),
    "numbers for names": (MODULE + b"}(K\1" + TENSOR + b"ub", "an attribute is called 1"),
    "long names": (module(**{"w" * 300: TENSOR}), "an attribute is called"),
    "a name of two": (module(**{"a.w": TENSOR, "a": module(w=TENSOR)}), "tensor a.w is no tensor"),
    "two to the sixty": (doubled(31), "too many, or hold each other"),
    "holds itself": (MODULE + b"q\0}(" + text("a" * 256) + b"h\0ub", "or hold each other"),
    "beyond its storage": (module(w=TENSOR.replace(b"(K\1t", b"(K\2t", 1)), "beyond its storage"),
    "a negative place": (module(w=TENSOR.replace(b"K\0", b"J\xff\xff\xff\xff", 1)), "no tensor"),
    "no module": (TENSOR, "holds a Tensor, not a module"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_in_one_line_and_at_once(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, says = HOSTILE[name]
    path, since = archive(tmp_path / "x.pt", content), time.perf_counter()
    with pytest.raises(ValueError) as error:
        open_torchscript(path)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert time.perf_counter() - since < 5
    assert [each.name for each in tmp_path.iterdir()] == ["x.pt"]
