"""Lists as people write them: read as meant, or refused by line."""

import json

import pytest

from pusa_jax.data.lists import read_clips
from pusa_jax.progress import PusaWarning


@pytest.mark.parametrize(
    "line",
    [
        "a.png,a red circle, moving right, on black",
        'a.png,"a red circle',
        'a.png, "a red circle"',
        'a.png,"a red" circle',
        "a.png",
        '"a.png,a red circle',
        'a.png,a red circle"',
        'a.png,a "red circle',
    ],
)
def test_a_row_that_could_be_read_two_ways_is_named(tmp_path, line):
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{line}\nb.png,blue\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2"):
        read_clips(tmp_path)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file_name,text,fps", "a.png,a red circle, on black"),
        ("file_name,fps,text", "a.png,a red circle, on black"),
        ("file_name,text,", "a.png,a red circle,on black"),
    ],
)
def test_a_cut_caption_in_the_place_of_a_lacking_field_is_named(tmp_path, header, row):
    (tmp_path / "metadata.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2 has .* put a caption with commas"):
        read_clips(tmp_path)


@pytest.mark.parametrize(
    ("header", "row", "caption"),
    [
        (",file_name,text", "0,a.png,red", "red"),
        ("file_name,text,", "a.png,red,", "red"),
        ("file_name,fps,text", 'a.png,16," red, on black"', "red, on black"),
        ("file_name, text, fps", "a.png, red, 16", "red"),
    ],
)
def test_rows_that_can_be_read_in_one_way_are_read(tmp_path, header, row, caption):
    (tmp_path / "metadata.csv").write_text(f"{header}\n{row}\n")
    (clip,) = read_clips(tmp_path)
    assert (clip.name, clip.caption) == ("a.png", caption)


def test_a_json_list_of_objects_is_read(tmp_path):
    path = tmp_path / "metadata.json"
    path.write_text('[{"video": "a.png", "prompt": "red"},\n {"video": "b.png", "prompt": "a, b"}]')
    clips = read_clips(tmp_path)
    assert [(clip.name, clip.caption) for clip in clips] == [("a.png", "red"), ("b.png", "a, b")]
    path.write_text('[{"video": "a.png", "prompt": "red", "prompt": "blue"}]')
    with pytest.raises(ValueError, match=r"metadata\.json, object 1 must have one column"):
        read_clips(path)
    path.write_text('{"video": "a.png", "prompt": "red"}')
    with pytest.raises(ValueError, match="a JSON list of objects is expected"):
        read_clips(path)


def test_a_caption_of_several_lines_says_that_jsonl_holds_it(tmp_path):
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"one\ntwo"\n')
    with pytest.raises(ValueError, match=r"line 2: .* captions of several lines .*jsonl"):
        read_clips(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one\\ntwo"}\n')
    assert read_clips(tmp_path)[0].caption == "one\ntwo"


def test_a_file_in_both_places_is_not_guessed(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\n")
    (tmp_path / "train" / "a.png").write_text("b")
    (clip,) = read_clips(tmp_path)
    assert clip.find() == tmp_path / "train" / "a.png"
    (tmp_path / "a.png").symlink_to(tmp_path / "train" / "a.png")
    assert clip.find() == tmp_path / "a.png"
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").write_text("a")
    with pytest.raises(ValueError, match=r"a\.png is both in .* and in its folder train"):
        clip.find()


@pytest.mark.parametrize("field", ["video", "prompt"])
def test_half_a_character_is_a_fault_of_its_line(tmp_path, field):
    values = {"video": "a.png", "prompt": "x"} | {field: "\ud83d"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(values))
    (clip,) = read_clips(tmp_path)
    assert "\\ud83d" in clip.name + clip.caption
    with pytest.raises(ValueError, match="has what is no character of UTF-8"):
        clip.find()


@pytest.mark.parametrize(
    "line",
    ['{"video": "a", "prompt": "x", "prompt": "y"}', '{"video": "a", "file": "b", "text": ""}'],
)
def test_an_object_with_two_values_is_named(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 1"):
        read_clips(tmp_path)


@pytest.mark.parametrize(
    "header", ["image,prompt", "Video Path,Caption", "\ufeffvideo_path,caption", "FILE-NAME, Text"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_headers_in_any_spelling(tmp_path, header, encoding):
    text = f"{header}\r\na.png,\u00e9t\u00e9\r\n"
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    (clip,) = read_clips(tmp_path)
    assert (clip.name, clip.caption) == ("a.png", "\u00e9t\u00e9")


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("file_name;text\na.png;a cat, asleep\n", "a cat, asleep"),
        ("file_name\ttext\na.png\ta cat; asleep\n", "a cat; asleep"),
        ("video|prompt\na.png|x\n", "x"),
        ('"file_name";"text"\n"a.png";"a; cat"\n', "a; cat"),
        ("sep=;\nfile_name;text\na.png;x\n", "x"),
        ("\n\ntext,note;s,video\nx,y,a.png\n", "x"),
    ],
)
def test_the_header_says_what_stands_between_the_fields(tmp_path, text, caption):
    (tmp_path / "metadata.csv").write_text(text)
    (clip,) = read_clips(tmp_path)
    assert (clip.name, clip.caption) == ("a.png", caption)


def test_a_caption_with_semicolons_in_a_list_of_semicolons_is_named(tmp_path):
    (tmp_path / "metadata.csv").write_text("sep=;\nfile_name;text\na.png;a cat; asleep\n")
    with pytest.raises(ValueError, match=r"line 3 has 3 fields.*with semicolons into quotes"):
        read_clips(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name;text;caption\na.png;x;y\n")
    with pytest.raises(ValueError, match="must have one column with the file"):
        read_clips(tmp_path)


def test_files_that_come_twice_are_said(tmp_path):
    (tmp_path / "metadata.csv").write_text("image,prompt\na.png,x\nb.png,y\na.png,z\n")
    with pytest.warns(PusaWarning, match=r"metadata\.csv lists 1 files more than once: 'a\.png'"):
        assert [clip.caption for clip in read_clips(tmp_path)] == ["x", "y", "z"]


@pytest.mark.parametrize("field", ["video", "prompt"])
def test_a_zero_in_a_text_is_a_fault_of_its_line(tmp_path, field):
    values = {"video": "a.png", "prompt": "x"} | {field: "a\0b"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="has what is no character of UTF-8"):
        read_clips(tmp_path)[0].find()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"video": "a.png", "prompt": NaN}', "the caption is NaN, a text is expected"),
        ('{"video": "a.png", "prompt": 5}', "the caption is 5"),
        ('{"video": ["a.png"], "prompt": "x"}', "the file is"),
        ('{"video": "a.png", "prompt": null}', "has no caption"),
    ],
)
def test_a_value_that_is_no_text_is_a_fault_of_its_line(tmp_path, line, reason):
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match=reason):
        read_clips(tmp_path)[0].find()


@pytest.mark.parametrize(
    "line",
    ['{"video": "a", "prompt": "x",}', "{'video': 'a', 'prompt': 'x'}", '[{"video": "a"}]', "{}",
     '{"video": "a", "prompt": "x"} {}', "// a list"],
)  # fmt: skip
def test_a_line_that_is_no_object_of_json_is_named(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"video": "a", "prompt": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metadata\.jsonl.*line 2"):
        read_clips(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [("cp1252", "line 2 is not UTF-8 .*cp1252"), ("utf-16-le", "not UTF-8|zero bytes"),
     ("utf-32", "zero bytes")],
)  # fmt: skip
def test_other_encodings_are_named_with_the_way_out(tmp_path, encoding, reason):
    (tmp_path / "metadata.csv").write_bytes("image,prompt\na.png,caf\u00e9\n".encode(encoding))
    with pytest.raises(ValueError, match=f"{reason}.*save it as UTF-8"):
        read_clips(tmp_path)


def test_names_of_windows_and_of_macs_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e\u0301.png").touch()
    (tmp_path / "metadata.csv").write_text("image,prompt\nsub\\\u00e9.png,x\n", "utf-8")
    assert read_clips(tmp_path)[0].find().is_file()


def test_captions_beside_clips(tmp_path):
    for name in ("a.mp4", "b.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "c.txt").write_text("one\ntwo\n")
    first, second, third = read_clips(tmp_path)
    assert first.caption == "a cat" and first.find() == tmp_path / "a.mp4"
    for clip, reason in ((second, "no b.txt"), (third, "2 lines of text")):
        with pytest.raises(ValueError, match=reason):
            clip.find()
