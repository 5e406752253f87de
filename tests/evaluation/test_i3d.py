"""The I3D network against PyTorch, through files of both kinds and both namings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.convert import i3d as table
from pusa_jax.convert.tables import ConversionError, LeafTensors, load
from pusa_jax.evaluation.i3d import I3DConfig, build, prepared
from pusa_jax.testing.compare import relative_error
from pusa_jax.weights.leaves import abstract, fill, shapes_for

torch = pytest.importorskip("torch", reason="needs the extra [test]")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning"),
]

SIZE = 64
PUBLISHED_PARAMETERS = 12_697_264
"""Of pytorch-i3d's network with 400 classes, counted without running means and variances."""


@pytest.fixture(scope="module")
def peer():
    import i3d_peer

    return i3d_peer.peer(SIZE)


@pytest.fixture(scope="module")
def files(peer, tmp_path_factory):
    """The same weights as a program, as a dict in the other naming, and wrapped."""
    import i3d_peer

    folder = tmp_path_factory.mktemp("i3d")
    torch.jit.script(peer).save(str(folder / "scripted.pt"))
    state = i3d_peer.in_the_other_naming(peer.state_dict())
    torch.save(state, folder / "renamed.pt")
    torch.save({f"net.{k}": v for k, v in peer.state_dict().items()}, folder / "inside.pt")
    return folder


def read(path):
    source = table.open_i3d(path)
    config = I3DConfig.of_channels(table.channels_of(source), SIZE)
    naming = table.naming_of(source)
    leaves = load(
        source,
        table.rules(*naming),
        shapes_for(build, config),
        ignored=table.ignored(*naming),
        dtype="float32",
    )
    return config, leaves


def scores(path, frames):
    config, leaves = read(path)
    network = fill(abstract(build, config), leaves)
    return jax.jit(lambda network, frames: network(frames))(network, frames)


def clip(frames, height, width):
    return np.random.default_rng(1).integers(0, 256, (2, frames, height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(16, 72, 72), (17, 40, 90)], ids=["even", "odd"])
def test_scores_are_those_of_pytorch(files, peer, shape):
    frames = clip(*shape)
    with torch.no_grad():
        x = torch.from_numpy(frames.transpose(0, 4, 1, 2, 3))
        expected = peer(x, rescale=True, resize=True, return_features=True)
    assert relative_error(scores(files / "scripted.pt", frames), expected) < 1e-5


def test_the_same_weights_are_read_from_every_kind_of_file(files):
    (config, first), *others = (read(files / f"{n}.pt") for n in ("scripted", "renamed", "inside"))
    for same, leaves in others:
        assert same == config and leaves.keys() == first.keys()
        for path in first:
            np.testing.assert_array_equal(first[path], leaves[path], err_msg=path)


def test_the_table_is_exact_both_ways(files, peer):
    source = table.open_i3d(files / "scripted.pt")
    naming = table.naming_of(source)
    back = LeafTensors(read(files / "scripted.pt")[1], table.rules(*naming))
    ignored = table.ignored(*naming)
    state = {name: x for name, x in peer.state_dict().items() if name not in ignored}
    assert back.tensors.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(back.read(name), tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("shape", [(256, 256), (224, 224), (100, 300)])
def test_frames_are_resized_as_pytorch_does(shape):
    frames = clip(1, *shape)
    x = torch.from_numpy(frames[:, 0].transpose(0, 3, 1, 2)).float()
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False)
    expected = (x / 255 * 2 - 1).numpy().transpose(0, 2, 3, 1)[:, None]
    assert relative_error(prepared(jnp.asarray(frames), 224), expected) < 1e-5


def test_the_published_network_has_its_size():
    shapes = shapes_for(build, I3DConfig())
    counted = {p: s for p, s in shapes.items() if not p.endswith(("/mean", "/variance"))}
    assert sum(math.prod(shape.shape) for shape in counted.values()) == PUBLISHED_PARAMETERS


def test_a_network_that_is_another_is_told(files, tmp_path, peer):
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no Inception-I3D network: there is no layer conv3d_1a"):
        table.channels_of(table.open_i3d(tmp_path / "x.pt"))
    state = dict(peer.state_dict())
    del state["mixed_4c.branch_2.1.conv3d.weight"]
    torch.save(state, tmp_path / "y.pt")
    with pytest.raises(ValueError, match=r"mixed_4c\.branch_2\.1\.conv3d\.weight must be there"):
        read(tmp_path / "y.pt")
    torch.save({**peer.state_dict(), "gate": torch.zeros(2)}, tmp_path / "z.pt")
    with pytest.raises(ConversionError, match="unexpected: gate"):
        read(tmp_path / "z.pt")
