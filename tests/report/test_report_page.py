"""The page: what it shows, and that it fetches and runs nothing."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from small_videos import job_record, moving, written

from pusa_jax.media import video
from pusa_jax.report import svg
from pusa_jax.report.comparing import beside_first, measured, open_all
from pusa_jax.report.page import MARK, is_ours, page

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Reader(HTMLParser):
    """Elements and attributes of a page; every element must end where it should."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder, frames = tmp_path_factory.mktemp("page"), moving(17)
    video.write_png(folder / "first.png", frames[0])
    given = ("i2v", folder / "first.png")
    written(folder / "a.mp4", frames, job_record(*given, at=(0,)))
    written(folder / "b c%.mp4", moving(17, 1), job_record(*given, at=(0,), prompt=EVIL))
    sources = open_all([folder / "a.mp4", folder / "b c%.mp4"])
    return measured("A & B", sources, beside_first(sources), missing=[("x", EVIL)])


@pytest.fixture(scope="module")
def text(found):
    return page(found, found.seen[0].source.path.parent)


def test_the_page_is_well_formed_and_runs_nothing(text):
    read = Reader(text)
    assert read.open == []
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(read.tags)
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert "<title>A &amp; B</title>" in text and "&lt;script&gt;" in text


def test_the_page_fetches_nothing(text):
    read = Reader(text)
    sources = [value for _, name, value in read.attributes if name in ("src", "srcset", "data")]
    assert len(sources) == 18
    assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_names_lead_to_the_videos(found, text):
    links = [value for tag, name, value in Reader(text).attributes if (tag, name) == ("a", "href")]
    assert links == ["a.mp4", "b%20c%25.mp4"]
    elsewhere = page(found, found.seen[0].source.path.parent / "below")
    assert 'href="../a.mp4"' in elsewhere


def test_given_frames_are_marked_and_differing_settings_told(text):
    assert text.count('<figure class="given">') == 2
    assert "a given frame ends" in text and "<th>prompt</th>" in text
    assert "<th>num_steps</th>" not in text
    assert text.count("<svg") == 2 + 4


def test_the_same_videos_make_the_same_page(found, text):
    assert page(found, found.seen[0].source.path.parent) == text


def test_many_videos_have_no_inks(found):
    many = dataclasses.replace(found, seen=found.seen * 5)
    text = page(many, found.seen[0].source.path.parent)
    assert text.count("<svg") == 10 and 'class="swatch' not in text


def test_pages_of_ours_are_known(tmp_path, text):
    (tmp_path / "a.html").write_text(text)
    (tmp_path / "b.html").write_text("<!DOCTYPE html><html></html>")
    assert is_ours(tmp_path / "a.html") and not is_ours(tmp_path / "b.html")
    assert MARK in text[:200]


def test_a_plot_has_round_numbers_and_all_finite_points():
    times = np.arange(4.0)
    drawn = svg.lines("n", [("a", times, np.array([0.0, 3.7, np.inf, 1.2])), ("b", times, times)])
    assert re.findall(r'class="end">([^<]*)<', drawn) == ["0", "1", "2", "3", "4"]
    assert re.findall(r'class="mid">([^<]*)<', drawn) == ["0 s", "1 s", "2 s", "3 s"]
    assert [len(p.split()) for p in re.findall(r'points="([^"]*)"', drawn)] == [3, 4]


@pytest.mark.parametrize("values", [[], [5.0], [0.0, 0.0], [-3.0, 1e9], [1e-9, 2e-9]])
def test_a_plot_of_odd_values_is_drawn(values):
    values = np.array(values)
    drawn = svg.lines("n", [("a", np.arange(len(values)) * 0.1, values)])
    assert "nan" not in drawn and "inf" not in drawn
    assert 2 <= drawn.count('class="end"') <= 8


def test_the_peaks_of_a_long_series_are_drawn():
    values = np.zeros(100_000)
    values[77_777] = 1.0
    drawn = svg.lines("n", [("a", np.arange(100_000.0), values)])
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert len(heights) == svg.POINTS and sum(h == min(heights) for h in heights) == 1


def test_a_strip_lies_under_its_pictures():
    times, flat = np.array([0.0, 1.0, 2.0]), (np.array([0.0, 1.0, 2.0]), np.full(3, 5.0), 10.0)
    drawn = svg.strip(
        2.0, 3, (times, np.array([1.0, 2.0, 99.0]), 2.0), flat, [(0.0, 1.0)], [1.0], 5
    )
    (line,) = re.findall(r'polyline class="line s5" points="([^"]*)"', drawn)
    assert line == "166.7,37.0 500.0,4.0 833.3,4.0"
    assert '<rect class="given" x="166.7" width="333.3"' in drawn and "M500.0 0V70" in drawn
