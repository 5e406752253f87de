"""The lists of a batch: what is a line, and what is said of one that is none."""

import re

import pytest

from pusa_jax.batch import lines


def written(tmp_path, text, name="jobs.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_line_has_an_id_and_an_output_of_its_own(tmp_path):
    path = written(
        tmp_path,
        '{"prompt": "a", "seed": 3}\n\n{"id": "b", "task": "i2v"}\n{"id": 7, "output": "x.gif"}\n',
    )
    first, second, third = lines.read_jobs(path)
    assert (first.id, first.output, first.number) == ("00001", "00001.mp4", 1)
    assert first.fields == {"prompt": "a", "seed": 3}
    assert (second.id, second.output, second.number) == ("b", "b.mp4", 3)
    assert (third.id, third.output, third.fields) == ("7", "x.gif", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no video"),
        ('{"id": "a"}\nnot json\n', "line 2 of .*jobs.jsonl is no JSON"),
        ("[1]\n", "line 1 of .* is no object"),
        ('{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n', "lines 1 and 3 of .* both have the id 'a'"),
        ('{"output": "a.mp4"}\n{"output": "a.mp4"}\n', "both have the output"),
        ('{"id": "../a"}\n', "line 1 of .* the id names a file"),
        ('{"id": "a/b"}\n', "got 'a/b'"),
        ('{"id": ".hidden"}\n', "the id names a file"),
        ('{"output": "/etc/passwd"}\n', "the output names a file"),
        ('{"id": "' + "a" * 201 + '"}\n', "the id names a file"),
    ],
)
def test_a_list_that_is_none_is_told(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        lines.read_jobs(written(tmp_path, text))


def test_a_list_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no list"):
        lines.read_jobs(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="is a folder"):
        lines.read_jobs(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no UTF-8"):
        lines.read_prompts(tmp_path / "binary")


def test_prompts_are_jobs_of_text_to_video(tmp_path):
    first, second = lines.read_prompts(written(tmp_path, "a cat \n\na dog\n", "p.txt"))
    assert (first.id, first.fields) == ("00001", {"task": "t2v", "prompt": "a cat"})
    assert (second.id, second.fields["prompt"], second.output) == ("00003", "a dog", "00003.mp4")


def test_pictures_lie_beside_their_prompts(tmp_path):
    for name in ("b.png", "a.JPG"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("a cat\nsleeps\n")
    with pytest.raises(ValueError, match=re.escape("lacks the prompts of pictures: b.txt.")):
        lines.read_images(tmp_path)
    (tmp_path / "b.txt").write_text("a dog")
    first, second = lines.read_images(tmp_path)
    assert first.fields == {
        "task": "i2v",
        "image_paths": [str(tmp_path / "a.JPG")],
        "prompt": "a cat sleeps",
    }
    assert (first.id, second.id, second.output) == ("a", "b", "b.mp4")
    with pytest.raises(NotADirectoryError, match="no folder of images"):
        lines.read_images(tmp_path / "none")
