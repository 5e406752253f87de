"""Videos of VBench-I2V are asked for as its protocol says; their folder holds them alone."""

import json

import pytest
from made_suite import written

from pusa_jax.batch.lines import Line, checked, read_jobs
from pusa_jax.batch.shares import LOCKS
from pusa_jax.vbench import protocol, suite


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return suite.read_suite(written(tmp_path_factory.mktemp("list")))


def test_every_prompt_has_five_lines_with_seeds_and_names_of_their_own(prompts, tmp_path):
    lines = list(protocol.lines_of(prompts, tmp_path, 7, {"height": 720}))
    assert len(lines) == 5590 == len({line.output for line in lines})
    assert len({line.fields["seed"] for line in lines}) > 5580
    assert lines[6] == Line(
        id=f"{prompts[1].text}-1",
        output=f"{prompts[1].text}-1.mp4",
        number=7,
        fields={
            "height": 720,
            "task": "i2v",
            "prompt": prompts[1].text,
            "image_paths": [str(tmp_path / prompts[0].image)],
            "seed": suite.seed_of(7, prompts[1], 1),
        },
    )
    assert checked(lines, tmp_path) == lines  # by the rules of a batch


@pytest.mark.parametrize(
    ("common", "left"),
    [
        ((), {"crf", "num_inference_steps", "noise_multipliers"}),
        (("crf", "model"), {"num_inference_steps", "noise_multipliers"}),
        (("fast",), {"crf", "noise_multipliers"}),
        (("preset", "noise_multipliers"), {"crf"}),
    ],
)
def test_the_protocol_gives_way_to_what_is_asked(common, left):
    assert set(protocol.fields_beside(common)) == left


def test_the_folder_holds_videos_of_the_list_alone(prompts, tmp_path):
    folder = tmp_path / "videos"
    assert protocol.check_folder(folder, prompts) == 0
    folder.mkdir()
    for index in (0, 3):
        (folder / prompts[5].video(index)).touch()
    assert protocol.check_folder(folder, prompts) == 2
    (folder / LOCKS).mkdir()  # of a batch at work
    assert protocol.check_folder(folder, prompts) == 2
    for name in ("manifest.jsonl", f"{prompts[5].text}-5.mp4", ".DS_Store"):
        (folder / name).touch()
        with pytest.raises(ValueError, match="no video of the list: VBench takes the ending of"):
            protocol.check_folder(folder, prompts)
        (folder / name).unlink()
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        protocol.check_folder(folder / prompts[5].video(0), prompts)


def test_what_is_about_the_videos_lies_beside_them(prompts, tmp_path):
    lines = list(protocol.lines_of(prompts[:2], tmp_path, 0, {"crf": 10}))
    path = protocol.write_beside(tmp_path / "videos", lines, {"seed": 0})
    assert path == tmp_path / "videos.jobs.jsonl"
    assert read_jobs(path) == lines  # so that `pusa-jax batch` makes the same
    assert json.loads((tmp_path / "videos.protocol.json").read_text()) == {"seed": 0}
    assert not (tmp_path / "videos").exists()
    assert protocol.beside(tmp_path / "a.b", "x") == tmp_path / "a.b.x"
