import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pusa_jax.weights import streaming

X = np.arange(7 * 8 * 4, dtype=np.float32).reshape(7, 8, 4)


@pytest.mark.parametrize("spec", [P(None, "x"), P(None, None, "y"), P(), P(None, ("x", "y"))])
def test_every_device_reads_its_own_part_a_few_rows_at_a_time(monkeypatch, spec):
    monkeypatch.setattr(streaming, "PIECE_BYTES", 2 * X[0].nbytes)
    monkeypatch.setattr(streaming, "WHOLE_BYTES", 2 * X[0].nbytes)
    sharding = NamedSharding(jax.make_mesh((4, 2), ("x", "y")), spec)
    most = 2 * X[0].nbytes // (X.nbytes // np.prod(sharding.shard_shape(X.shape)) // 4)

    def read(index):
        part = X[index]
        assert part.shape[0] <= 2 and part.size <= most
        return part

    placed = streaming.read_to_devices(read, X.shape, X.dtype, sharding)
    assert placed.sharding == sharding
    np.testing.assert_array_equal(placed, X)


@pytest.mark.parametrize("shape", [(), (3,), (8, 2)])
def test_rows_that_are_cut_themselves_and_scalars_find_their_place(monkeypatch, shape):
    monkeypatch.setattr(streaming, "PIECE_BYTES", 8)
    monkeypatch.setattr(streaming, "WHOLE_BYTES", 8)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    cut = shape == (8, 2)
    sharding = NamedSharding(jax.make_mesh((8,), ("x",)), P("x") if cut else P())
    for where in (sharding, None):
        placed = streaming.read_to_devices(
            lambda index: np.asarray(x[index]), x.shape, x.dtype, where
        )
        assert where is None or placed.sharding == where
        np.testing.assert_array_equal(placed, x)
