"""What the processes of one command tell each other; who they are and how they talk is replaced.

Whole groups are in tests/devices/test_peers.py and `python -m experiments.reliability.groups`.
"""

import dataclasses
import types
from pathlib import Path

import jax
import pytest

import pusa_jax
from pusa_jax.cli import main as cli
from pusa_jax.cli import together
from pusa_jax.cli.main import main
from pusa_jax.cli.parsing import UsageError
from pusa_jax.devices import peers
from pusa_jax.inference import jobs
from pusa_jax.training.loop import NonFiniteLossError

LINE = ["t2v", "--prompt", "a red square", "--seed", "3"]


class Others:
    """What the other processes were asked and told."""

    def __init__(self):
        self.joined, self.records, self.told, self.advice = [], [], [], str
        self.parted, self.differ_at = 0, 0

    def agree(self, record):
        self.records.append(record)
        if len(self.records) == self.differ_at:
            raise peers.DisagreementError("process 1 of 2 differs from process 0 in seed.")


@pytest.fixture
def others(monkeypatch):
    """This process believes that it is the first of two."""
    others = Others()
    for name, value in zip(peers.processes.EXPLICIT, ("localhost:1", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(together, "_joined", False)
    monkeypatch.setattr(peers, "join", lambda end, **how: others.joined.append((end, how)))
    monkeypatch.setattr(peers, "agree", others.agree)
    monkeypatch.setattr(peers, "tell", lambda line, error=None: others.told.append((line, error)))
    monkeypatch.setattr(peers, "advise", lambda advice: setattr(others, "advice", advice))
    monkeypatch.setattr(peers, "part", lambda: setattr(others, "parted", others.parted + 1))
    return others


@pytest.fixture
def command(monkeypatch):
    """Sets what the command does between the first comparison and the end."""

    def does(what):
        monkeypatch.setattr(cli, "_command", lambda argv: what() or 0)

    does(lambda: None)
    return does


def compared(others, command, *line):
    assert main(line) == 0
    return others.records.pop()


def test_command_lines_and_versions_are_compared_before_any_work(others, command):
    command(lambda: others.records.append("work"))
    assert main([*LINE, "--noise_multipliers", "-1", "0", "--no_compilation_cache"]) == 0
    record, work = others.records
    assert work == "work" and others.parted == 1 and not others.told
    assert {name: record[name] for name in record if name.startswith(("--", "command"))} == {
        "command": "t2v",
        "--prompt": "a red square",
        "--seed": "3",
        "--noise_multipliers": "-1 0",
        "--no_compilation_cache": "",
    }
    assert record["version of pusa_jax"].startswith(f"{pusa_jax.__version__}, code ")
    assert record["version of jax"] == jax.__version__ and "JAX_PLATFORMS" in record


def test_a_changed_byte_of_our_code_is_another_version(others, command, monkeypatch, tmp_path):
    package = tmp_path / "pusa_jax"
    files = [package / "a" / "b.py", *(tmp_path / n / "c.py" for n in ("convert", "configs"))]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("1")
    for folder in ("convert", "configs"):  # links, as in a checkout
        (package / folder).symlink_to(tmp_path / folder)
    monkeypatch.setattr(pusa_jax, "__file__", str(package / "__init__.py"))
    versions = {compared(others, command, *LINE)["version of pusa_jax"]}
    for file in files:
        file.write_text("2")
        versions.add(compared(others, command, *LINE)["version of pusa_jax"])
    assert len(versions) == 4


@pytest.mark.parametrize("flag", [("--seed", "4"), ("--seed=4",), ("--shift", "2"), ("--dry_run",)])
def test_every_flag_makes_another_record(others, command, flag):
    assert compared(others, command, *LINE) != compared(others, command, *LINE, *flag)


def test_how_a_flag_is_spelled_and_who_is_quiet_differ_freely(others, command):
    line = ["t2v", "--noise-multipliers", "0", "--seed=3"]
    same = ["t2v", "--quiet", "--noise_multipliers=0", "--seed", "3", "--debug"]
    assert compared(others, command, *line) == compared(others, command, *same)


def test_training_lets_jax_listen_for_sigterm(others, command):
    for line, listens in ((["train", "--config=debug"], True), (LINE, False)):
        compared(others, command, *line)
        assert others.joined.pop()[1] == {"saves_on_sigterm": listens}


@pytest.mark.parametrize(
    "line", [["info", "x"], ["convert"], [*LINE, "--help"], ["train", "-h"], []]
)
def test_commands_that_each_process_runs_for_itself_join_nobody(others, command, line):
    assert main(line) == 0
    assert not others.joined and not others.records and together.is_first()


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (ValueError("no such\nfile"), "no such file", 2),
        (NonFiniteLossError("step 3"), "step 3", 2),
        (AttributeError("odd"), "odd", 2),
        (BrokenPipeError(32, "Broken pipe"), "[Errno 32] Broken pipe", 0),
        (KeyboardInterrupt(), "interrupted.", 130),
    ],
)
def test_what_ends_one_is_told_to_all(others, command, capsys, error, told, code):
    def fails():
        raise error

    command(fails)
    assert main(LINE) == code
    assert others.told == [(told, error)] and not others.parted
    assert together.is_broken(), "none waits for the others at its exit"
    assert len(capsys.readouterr().err.splitlines()) == (code == 2 or code == 130)


def test_a_wrong_flag_and_a_signal_are_told_in_words(others, command):
    for error in (UsageError("pusa-jax t2v", "unknown: --sead"), SystemExit(128 + 15)):

        def fails(error=error):
            raise error

        command(fails)
        with pytest.raises(SystemExit):
            main(LINE)
    assert [line for line, _ in others.told] == ["unknown: --sead", "ended by SIGTERM."]


def test_who_differs_ends_with_the_line_and_does_no_work(others, command, capsys):
    others.differ_at = 1
    command(lambda: pytest.fail("works"))
    assert main(LINE) == 2
    assert capsys.readouterr().err == (
        "pusa-jax: error: process 1 of 2 differs from process 0 in seed.\n"
    )
    assert isinstance(others.told[0][1], peers.DisagreementError)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A job with a picture and a LoRA, beside a small model folder."""
    monkeypatch.setattr(together, "_joined", True)
    for name in ("a.png", "b.safetensors", "model/vae.pth", "model/tokenizer/words.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    job = jobs.Job(
        task="i2v",
        model=str(tmp_path / "model"),
        prompt="a dog",
        negative_prompt="",
        lora=((str(tmp_path / "b.safetensors"), 1.0),),
        inputs=(str(tmp_path / "a.png"),),
    )
    folder = types.SimpleNamespace(path=tmp_path / "model", is_converted=False)
    return types.SimpleNamespace(
        job=job,
        output=Path("a.mp4"),
        model=types.SimpleNamespace(folder=folder),
        mesh=types.SimpleNamespace(shape={"data": 2}),
        resident="all",
    )


def job_record(others, prepared, before=None):
    together.agree_on_job(prepared, before)
    return others.records.pop()


def test_every_value_of_a_job_is_compared_by_its_name(others, prepared):
    record = job_record(others, prepared)
    assert record["settings.seed"] == prepared.job.settings.seed and record["prompt"] == "a dog"
    assert record["mesh"] == {"data": 2} and record["output"] == Path("a.mp4")
    assert record["device"].startswith("cpu") and "folder" not in record
    job = dataclasses.replace(prepared.job, prompt="a cat")
    prepared.job, prepared.output = job, Path("b.mp4")
    other = job_record(others, prepared, {"latents_sha256": "f00"})
    assert [name for name in record if record[name] != other[name]] == [
        "prompt", "output", "latents to be met"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.png", "b.safetensors"])
def test_files_of_a_job_are_compared_by_what_is_in_them(others, prepared, tmp_path, name):
    record = job_record(others, prepared)
    (tmp_path / name).write_text("2")
    other = job_record(others, prepared)
    assert [key for key in record if record[key] != other[key]] == [f"sha256.{tmp_path / name}"]


@pytest.mark.parametrize(
    ("name", "is_converted"),
    [("vae.pth", False), ("tokenizer/words.json", False), ("tokenizer/words.json", True)],
)
def test_models_are_compared_by_what_is_in_them(others, prepared, tmp_path, name, is_converted):
    prepared.model.folder.is_converted = is_converted
    record = job_record(others, prepared)
    (tmp_path / "model" / name).write_text("2")
    other = job_record(others, prepared)
    assert [key for key in record if record[key] != other[key]] == ["files of the model"]


def test_runs_are_compared_with_their_data_and_checkpoints(others, monkeypatch, tmp_path):
    monkeypatch.setattr(together, "_joined", True)
    adapter = types.SimpleNamespace(file=tmp_path / "b.safetensors")
    adapter.file.write_text("1")
    data = tmp_path / "data"
    data.mkdir()
    (data / "card.json").write_text("1")
    record = {"optimizer": {"learning_rate": 0.1}, "steps": 3}
    run = types.SimpleNamespace(
        data=types.SimpleNamespace(folder=data), adapter=adapter, record=lambda: record
    )

    def differs():
        together.agree_on_run(run, None, tmp_path / "run")
        before, now = others.records[-2:] if len(others.records) > 1 else ({}, {})
        return [name for name in now if before[name] != now[name]]

    assert differs() == [] and others.records[0]["optimizer.learning_rate"] == 0.1
    (data / "card.json").write_text("2")
    assert differs() == ["dataset"]
    adapter.file.write_text("2")
    assert differs() == ["adapters"]
    for step in (5, 10, "11.orbax-checkpoint-tmp"):
        (tmp_path / "run" / "checkpoints" / str(step)).mkdir(parents=True)
    assert differs() == ["checkpoints in the workdir"]
    assert others.records[-1]["checkpoints in the workdir"] == [5, 10]
    assert "is of step 10; the same command goes on" in others.advice()


def test_alone_nothing_is_compared():
    together.agree_on_job(None, None)
    together.agree_on_run(None, None, Path())
