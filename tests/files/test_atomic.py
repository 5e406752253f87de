"""What cannot be written is told early and in one line; what fails midway leaves nothing."""

import os

import pytest

from pusa_jax.files.atomic import check_place, check_writable, replacing


def test_writable_check_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "new" / "deep" / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_output_below_a_file_is_refused_early(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.mp4", tmp_path / "file" / "new" / "a.mp4"):
        with pytest.raises(OSError, match="file is not a folder") as caught:
            check_writable(path)
        assert "\n" not in str(caught.value)


def test_folder_as_output_is_refused_early(tmp_path):
    with pytest.raises(OSError, match="is a folder; give the name of a file"):
        check_writable(tmp_path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody can write to")
def test_folder_that_takes_no_files_is_refused_early():
    with pytest.raises(PermissionError, match="cannot write to folder /proc/self") as caught:
        check_writable("/proc/self/a.mp4")
    assert "choose another output" in str(caught.value)


@pytest.mark.parametrize("name", ["a" * 250 + ".mp4", "new/" + "b" * 256 + "/a.mp4"])
def test_a_name_too_long_for_the_folder_is_refused_early(tmp_path, name):
    with pytest.raises(OSError, match=r"is too long for .*; choose a shorter one"):
        check_place(tmp_path / name)


def test_a_file_has_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half" and os.listdir(path.parent) == ["a.txt"]


def test_what_fails_midway_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
