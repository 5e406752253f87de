"""The list of VBench-I2V is read as it is published, and nothing else passes for it."""

from collections import Counter

import pytest
from made_suite import images, rows, written

from pusa_jax.vbench import suite


def test_the_list_has_its_prompts_images_and_names(tmp_path):
    prompts = suite.read_suite(written(tmp_path))
    assert len(prompts) == 1118 and len({p.image for p in prompts}) == 355
    first = rows()[0]["prompt_en"]
    assert (prompts[0].text, prompts[0].kind) == (first, "i2v_background")
    assert prompts[0].video(4) == f"{first}-4.mp4"


def changed(change):
    made = rows()
    change(made)
    return made


@pytest.mark.parametrize(
    ("made", "line"),
    [
        ({}, "it is no list of tables"),
        (changed(lambda r: r[1].pop("image_name")), "1 of 1118 rows name no image, as .a view"),
        (changed(lambda r: r[3].update(dimension=["color"])), "row 4 has no prompt_en, image_name"),
        (
            changed(lambda r: r.pop()),
            "245 i2v_subject, 109 i2v_background, 763 camera_motion w",
        ),
        (changed(lambda r: r[2].update(r[1])), "a prompt is there twice: a view of place 0"),
        (changed(lambda r: r[0].update(prompt_en="a/b")), "a prompt that is no file name: a/b"),
        (changed(lambda r: r[0].update(prompt_en="x" * 250)), "a prompt that is no file name: x"),
    ],
)
def test_another_version_is_refused_in_a_line(tmp_path, made, line):
    with pytest.raises(ValueError, match=line) as caught:
        suite.read_suite(written(tmp_path, made))
    text = str(caught.value)
    assert "is another version of the list" in text and "Vchitect/VBench" in text
    assert "\n" not in text


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*Vchitect/VBench"):
        suite.read_suite(tmp_path / "x")
    (tmp_path / "x").write_text("[")
    with pytest.raises(ValueError, match="is no JSON"):
        suite.read_suite(tmp_path / "x")


def test_the_subset_has_50_of_each_kind_from_all_over_the_list(tmp_path):
    prompts = suite.read_suite(written(tmp_path))
    chosen = suite.subset(prompts)
    assert suite.SAMPLES * len(chosen) == 750
    assert Counter(p.kind for p in chosen) == dict.fromkeys(suite.COUNTS, 50)
    assert chosen == [p for p in prompts if p in chosen]  # in their order
    motions = Counter(p.text.rpartition(", ")[2] for p in chosen if p.kind == "camera_motion")
    assert len(motions) == 7 and max(motions.values()) <= 8


def test_seeds_are_of_the_video_alone_and_differ(tmp_path):
    prompts = suite.read_suite(written(tmp_path))
    seeds = {suite.seed_of(0, p, i) for p in prompts[:200] for i in range(5)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)
    assert suite.seed_of(0, prompts[0], 0) != suite.seed_of(1, prompts[0], 0)
    assert suite.seed_of(0, suite.Prompt(text="a cat", image="x", kind="y"), 3) == 1103945183


@pytest.mark.parametrize(
    ("height", "width", "ratio"),
    [
        (720, 1280, "16-9"),
        (480, 832, "7-4"),
        (704, 1280, "16-9"),
        (512, 512, "1-1"),
        (480, 768, "8-5"),
    ],
)
def test_the_ratio_is_the_nearest(tmp_path, height, width, ratio):
    assert suite.nearest_ratio(height, width) == ratio
    assert suite.check_ratio(tmp_path, height, width) == ratio
    assert suite.check_ratio(tmp_path / ratio, height, width) == ratio


def test_images_of_another_ratio_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"images of 1-1, but 1280x720 is nearest to 16-9: give "):
        suite.check_ratio(tmp_path / "1-1", 720, 1280)


def test_an_upright_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="VBench-I2V has no upright images: 480x832"):
        suite.check_ratio(tmp_path, 832, 480)


def test_missing_and_broken_images_are_named(tmp_path):
    prompts = suite.read_suite(written(tmp_path))
    top = images(tmp_path)
    suite.check_images(prompts, top)
    gone = [prompts[0].image, prompts[-1].image]
    for name in gone:
        (top / name).unlink()
    assert suite.missing_images(prompts, top) == gone
    with pytest.raises(
        FileNotFoundError, match=f"2 of 355 images are not in .*: {'; '.join(gone)}"
    ):
        suite.check_images(prompts, top)
    for name in gone:
        (top / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=gone[0]):
        suite.check_images(prompts, top)
