"""Where the files of an earlier job are now, and what the clip of a new one is called."""

import dataclasses
import json

import pytest
from made_jobs import Recorder, job_of, prepared_of, quiet
from numbered import frame, write_files

from pusa_jax.devices import processes
from pusa_jax.inference import job_files, jobs
from pusa_jax.inference.jobs import Job
from pusa_jax.media import video


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_files(folder)
    return folder


@pytest.mark.parametrize("name", ["out.mp4", "out.MP4"])
def test_an_output_is_an_mp4(tmp_path, name):
    job_files.check_output(tmp_path / name)
    with pytest.raises(ValueError, match=r"must end in \.mp4, .* pictures\), got '.*out\.avi'"):
        job_files.check_output(tmp_path / "out.avi")


def test_an_input_that_has_changed_is_named(tmp_path):
    video.write_png(tmp_path / "a.png", frame(1))
    record = job_of("i2v", tmp_path / "a.png").as_record()
    video.write_png(tmp_path / "a.png", frame(2))
    with pytest.raises(ValueError, match=r"a\.png has changed since the video was made"):
        Job.from_record(record)


def test_an_output_never_replaces_an_input_also_through_a_link(tmp_path, media):
    (tmp_path / "link.mp4").symlink_to(media / "0-89.mp4")
    (tmp_path / "folder").symlink_to(media)
    outputs = [media / "0-89.mp4", tmp_path / "link.mp4", tmp_path / "folder" / "0-89.mp4"]
    for output in (*outputs, f"{media}/new/../0-89.mp4"):
        with pytest.raises(ValueError, match="is the input"):
            job_files.check_output(output, [str(media / "0-89.mp4")])


def test_names_in_use_are_numbered(tmp_path):
    for name in ("t2v.mp4", "t2v-2.mp4", "t2v-3.mp4"):
        assert job_files.unused(tmp_path / "t2v.mp4") == tmp_path / name
        (tmp_path / name).touch()


def test_an_input_is_found_beside_the_video_by_its_fingerprint(tmp_path):
    video.write_png(tmp_path / "a.png", frame(1))
    record = job_of("i2v", tmp_path / "a.png").as_record()
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "moved" / "a.png")
    found = Job.from_record(record, tmp_path / "moved")
    assert found.inputs == (str(tmp_path / "moved" / "a.png"),)
    with pytest.raises(ValueError, match=f"not there any more.*, nor in {tmp_path}; put"):
        Job.from_record(record, tmp_path)


def test_several_processes_agree_on_the_number_of_an_output(tmp_path, monkeypatch):
    for name in ("t2v.mp4", "t2v-2.mp4"):
        (tmp_path / name).touch()
    asked = []

    def agree(number):
        asked.append(number)
        return 5  # what the first process has found

    checked = []
    monkeypatch.setattr(processes, "agree_on", agree)
    monkeypatch.setattr(job_files, "check_output", lambda output, inputs: checked.append(output))
    with pytest.raises(FileNotFoundError, match="no folder or file m"):
        jobs.prepare(job_of(), tmp_path / "t2v.mp4", numbered=True)
    assert (asked, checked) == ([3], [tmp_path / "t2v-5.mp4"])


@pytest.fixture
def taking(tmp_path):
    """A pipeline that another one overtakes: two names are taken while it works."""

    class Taking(Recorder):
        def __call__(self, prompt, **given):
            for name in ("t2v.mp4", "t2v-2.mp4"):
                (tmp_path / name).write_text("theirs")
            return super().__call__(prompt, **given)

    return Taking()


def test_a_name_that_was_free_and_is_taken_meanwhile_is_not_replaced(tmp_path, taking):
    free = tmp_path / "t2v.mp4"
    prepared = dataclasses.replace(prepared_of(job_of(), free), unnumbered=free)
    *_, path = jobs.run(prepared, quiet, taking)
    assert path == tmp_path / "t2v-3.mp4" and len(video.read_video(path)[0]) == 5
    assert [(tmp_path / f"t2v{n}.mp4").read_text() for n in ("", "-2")] == ["theirs"] * 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_name_that_was_given_is_replaced(tmp_path, taking):
    *_, path = jobs.run(prepared_of(job_of(), tmp_path / "t2v.mp4"), quiet, taking)
    assert path == tmp_path / "t2v.mp4" and len(video.read_video(path)[0]) == 5


def test_files_and_the_model_are_found_from_the_folder_the_job_was_made_in(tmp_path, monkeypatch):
    (tmp_path / "then" / "m").mkdir(parents=True)
    (tmp_path / "now").mkdir()
    monkeypatch.chdir(tmp_path / "then")
    video.write_png("a.png", frame(1))
    record = json.loads(json.dumps(job_of("i2v", "a.png").as_record()))
    assert jobs.moved(record, Job.from_record(record)) == []
    monkeypatch.chdir(tmp_path / "now")
    found = Job.from_record(record)
    assert found.inputs == (str(tmp_path / "then" / "a.png"),)
    assert found.model == str(tmp_path / "then" / "m")
    assert jobs.moved(record, found) == [("m", found.model), ("a.png", found.inputs[0])]
