"""`pusa-jax rerun`: the job inside a video, made again; nothing is sampled here."""

import numpy as np
import pytest

from pusa_jax.cli.main import main
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.jobs import Job
from pusa_jax.inference.pipeline import Output
from pusa_jax.media import video

FRAMES = np.zeros((5, 32, 32, 3), np.uint8)
PRINT = Output(
    frames=FRAMES, latents=np.zeros((1, 1, 1, 1, 1)), seed=0, settings={}, passes=2, seconds={}
).latents_sha256()


def made(folder, latents=PRINT, **changes):
    """A video with a job inside."""
    job = Job(
        task="t2v", model="m", prompt="p", negative_prompt="n", settings=SamplingConfig(fps=9)
    )
    record = {"job": job.as_record(), "latents_sha256": latents} | changes
    video.write_video(folder / "a.mp4", FRAMES, 16, record)
    return folder / "a.mp4"


@pytest.mark.parametrize("command", ["t2v", "rerun"])
def test_programs_are_kept_unless_told_otherwise(seen, monkeypatch, capsys, tmp_path, command):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    line = ["t2v", "--model", "m", "--prompt", ""]
    line = line if command == "t2v" else ["rerun", str(made(tmp_path))]
    assert main([*line, "--no_compilation_cache"]) == 0
    assert seen.kept == [] and capsys.readouterr().err == ""
    assert main(line) == 0
    assert [str(folder) for folder in seen.kept] == [str(tmp_path / "programs")]
    assert "compiled programs are kept in" in capsys.readouterr().err


def test_a_rerun_makes_the_job_of_the_file(seen, capsys, tmp_path):
    path = made(tmp_path)
    assert main(["rerun", str(path)]) == 0
    job = Job(
        task="t2v", model="m", prompt="p", negative_prompt="n", settings=SamplingConfig(fps=9)
    )
    assert seen.prepared == [(job, str(tmp_path / "a.rerun.mp4"))] and seen.numbered
    assert "latents are the same to the last bit as before." in capsys.readouterr().out
    main(["rerun", str(path), "--output", "b.mp4"])
    assert seen.prepared[-1][1] == "b.mp4" and not seen.numbered


def test_a_rerun_with_other_latents_says_so_and_exits_with_1(seen, capsys, tmp_path):
    assert main(["rerun", str(made(tmp_path, latents="0" * 64, jax="0.1"))]) == 1
    out = capsys.readouterr().out
    assert "latents are NOT the same as before: jax 0.1 then, None now." in out


@pytest.mark.parametrize("changes", [{"latents_sha256": None}, {"job": None}])
def test_a_file_without_a_whole_job_is_not_rerun(seen, capsys, tmp_path, changes):
    path = made(tmp_path, **changes)
    if changes == {"job": None}:
        video.write_video(path, FRAMES, 16, {"latents_sha256": PRINT})
    assert main(["rerun", str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{path} carries no job; it was not written by pusa-jax" in err and not seen.prepared


def test_a_rerun_names_every_file_that_has_moved(seen, capsys, tmp_path, monkeypatch):
    names = ("a.png", "l.safetensors", "low.safetensors", "x.safetensors")
    for name in names:
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    path = made(
        tmp_path,
        job=Job(
            task="i2v",
            model="m",
            prompt="",
            negative_prompt="",
            inputs=("a.png",),
            lora=(("l.safetensors", 1.0),),
            low_lora=(("low.safetensors", 0.5),),
            lightx2v=("x.safetensors",),
        ).as_record(),
    )
    (tmp_path / "else").mkdir()
    monkeypatch.chdir("else")
    assert main(["rerun", str(path)]) == 0
    err = capsys.readouterr().err
    for name in names:
        assert f"{name} is taken from {tmp_path / name}" in err
    assert seen.job.low_lora == ((str(tmp_path / "low.safetensors"), 0.5),)
