"""Checksums notice whatever is changed in a file."""

import numpy as np
import pytest

from pusa_jax.files import sums

SIZES = [1, 7, 8, 4095, 8192, 2**20 - 1, 2**20, 2**20 + 9]


@pytest.mark.parametrize("size", SIZES)
def test_a_changed_bit_changes_the_sum(tmp_path, size):
    rng, file = np.random.default_rng(size), tmp_path / "a"
    data = bytearray(rng.bytes(size))
    file.write_bytes(data)
    whole = sums.of_file(file)
    for at in {0, size // 2, size - 1, *rng.integers(0, size, 5)}:
        for bit in (0, 7):
            data[at] ^= 1 << bit
            file.write_bytes(data)
            assert sums.of_file(file) != whole
            data[at] ^= 1 << bit
    file.write_bytes(data)
    assert sums.of_file(file) == whole


def test_cut_ends_and_swapped_blocks_change_the_sum(tmp_path):
    zeros, file = bytes(3 * 2**20), tmp_path / "a"
    for change in (zeros[:-1], zeros + b"\0", b""):
        file.write_bytes(zeros)
        whole = sums.of_file(file)
        file.write_bytes(change)
        assert sums.of_file(file) != whole
    one, other = (np.random.default_rng(i).bytes(8192) for i in (1, 2))
    file.write_bytes(one + other)
    whole = sums.of_file(file)
    file.write_bytes(other + one)
    assert sums.of_file(file) != whole


def test_missing_and_changed_files_are_named(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    table = sums.of_files(tmp_path, "abc")
    (tmp_path / "a").unlink()
    (tmp_path / "c").write_text("d")
    assert sums.damaged(tmp_path, table) == ["a", "c"]


def test_a_table_knows_its_own_sum():
    table = sums.signed({"a": [1, 2.5], "b": {"c": None}})
    assert not sums.is_damaged(table) and sums.is_damaged(table | {"a": [1, 2.6]})
    assert not sums.is_damaged({"a": 1})  # of an earlier version
