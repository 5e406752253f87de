"""The commands `pusa-jax compare` and `pusa-jax report`."""

import json

import pytest
from small_videos import job_record, moving, written

from pusa_jax.cli.main import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        written(folder / name, moving(17, seed), job_record(seed=seed))
    (folder / "c.mp4").write_text("no video")
    return folder


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def refused(answer, *parts):
    code, out, err = answer
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert all(part in err for part in parts), err


def test_a_comparison_is_a_page_and_a_table(call, videos, tmp_path):
    code, out, err = call("compare", videos / "a.mp4", videos / "b.mp4")
    assert code == 0 and "frames: 34, " in err
    lines = out.splitlines()
    assert lines[2].startswith("a.mp4") and lines[-2:] == [
        "settings that differ: seed",
        "outputs/compare.html",
    ]
    page = (tmp_path / "outputs/compare.html").read_text()
    assert "2 videos side by side" in page
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["compare.html"]
    assert call("compare", videos / "a.mp4", videos / "b.mp4", "--quiet") == (0, out, "")


def test_what_is_no_comparison_leaves_nothing(call, videos, tmp_path):
    a, b = videos / "a.mp4", videos / "b.mp4"
    refused(call("compare", a), "two videos or more, got 1")
    refused(call("compare", a, videos / "c.mp4"), "c.mp4 is damaged or not a video")
    refused(call("compare", a, videos / "d.mp4"), "d.mp4 does not exist")
    refused(call("compare", a, videos), "is a folder; a video file is expected")
    refused(call("compare", a, b, "--output", "x.txt"), "must end in .html")
    assert list(tmp_path.iterdir()) == []


def test_only_pages_are_replaced(call, videos, tmp_path):
    two = ("compare", videos / "a.mp4", videos / "b.mp4", "--output", "x.html")
    (tmp_path / "x.html").write_text("mine")
    refused(call(*two), "x.html is no page of pusa-jax; --overwrite replaces it")
    assert (tmp_path / "x.html").read_text() == "mine"
    assert call(*two, "--overwrite")[0] == call(*two)[0] == 0


def test_no_video_is_replaced(call, videos, tmp_path):
    (tmp_path / "v.html").write_bytes((videos / "a.mp4").read_bytes())
    refused(
        call("compare", "v.html", videos / "b.mp4", "--output", "v.html", "--overwrite"),
        "is one of the videos",
    )


def test_a_batch_has_its_page_beside_its_list(call, videos, tmp_path):
    refused(call("report", videos), "there is no", "manifest.jsonl", "pusa-jax compare")
    refused(call("report", "gone"), "gone is no folder")
    lines = [{"id": n, "output": f"{n}.mp4"} for n in "ab"] + [{"id": "c", "error": "why"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = call("report", videos, "--manifest", "list.jsonl")
    assert code == 0 and "1 could not be looked at; the first, c: why" in out
    assert out.splitlines()[-1] == "report.html"
    page = (tmp_path / "report.html").read_text()
    assert f"Batch {videos.name}" in page and "held against <bdi>a.mp4</bdi>" in page
    assert not (videos / "report.html").exists()
    (videos / "manifest.jsonl").write_text((tmp_path / "list.jsonl").read_text())
    assert call("report", videos)[0] == 0 and (videos / "report.html").is_file()
