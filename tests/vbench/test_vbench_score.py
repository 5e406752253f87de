"""The total is the published one: of every row of the paper's table, from its nine scores."""

import json
import re

import pytest

from pusa_jax.vbench.published import PUBLISHED, table
from pusa_jax.vbench.score import DIMENSIONS, read_scores, total_of

ABLATIONS = {
    "2 steps": (79.92, 91.87, 67.97, 77.18, 92.90, 98.18, 16.80, 51.69, 55.44, 94.20, 97.55, 30.40),
    "5 steps": (86.03, 94.48, 77.59, 88.53, 95.65, 98.25, 50.00, 60.21, 65.96, 97.03, 99.25, 29.20),
    "10 steps": (
        87.69, 94.83, 80.55, 91.39, 96.02, 98.10, 66.40, 62.42, 68.57, 97.78, 99.33, 26.40,
    ),
    "20 steps": (
        87.84, 94.51, 81.17, 89.54, 95.89, 98.10, 79.88, 61.02, 68.99, 97.07, 99.10, 31.10,
    ),
}  # fmt: skip
"""Rows of Pusa's Table 4, in the order of `PUBLISHED`."""

LIMIT = 0.02
"""Percent: scores and means are both rounded to a hundredth."""


def scores_of(row):
    return {name: value / 100 for name, value in zip(DIMENSIONS, row[3:], strict=True)}


@pytest.mark.parametrize("name", [*PUBLISHED, *ABLATIONS])
def test_the_means_of_a_published_row_follow_from_its_scores(name):
    row = (PUBLISHED | ABLATIONS)[name]
    found = total_of(scores_of(row))
    values = [100 * value for value in (found.total, found.i2v, found.quality)]
    assert values == pytest.approx(row[:3], abs=LIMIT)


def test_the_formula_is_vbenchs():
    """A case by hand: (x - least) / (most - least), weights 1 but 0.5 and 0.1."""
    scores = dict.fromkeys(DIMENSIONS, 0.9)
    sc, bc, ms = (0.9 - 0.1462) / 0.8538, (0.9 - 0.2615) / 0.7385, (0.9 - 0.706) / 0.2915
    found = total_of(scores)
    assert found.quality == pytest.approx((sc + bc + ms + 0.9 * 0.5 + 0.9 + 0.9) / 5.5)
    assert found.i2v == pytest.approx((sc + bc + 0.09) / 2.1)
    assert found.total == pytest.approx((found.quality + found.i2v) / 2)


@pytest.fixture
def results(tmp_path):
    """A file for each dimension, as VBench writes them."""
    for name, score in scores_of(PUBLISHED["Wan-I2V"]).items():
        rows = [{"video_path": "a-0.mp4", "video_results": score}]
        (tmp_path / f"{name}_eval_results.json").write_text(json.dumps({name: [score, rows]}))
    (tmp_path / "i2v_subject_full_info.json").write_text("[]")
    return tmp_path


def test_results_are_read_from_files_or_a_folder(results, tmp_path):
    expected = scores_of(PUBLISHED["Wan-I2V"])
    assert read_scores([results]) == expected
    assert read_scores(sorted(results.glob("*_eval_*"))) == expected
    one = tmp_path / "all.json"
    one.write_text(json.dumps({name: [score, []] for name, score in expected.items()}))
    assert read_scores([one]) == expected


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", r"result\.json is no JSON \("),
        ("[]", "is no result of VBench: it is no table of dimensions"),
        ('{"color": [0.5]}', "is no result of VBench-I2V: it has color, and none of subject_co"),
        ('{"i2v_subject": "x"}', r"i2v_subject is no \[score, videos\], got 'x'"),
        (
            '{"imaging_quality": [68.2, []]}',
            "imaging_quality is 68.2, expected 0 to 1: it is of",
        ),
        ('{"i2v_subject": [NaN, []]}', "i2v_subject is nan, expected 0 to 1"),
        (
            '{"i2v_subject": [0.5, []]}',
            r"result\.json has no subject_consistency, .* all nine",
        ),
    ],
)
def test_what_is_no_result_is_refused_in_a_line(tmp_path, content, line):
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=line) as caught:
        read_scores([file])
    assert "\n" not in str(caught.value)


def test_two_files_must_not_tell_different_scores(results, tmp_path):
    (tmp_path / "z.json").write_text('{"i2v_subject": [0.5, []]}')
    with pytest.raises(ValueError, match=r"z\.json has another i2v_subject than a file before"):
        read_scores([results])


def test_no_file_and_no_result(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*x\.json"):
        read_scores([tmp_path / "x.json"])
    with pytest.raises(FileNotFoundError, match="has no result of VBench"):
        read_scores([tmp_path])


def test_the_table_has_the_model_above_the_papers_rows():
    scores = scores_of(ABLATIONS["20 steps"])
    lines = table("mine", scores, total_of(scores)).splitlines()
    assert re.match(r"\| mine +\|   87\.8\d \|   94\.5\d \|   81\.1\d \|   89\.54 \|", lines[2])
    assert len(lines) == 3 + len(PUBLISHED) and len({len(line) for line in lines}) == 1
