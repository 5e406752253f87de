"""The list of a batch, as a report reads it."""

import json

import pytest

from pusa_jax.report.manifest import Landed, read_manifest


def folder_of(path, *entries, tail=""):
    lines = [json.dumps(entry) if isinstance(entry, dict) else entry for entry in entries]
    (path / "manifest.jsonl").write_text("\n".join(lines) + "\n" + tail)
    return path


def test_results_come_in_the_order_they_landed_and_of_tries_the_last_counts(tmp_path):
    folder_of(
        tmp_path,
        {"id": "a", "error": "out of memory", "output": "a.mp4"},
        {"id": "b", "output": "b.mp4", "seconds": 1.0, "fingerprint": "x"},
        "",
        {"id": "a", "output": "a.mp4", "error": None},
        {"id": "c", "error": "no such file"},
        tail='{"id": "d", "outp',
    )
    assert read_manifest(tmp_path) == [
        Landed(id="a", output=tmp_path / "a.mp4"),
        Landed(id="b", output=tmp_path / "b.mp4"),
        Landed(id="c", output=None, error="no such file"),
    ]


def test_the_list_may_lie_elsewhere(tmp_path):
    folder_of(tmp_path, {"id": "a", "output": "a.mp4"})
    (tmp_path / "videos").mkdir()
    (found,) = read_manifest(tmp_path / "videos", tmp_path / "manifest.jsonl")
    assert found.output == tmp_path / "videos/a.mp4"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 of .* is no result"),
        ("[" * 99_999, "line 2 of .* is no result"),
        ('["a"]', "line 2 of .* is no result"),
        ('{"output": "a.mp4"}', "line 2 of .* is no result"),
        ('{"id": "x"}', "names no output"),
        ('{"id": "x", "output": "../../etc/passwd"}', "names a file outside"),
        ('{"id": "x", "output": "/etc/passwd"}', "names a file outside"),
    ],
)
def test_what_is_no_result_is_told_with_its_line(tmp_path, line, said):
    folder_of(tmp_path, {"id": "a", "output": "a.mp4"}, line)
    with pytest.raises(ValueError, match=said) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_no_batch_is_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no .*manifest.jsonl; .*pusa-jax compare"
    ):
        read_manifest(tmp_path)
    with pytest.raises(NotADirectoryError, match="is no folder"):
        read_manifest(tmp_path / "gone")
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="lists no result yet"):
        read_manifest(tmp_path)
