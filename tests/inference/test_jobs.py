"""Jobs: what of their files is read, what is written into the video, and what a rerun refuses.

The published defaults of reading are a table of `test_published_defaults.py`; mistakes on the
command line are in `test_cli.py`.
"""

import dataclasses
import hashlib
import json
import types

import jax
import numpy as np
import pytest
from made_jobs import CONFIGS, MESH, SMALL, Recorder, job_of, model_of, prepared_of, quiet
from numbered import SIZE, frame, told, write_files

import pusa_jax
from pusa_jax.devices import processes
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.process import SOLVERS
from pusa_jax.inference import job_files, job_plan, jobs
from pusa_jax.inference.jobs import Job
from pusa_jax.media import video
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.models.wan.family import WAN21


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_files(folder)
    wide = np.concatenate([np.full((32, 16, 3), 200, np.uint8), frame(7), frame(9)[:, :16]], 1)
    video.write_png(folder / "wide.png", wide)
    video.write_video(folder / "wide.mp4", [wide] * 5, 16)
    return folder


def read(*args, **changes):
    return told(jobs.read_conditions(job_of(*args, **changes), 4))


CHOSEN = {
    "i2v": (["1.png"], (3,), [[1]]),
    "start-end": (["1.png", "2.png"], (1, 5), [[1], [2]]),
    "loop": (["1.png"], (1, 5), [[1], [1]]),
    "interpolate": (["1.png", "2.png", "3.png"], (1, 2, 5), [[1], [2], [3]]),
    "complete": (["0-89.mp4"], (0, 5), [[*range(21)]]),
    "extend": (["0-89.mp4"], (0, 1), [[*range(85, 90)]]),
    "transition": (
        ["0-89.mp4", "100-129.mp4"],
        (0, 1, 7),
        [[*range(85, 90)], [100, *range(100, 108)]],
    ),
}
"""Task -> files, places that are not its defaults, the frames that are then read."""


@pytest.mark.parametrize("task", CHOSEN)
def test_given_places_and_multipliers_decide_what_is_read(media, task):
    files, at, expected = CHOSEN[task]
    multipliers = (0.6, 0.7, 0.8)[: len(at)]
    paths = [media / name for name in files]
    groups = read(task, *paths, at=at, multipliers=multipliers)
    assert [group[0] for group in groups] == expected
    placed = [pair for group in groups for pair in zip(group[2], group[3], strict=True)]
    assert placed == list(zip(at, multipliers, strict=True))


def test_text_to_video_reads_nothing():
    assert read("t2v") == []


def test_an_extension_may_start_anywhere_in_its_clip(media):
    ((first, *_),) = read("extend", media / "0-89.mp4", clip_start=40)
    assert first == [*range(40, 53)]


def test_a_completion_needs_no_more_of_the_clip_than_its_places(media):
    ((first, *_),) = read("complete", media / "0-89.mp4", at=(2, 0))
    assert first == [*range(9)]


@pytest.mark.parametrize("task", CHOSEN)
def test_another_number_of_files_is_refused(media, task):
    files, at, _ = CHOSEN[task]
    paths = [media / name for name in files]
    wrong = paths[:1] if task == "interpolate" else [*paths, paths[0]]
    for inputs in (wrong, []):
        message = f"^{task} takes {jobs.INPUTS_TAKEN[task]}, got {len(inputs)}"
        with pytest.raises(ValueError, match=message):
            read(task, *inputs, at=at)


@pytest.mark.parametrize(
    ("task", "inputs", "changes", "message"),
    [
        ("i2v", ["none.png"], {"at": (9,)}, "position 9 is outside the clip: use 0 to 8"),
        ("i2v", ["none.png"], {"at": (1, 1)}, "position 1 is given twice"),
        ("i2v", ["none.png"], {"at": (1,), "multipliers": (1.5,)}, "1.5 is outside"),
        ("i2v", ["none.png"], {"at": (1,), "multipliers": (0.1, 0.2)}, "2 multipliers for 1"),
        ("extend", ["none.mp4"], {"settings": dataclasses.replace(SMALL, num_frames=9)},
         "position 3 is outside the clip: use 0 to 2"),
        ("i2v", ["none.png"], {"settings": dataclasses.replace(SMALL, num_frames=12)}, "got 12"),
    ],
)  # fmt: skip
def test_places_that_make_no_sense_are_told_before_files_are_read(task, inputs, changes, message):
    with pytest.raises(ValueError, match=message):
        read(task, *inputs, **changes)


def corners(condition):
    """Brightness at the left, the middle and the right of a condition's first picture."""
    line = condition.frames[0, SIZE // 2, :, 0].astype(int)
    return [int(line[i]) for i in (1, SIZE // 2 - 4, SIZE - 2)]


@pytest.mark.parametrize("task", ["i2v", "complete"])
def test_files_are_brought_to_size_as_the_job_says(media, task):
    files = {"i2v": media / "wide.png", "complete": media / "wide.mp4"}
    changes = {"at": (0,), "multipliers": (0.5,)}

    def shown(fit):
        (condition,) = jobs.read_conditions(job_of(task, files[task], fit=fit, **changes), 4)
        assert condition.frames.shape[1:] == (SIZE, SIZE, 3)
        left, _, right = corners(condition)
        top = int(condition.frames[0, 1, SIZE // 2, 0])
        return left, right, top

    assert shown("crop") == pytest.approx((8, 120, 120), abs=6)  # picture 7 alone
    left, right, _ = shown("stretch")
    assert (left, right) == pytest.approx((200, 8), abs=12)
    assert shown("letterbox")[2] <= 12  # a black bar


def test_a_size_that_is_not_square_is_height_by_width(media):
    settings = dataclasses.replace(SMALL, height=16, width=48)
    for task, name in (("i2v", "1.png"), ("extend", "0-89.mp4")):
        (condition,) = jobs.read_conditions(job_of(task, media / name, settings=settings), 4)
        assert condition.frames.shape[1:] == (16, 48, 3)


@pytest.mark.parametrize("fps", [0, 241])
def test_frame_rates_that_are_mistakes_are_refused(fps):
    assert SamplingConfig(fps=1).fps == 1 and SamplingConfig(fps=240).fps == 240
    with pytest.raises(ValueError, match=f"fps must be 1 to 240, got {fps}"):
        SamplingConfig(fps=fps)


def test_a_video_of_an_earlier_version_has_its_rate_beside_the_settings():
    record = json.loads(json.dumps(job_of().as_record()))
    del record["settings"]["fps"]
    old = record | {"fps": 24}
    assert Job.from_record(old).settings.fps == 24
    new = ("source_fps", "add_differences")
    old = Job.from_record({name: value for name, value in old.items() if name not in new})
    assert (old.source_fps, old.add_differences) == ("keep", False)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_text_that_no_file_can_hold_is_refused(name):
    with pytest.raises(ValueError, match=f"the {name} must be UTF-8, but character 3 is not"):
        job_of(**{name: "ab\udcff"})


@pytest.fixture
def full(media):
    """A job with a value of its own in every field."""
    return job_of(
        "extend",
        media / "0-89.mp4",
        lora=((str(media / "1.png"), 1.4), (str(media / "2.png"), 2.0)),
        at=(0, 1),
        multipliers=(0.1, 0.0),
        clip_start=3,
        overlap=2,
        fit="stretch",
        dtype="float32",
        mesh={"data": 2, "context": 1, "tensor": 1},
        crf=10,
        settings=SamplingConfig(
            height=32, width=48, num_frames=17, fps=24, num_steps=3, seed=5, tiled=False
        ),
    )


def test_a_job_survives_its_record(full):
    written = json.loads(json.dumps(full.as_record()))
    assert Job.from_record(written) == full
    plain = job_of()
    assert Job.from_record(json.loads(json.dumps(plain.as_record()))) == plain


def test_a_record_has_fingerprints_of_inputs_and_lora_files(full, media):
    prints = full.as_record()["sha256"]
    assert {*prints} == {str(media / name) for name in ("0-89.mp4", "1.png", "2.png")}
    for path, found in prints.items():
        with open(path, "rb") as file:
            assert found == hashlib.sha256(file.read()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: "text", "describes no job: expected a table, got 'text'"),
        (lambda r: r | {"settings": None}, "damaged: settings is None"),
        (
            lambda r: r | {"settings": r["settings"] | {"hue": 1}},
            "another version: 'hue' is unknown",
        ),
        (lambda r: r | {"colour": 1}, "another version: 'colour' is unknown"),
        (lambda r: {k: v for k, v in r.items() if k != "model"}, "'model' is missing"),
        (lambda r: r | {"settings": r["settings"] | {"fps": "16"}}, "damaged: fps is '16'"),
        (lambda r: r | {"task": "dance"}, "damaged: task is 'dance'"),
        (lambda r: r | {"sha256": ["x"]}, "has no fingerprints of input files"),
        (lambda r: r | {"sha256": {"gone.png": "0"}}, "input gone.png is not there any more"),
    ],
)
def test_records_that_are_no_jobs_are_refused_in_one_line(change, message):
    record = json.loads(json.dumps(job_of().as_record()))
    with pytest.raises(ValueError, match=message) as caught:
        Job.from_record(change(record))
    assert "\n" not in str(caught.value)


def test_reading_a_record_leaves_it_as_it_was(full):
    record = json.loads(json.dumps(full.as_record()))
    before = json.dumps(record)
    Job.from_record(record)
    assert json.dumps(record) == before


def test_a_run_hands_the_job_to_the_pipeline_and_the_result_to_the_file(full, tmp_path):
    conditions = jobs.read_conditions(full, 4)
    prepared, pipeline = prepared_of(full, tmp_path / "out.mp4", conditions), Recorder()
    result, record, _ = jobs.run(prepared, quiet, pipeline)
    assert pipeline.calls == [
        ("p", {
            "conditions": prepared.conditions,
            "negative_prompt": "n",
            "settings": full.settings,
            "overlap": 2,
            "on_progress": quiet,
            "on_latents": None,
        })
    ]  # fmt: skip
    clip, rate = video.read_video(tmp_path / "out.mp4")
    assert (len(clip), rate) == (5, 24.0)
    assert video.read_metadata(tmp_path / "out.mp4") == json.loads(json.dumps(record))
    layout = {"stride": 4, "fps": 16.0, "at": (0, 1), "multipliers": (0.1, 0.0), "piece": 21}
    assert record == {
        "job": full.as_record(),
        "latents_sha256": hashlib.sha256(result.latents.tobytes()).hexdigest(),
        "passes": 2,
        "seconds": {"denoise": 1.5},
        "pusa_jax": pusa_jax.__version__,
        "jax": jax.__version__,
        "backend": "cpu cpu",
        "mesh": MESH,
        "layout": layout,
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_loads_the_job_s_own_model(full, tmp_path, monkeypatch, dtype):
    seen, loaded = [], types.SimpleNamespace(dit=1, mesh=2)

    def load(model, **given):
        seen.append((model, given))
        return loaded

    monkeypatch.setattr(jobs, "load_parts", load)
    prepared = prepared_of(dataclasses.replace(full, dtype=dtype), tmp_path / "out.mp4")
    monkeypatch.setattr(
        jobs, "PusaPipeline", lambda **parts: Recorder() if parts == vars(loaded) else None
    )
    jobs.run(prepared, quiet)
    given = {
        "dtype": dtype,
        "mesh": prepared.mesh,
        "resident": prepared.resident,
        "on_progress": quiet,
    }
    assert seen == [(prepared.model, given)]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    _, record, _ = jobs.run(prepared_of(job_of(), tmp_path / "out.mp4"), quiet, Recorder())
    assert record["seconds"] == {"denoise": 1.5} and not list(tmp_path.iterdir())


def test_the_plan_says_what_a_run_would_do(full, media, tmp_path):
    conditions = jobs.read_conditions(full, 4)
    plan = job_plan.describe_plan(prepared_of(full, tmp_path / "out.mp4", conditions))
    assert plan["dit"] == dataclasses.asdict(CONFIGS.dit)
    assert plan["lora"] == [[str(media / "1.png"), 1.4], [str(media / "2.png"), 2.0]]
    assert plan["memory"]["denoisers_gib_per_device"] < plan["memory"]["device_gib"]
    assert plan.pop("text_encoder") == "stays on the devices, beside the denoisers"
    assert {k: v for k, v in plan.items() if k not in ("dit", "lora", "memory")} == {
        "task": "extend",
        "prompt": full.prompt,
        "negative_prompt": full.negative_prompt,
        "pixels": [32, 48],
        "frames": 17,
        "fps": full.settings.fps,
        "seed": full.settings.seed,
        "guidance": full.settings.guidance_scale,
        "output": str(tmp_path / "out.mp4"),
        "latents": [1, 5, 4, 6, 16],
        "tokens": 5 * 2 * 3,
        "given": {"0": 0.1, "1": 0.0},
        "sources": {str(media / "0-89.mp4"): "16 frames per second, resampled by timestamps to 16"},
        "steps": 3,
        "solver": "euler",
        "lightx2v": [],
        "passes_per_step": 2,
        "passes": 6,
        "passes_of_full_table": 6,
        "rows": "all",
        "mesh": MESH,
        "devices": "1 x cpu",
    }
    half = dataclasses.replace(SMALL, num_steps=3, rows=(0, 9, 49), guidance_until=0.5)
    shown = job_plan.describe_plan(prepared_of(job_of(settings=half), tmp_path))
    assert (shown["rows"], shown["passes"], shown["passes_of_full_table"]) == ([0, 9, 49], 5, 100)
    alone = job_of(settings=dataclasses.replace(SMALL, guidance_scale=1.0))
    assert job_plan.describe_plan(prepared_of(alone, tmp_path))["passes_per_step"] == 1


def test_a_plan_lists_given_frames_in_order(media, tmp_path):
    job = job_of("start-end", media / "1.png", media / "2.png", at=(7, 2))
    prepared = prepared_of(job, tmp_path, jobs.read_conditions(job, 4))
    assert [*job_plan.describe_plan(prepared)["given"].items()] == [("2", 0.5), ("7", 0.2)]


def test_two_pictures_are_enough_to_interpolate(media):
    assert [group[2] for group in read("interpolate", media / "1.png", media / "2.png")] == [
        (0,),
        (8,),
    ]


def test_a_transition_of_few_places_needs_no_longer_clips(tmp_path, media):
    clip, _ = video.read_video(media / "0-89.mp4", 5)
    video.write_video(tmp_path / "5.mp4", clip, 16)
    first, second = read("transition", tmp_path / "5.mp4", tmp_path / "5.mp4", at=(1, 8))
    assert (first[0], second[0]) == ([*range(5)], [0, 0, 1, 2, 3])


def test_what_a_task_takes_is_said_in_words():
    words = {1: "one", 2: "two"}
    for task, (files, _, _) in CHOSEN.items():
        kind = "video" if files[0].endswith("mp4") else "image"
        number = words.get(len(files), "two or more")
        assert jobs.INPUTS_TAKEN[task] == f"{number} {kind}{'s' * (len(files) > 1)}"


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_preparing_a_job_checks_all_of_it(monkeypatch, media, tmp_path, scale):
    settings = dataclasses.replace(SMALL, guidance_scale=scale)
    lora, mesh = (("a", 1.0),), make_mesh(MESH, jax.local_devices()[:1])
    job = job_of("i2v", media / "1.png", mesh=MESH, lora=lora, settings=settings)
    halving_once = VAEConfig(dim=8, temporal_downsample=(False, True, False))
    configs = dataclasses.replace(CONFIGS, vae=halving_once)
    seen = []

    def spy(owner, name, answer=None):
        def call(*args, **kwargs):
            seen.append((name, args, kwargs))
            return answer

        monkeypatch.setattr(owner, name, call)

    model = model_of(configs)
    spy(job_files, "check_output")
    spy(jobs, "open_model", model)
    spy(jobs, "read_conditions", [])
    spy(jobs, "check_experts")
    spy(jobs, "plan_run", types.SimpleNamespace())
    spy(jobs, "rows_of")
    spy(jobs, "choose_mesh", mesh)
    spy(jobs, "check_memory")
    spy(jobs, "check_model")
    prepared = jobs.prepare(job, tmp_path / "out.mp4")
    assert seen == [
        ("check_output", (tmp_path / "out.mp4", (str(media / "1.png"), "a")), {}),
        ("open_model", ("m", lora, (), ()), {"add_differences": True}),
        ("check_experts", (settings, WAN21), {}),
        ("read_conditions", (job, 2, {}, 16.0), {}),
        ("plan_run", (WAN21, settings, [], configs), {}),
        ("rows_of", (types.SimpleNamespace(), SOLVERS["euler"]), {}),
        ("choose_mesh", (MESH, WAN21, configs.dit), {"guided": scale != 1}),
        ("check_memory", (mesh, WAN21, configs.dit, "bfloat16", "all"), {}),
        ("check_model", (model, "bfloat16"), {}),
    ]
    assert (prepared.job, prepared.output) == (job, tmp_path / "out.mp4")
    assert (prepared.model, prepared.mesh) == (model, mesh)


@pytest.mark.parametrize(("rate", "expected"), [("model", 3.75), ("keep", 1)])
def test_a_clip_of_60_a_second_is_taken_at_the_rate_of_the_model(tmp_path, rate, expected):
    video.write_video(tmp_path / "a.mp4", [frame(i) for i in range(240)], 60)
    for task, places, first in (("extend", (0, 1, 2, 3), 12), ("complete", (0, 3), 0)):
        job = job_of(task, tmp_path / "a.mp4", at=places, source_fps=rate)
        ((read, *_),) = told(jobs.read_conditions(job, 4, model_fps=16.0))
        if first:
            assert read == [int(239 - expected * k + 1e-6) for k in range(first, -1, -1)]
        else:
            assert read == [int(expected * k + 1e-6) for k in range(13)]
    job = job_of("extend", tmp_path / "a.mp4", clip_start=20, source_fps=rate)
    ((read, *_),) = told(jobs.read_conditions(job, 4, model_fps=16.0))
    assert read == [int(expected * (20 + k) + 1e-6) for k in range(13)]
