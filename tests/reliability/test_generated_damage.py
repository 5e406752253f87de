"""Every command on every file of ours, damaged: one line, or the right result.

`python -m experiments.reliability.hostile` does the same hundreds of times.
"""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

pytest.importorskip("grain", reason="needs the extra [train]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")

from experiments.reliability.damage import KINDS, Damage, called
from experiments.reliability.subjects import SUBJECTS, make

pytestmark = pytest.mark.long

QUICK = ("converted", "published, to convert", "lora", "video", "run", "dataset")
SHARE = st.floats(0, 1, exclude_max=True)
DAMAGES = st.builds(Damage, st.sampled_from(sorted(KINDS)), SHARE, SHARE, SHARE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_damage_is_told_in_one_line_or_has_no_effect(made, tmp_path, name):
    subject, path = SUBJECTS[name], made[name]
    kept = tmp_path / "kept"
    path.rename(kept)
    copy = shutil.copytree if kept.is_dir() else shutil.copy
    size = sum(file.stat().st_size for file in (kept, *kept.rglob("*")))

    def attempt(damage: Damage | None):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        copy(kept, path)
        if damage:
            damage.apply(path)
        out = Path(tmp_path / "out")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return called(subject.argv(path, out), lambda it: subject.result(it, out))

    whole = attempt(None)
    assert whole.code == 0 and not whole.faults(size, whole), whole.err

    @seed(1)
    @settings(
        max_examples=12,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(DAMAGES)
    def holds(damage):
        assert not attempt(damage).faults(size, whole if subject.is_ours else None)

    holds()
