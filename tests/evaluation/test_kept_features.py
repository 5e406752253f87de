"""Features and statistics on disk."""

import numpy as np
import pytest

from pusa_jax.evaluation.frechet import statistics
from pusa_jax.evaluation.kept import opened
from pusa_jax.evaluation.saved import read_statistics, write_statistics

ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
SETTINGS = {"what": "real", "clips": 5, "network": "abc"}


def filled(path, rows=ROWS, settings=SETTINGS):
    with opened(path, settings, 3) as store:
        for number, row in enumerate(rows):
            store.append(number, row)
    return path


def content(path, settings=SETTINGS):
    with opened(path, settings, 3) as store:
        return dict(store.features)


def test_what_is_written_is_read(tmp_path):
    path = filled(tmp_path / "new/x.features")
    found = content(path)
    assert list(found) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(np.stack(list(found.values())), ROWS)


@pytest.mark.parametrize("cut", [1, 19, 20, 21, 99])
def test_records_before_a_cut_are_kept_and_the_file_goes_on(tmp_path, cut):
    path = filled(tmp_path / "x.features")
    path.write_bytes(path.read_bytes()[:-cut])
    left = 5 - -(-cut // 20)  # a record is two whole numbers and three floats
    assert len(content(path)) == left
    with opened(path, SETTINGS, 3) as store:
        store.append(9, ROWS[0])
    found = content(path)
    assert list(found) == [*range(left), 9]
    np.testing.assert_array_equal(found[9], ROWS[0])


def test_a_damaged_record_and_what_follows_it_are_dropped(tmp_path):
    path = filled(tmp_path / "x.features")
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)
    assert list(content(path)) == [0, 1]


@pytest.mark.parametrize("head", [b"", b"{", b"nothing of this kind\n"])
def test_a_file_of_something_else_begins_anew(tmp_path, head):
    path = tmp_path / "x.features"
    path.write_bytes(head)
    assert content(path) == {}
    assert list(content(filled(path))) == [0, 1, 2, 3, 4]


def test_two_processes_do_not_write_at_once(tmp_path):
    with opened(tmp_path / "x.features", SETTINGS, 3):
        with pytest.raises(ValueError, match="being written by another process"):
            content(tmp_path / "x.features")


def test_statistics_come_back_to_the_last_bit(tmp_path):
    found = statistics(ROWS)
    write_statistics(tmp_path / "s.npz", found, SETTINGS)
    again = read_statistics(tmp_path / "s.npz", SETTINGS)
    assert again.count == 5
    np.testing.assert_array_equal(again.total, found.total)
    np.testing.assert_array_equal(again.products, found.products)


def test_statistics_of_other_clips_are_refused(tmp_path):
    write_statistics(tmp_path / "s.npz", statistics(ROWS), SETTINGS)
    with pytest.raises(ValueError, match=r"other clips: clips is 5 there and 6 here"):
        read_statistics(tmp_path / "s.npz", SETTINGS | {"clips": 6})


def test_files_that_hold_no_statistics_are_told(tmp_path):
    good = statistics(ROWS)
    write_statistics(tmp_path / "good.npz", good, SETTINGS)
    cut = (tmp_path / "good.npz").read_bytes()[:-30]
    (tmp_path / "cut.npz").write_bytes(cut)
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", x=1)
    with np.load(tmp_path / "good.npz") as file:
        whole = dict(file)
    odd = {
        "none": {"count": np.int64(0)},
        "narrow": {"products": good.products[:2]},
        "infinite": {"total": good.total * np.inf},
        "rounded": {"total": good.total.astype(np.float32)},
        "wordless": {"settings": np.asarray("[1]")},
    }
    for name, fields in odd.items():
        np.savez(tmp_path / f"{name}.npz", **(whole | fields))
    for name in ("cut", "text", "other", *odd):
        with pytest.raises(ValueError, match=rf"{name}\.npz holds no statistics") as error:
            read_statistics(tmp_path / f"{name}.npz", SETTINGS)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        read_statistics(tmp_path / "missing.npz", SETTINGS)
