"""What the command line says of itself, and of names that it does not know."""

import numpy as np
import pytest

from pusa_jax.cli.job import GIVEN, INPUT_FLAGS, TASK_HELP
from pusa_jax.cli.main import main
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.tasks import latent_frames

FRAME = np.zeros((16, 16, 3), np.uint8)
CLIP = np.zeros((81, 16, 16, 3), np.uint8)
F = latent_frames(81, 4)
CONDITIONS = {
    "i2v": tasks.image_to_video(FRAME),
    "start-end": tasks.start_end(FRAME, FRAME, F),
    "interpolate": tasks.interpolate([FRAME, FRAME, FRAME], F),
    "complete": tasks.complete(CLIP, F, 4),
    "extend": tasks.extend(CLIP[:13], 4),
    "transition": tasks.transition(CLIP[:9], CLIP[:12], F, 4),
    "loop": tasks.loop(FRAME, F),
}
PLACES = {
    "0": [0],
    "0 and the last": [0, F - 1],
    "evenly spread": [0, 10, F - 1],
    "0,1,2,3": [0, 1, 2, 3],
    "the first three and the last three": [0, 1, 2, F - 3, F - 2, F - 1],
}


def said(capsys, *line):
    with pytest.raises(SystemExit) as stop:
        main(list(line))
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


@pytest.mark.parametrize("task", GIVEN)
def test_the_help_of_a_task_states_its_own_places_and_multipliers(capsys, task):
    given = [
        pair
        for condition in CONDITIONS[task]
        for pair in zip(condition.at, condition.multipliers, strict=True)
    ]
    places, multipliers = GIVEN[task]
    assert PLACES[places] == [place for place, _ in sorted(given)]
    numbers = [float(x) for x in multipliers.replace(", then ", ",").split(",")]
    numbers += [numbers[-1]] * (len(given) - len(numbers))
    assert numbers == [multiplier for _, multiplier in sorted(given)]
    text = " ".join(said(capsys, task, "--help")[1].split())
    assert f"(default: {places})" in text and f"(default: {multipliers})" in text


@pytest.mark.parametrize(
    "command", [*TASK_HELP, "rerun", "encode", "convert", "export", "demo", "fvd"]
)
def test_help_shows_no_default_that_is_none(capsys, command):
    code, text, _ = said(capsys, command, "--help")
    assert code == 0 and "(default: None)" not in text and "(default: False)" not in text
    assert "(default: [])" not in text
    if command in TASK_HELP:
        assert f"pusa-jax {command} --" in text.partition("example:\n")[2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["i2w"], "there is no command i2w; nearest: i2v"),
        (["t2v", "--promt", "a"], "there is no flag --promt; nearest: --prompt"),
        (
            ["i2v", "--image_path=a", "--prompts", "a"],
            "there is no flag --prompts; nearest: --prompt",
        ),
        (["plan", "infre"], "there is no command infre; nearest: infer"),
        (["data", "xyz"], "there is no command xyz (see"),
    ],
)
def test_an_unknown_name_gets_the_nearest(capsys, line, words):
    code, out, err = said(capsys, *line)
    assert code == 2 and not out and words in err and err.count("\n") == 1


def test_every_task_has_its_flags_and_an_example():
    assert set(GIVEN) == set(INPUT_FLAGS)
