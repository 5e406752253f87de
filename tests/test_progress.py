"""What is shown of stages, with a terminal and without."""

import sys
import time

import pytest

from pusa_jax import progress
from pusa_jax.progress import Console, in_words


class Clock:
    """A time that stands until it is moved."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_stage_of_few_parts_is_named_at_once_and_timed_behind(clock, capsys):
    with Console(clock=clock) as console:
        console("load", 0, 2)
        assert capsys.readouterr().err == "load ... "
        clock.now = 5.46
        console("load", 1, 2)
        console("load", 2, 2)
        assert capsys.readouterr().err == "5.5 s\n"
        console("decode", 0, 1)
    assert capsys.readouterr().err == "decode ... \n"


def test_a_long_stage_gives_a_sign_of_life_on_its_line(clock, capsys):
    with Console(clock=clock) as console:
        console.beat()
        console("decode", 0, 1)
        console.beat()
        console.beat()
        console("decode", 1, 1)
        console.beat()
    assert capsys.readouterr().err == "decode ... . . 0.0 s\n"


def test_signs_of_life_come_by_themselves(monkeypatch, capsys):
    monkeypatch.setattr(progress, "BEAT", 0.01)
    with Console() as console:
        console("decode", 0, 1)
        time.sleep(0.1)
    assert capsys.readouterr().err.startswith("decode ... . . ")


def test_a_stage_of_many_parts_is_told_every_tenth_with_the_time_left(clock, capsys):
    with Console(clock=clock) as console:
        for done in range(31):
            console("denoise", done, 30, "loss 1")
            clock.now += 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0] == "denoise: 3/30, loss 1, 2 min left"
    assert lines[-1] == "denoise: 30, loss 1, 120.0 s"


def test_lines_come_once_a_minute_at_least_and_once_a_second_at_most(clock, capsys):
    with Console(clock=clock) as console:
        for done in range(1000):
            console("fast", done, 1000)
            clock.now += 0.001
        console("slow", 0, 1000)
        for done in range(1, 4):
            clock.now += 70
            console("slow", done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"slow: {i}/1000" for i in (1, 2, 3)]


def test_a_stage_without_parts_and_a_quiet_console_show_nothing(capsys):
    with Console() as console:
        console("encode", 0, 0)
    with Console(quiet=True) as console:
        console("load", 0, 1)
        console.line("more")
    assert capsys.readouterr().err == ""


def test_a_bar_is_not_drawn_again_behind_an_interrupt(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    before = ""
    with pytest.raises(KeyboardInterrupt), Console() as console:
        console("denoise", 1, 4)
        before = capsys.readouterr().err
        raise KeyboardInterrupt
    assert "denoise" in before and "denoise" not in capsys.readouterr().err


def test_a_stage_of_one_part_is_no_bar_on_a_terminal(monkeypatch, capsys, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Console(clock=clock) as console:
        console("compile", 0, 1)
        console("compile", 1, 1)
    assert capsys.readouterr().err == "compile ... 0.0 s\n"


def test_times_are_said_as_people_do():
    assert [in_words(s) for s in (3.14, 150.0, 9000.0)] == ["3.1 s", "2 min", "2.5 h"]
