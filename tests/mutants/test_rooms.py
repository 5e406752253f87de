"""The tables of the mutation tests name what exists."""

import pytest
import rooms

SOURCE = """
@dataclass(frozen=True)
class A:
    field: Kept | None = 3

def f(argument: Given | None = 4, *, other=5) -> Found | None:
    if argument < 1:
        raise ValueError(f"at least {0 + 1}")
    return argument + 2
"""


def position(text):
    """Where a part of SOURCE, which occurs once, begins and ends."""
    [(number, line)] = [(n, at) for n, at in enumerate(SOURCE.splitlines(), 1) if text in at]
    return (number, line.index(text)), (number, line.index(text) + len(text))


def test_every_room_and_its_tests_exist():
    for file, tests in rooms.rooms().items():
        assert (rooms.ROOT / file).is_file(), file
        for path, _, test in (test.partition("::") for test in tests):
            name = f"def {test.partition('[')[0]}(" if test else ""
            assert name in (rooms.ROOT / path).read_text(), (path, test)


def test_equivalent_mutants_are_of_lines_that_still_exist_and_say_why():
    for entry in rooms.equivalents():
        assert entry["file"] in rooms.rooms()
        source = rooms.normal((rooms.ROOT / entry["file"]).read_text())
        assert entry["line"] == rooms.normal(entry["line"]) and entry["line"] in source, entry
        assert entry["mutant"] == rooms.normal(entry["mutant"]) != entry["line"]
        assert len(entry["reason"]) > 10


def test_mutants_by_hand_are_of_rooms_and_change_something():
    for file, entries in rooms.by_hand().items():
        assert file in rooms.rooms()
        source = (rooms.ROOT / file).read_text()
        for text, mutant in entries:
            assert text in source and text != mutant, (file, text)


@pytest.mark.parametrize(
    "text", ["True", "Kept | None", "Given | None", "Found | None", "0 + 1", "1}", "*"]
)
def test_promises_annotations_and_texts_of_errors_are_not_mutated(text):
    assert rooms.is_silent(rooms.silent_spans(SOURCE), *position(text))


@pytest.mark.parametrize("text", ["3", "4", "5", "argument < 1", "argument + 2", "@dataclass"])
def test_values_conditions_and_decorators_are_mutated(text):
    assert not rooms.is_silent(rooms.silent_spans(SOURCE), *position(text))
