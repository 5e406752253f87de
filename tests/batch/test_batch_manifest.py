"""The list of results, written by several processes and torn by kills."""

import json

import pytest

from pusa_jax.batch.manifest import Manifest


def test_of_several_entries_the_last_counts(tmp_path):
    path = tmp_path / "new" / "manifest.jsonl"
    ours, theirs = Manifest(path), Manifest(path)
    ours.append({"id": "a", "output": "a.mp4", "fingerprint": "1", "error": "no picture"})
    ours.append({"id": "a", "output": "a.mp4", "fingerprint": "1"})
    assert not theirs.entries
    theirs.refresh()
    assert theirs.entries == ours.entries and "error" not in theirs.entries["a"]
    theirs.append({"id": "b", "output": "b.mp4", "fingerprint": "2"})
    ours.refresh()
    assert [*ours.entries] == ["a", "b"]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("torn", ['{"id": "b", "outp', '{"id": "b'])
def test_a_torn_line_is_left_out_and_gone_on_from(tmp_path, torn):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps({"id": "a", "output": "a.mp4", "fingerprint": "1"}) + "\n" + torn)
    found = Manifest(path)
    assert [*found.entries] == ["a"]
    found.append({"id": "b", "output": "b.mp4", "fingerprint": "2"})
    assert [*Manifest(path).entries] == ["a", "b"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"output": "a"}', '{"id": 1'])
def test_another_file_is_no_list(tmp_path, line):
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"id": "a", "output": "a.mp4"}\n' + line + "\n")
    if line.startswith('{"id": '):  # as one that was torn
        assert [*Manifest(path).entries] == ["a"]
        return
    with pytest.raises(ValueError, match=r"line 2 of .*manifest.jsonl is no result"):
        Manifest(path)
