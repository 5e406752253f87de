"""Every case of every golden file in the given folders, dispatched on the kind the file states.

Kinds without a check are listed as not covered in the closing table; they are never skipped
silently.
"""

import gc
import importlib
import pkgutil
from pathlib import Path

import jax
import pytest
from golden import Check, discover, golden_dirs


def all_checks() -> dict[str, Check]:
    """kind -> check, gathered from the CHECKS table of each check_*.py beside this file."""
    checks: dict[str, Check] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("check_"):
            checks |= importlib.import_module(module.name).CHECKS
    return checks


def golden_files(config):
    return [g for d in golden_dirs(config.getoption("--golden-dir")) for g in discover(d)]


def pytest_generate_tests(metafunc):
    if "golden" not in metafunc.fixturenames:
        return
    checks = all_checks()
    params = [
        (golden, case, checks[golden.kind])
        for golden in sorted(golden_files(metafunc.config), key=lambda golden: golden.kind)
        if golden.kind in checks
        for case in golden.cases()
    ]
    ids = [f"{g.path.parent.parent.name}-{g.path.stem}-{case['name']}" for g, case, _ in params]
    metafunc.parametrize(("golden", "case", "check"), params, ids=ids)


@pytest.fixture(scope="module")
def last_kind():
    """Kind of the case before, if there was one."""
    return [""]


@pytest.fixture
def programs_of_one_kind(golden, last_kind):
    """Programs of a kind are dropped behind it: all together they are gigabytes."""
    if golden.kind != last_kind[0]:
        jax.clear_caches()
        gc.collect()
    last_kind[0] = golden.kind


@pytest.mark.usefixtures("programs_of_one_kind")
def test_matches_the_reference(golden, case, check, record_property):
    comparisons = list(check(golden, case))
    assert comparisons, f"{golden.path.name} {case['name']}: nothing was compared"
    for c in comparisons:
        record_property("comparison", (golden.kind, c.error, c.limit, c.unit))
    worse = [c for c in comparisons if not c.error <= c.limit]
    assert not worse, "; ".join(f"{c.name}: {c.error:.3g} > {c.limit:.3g}" for c in worse)


def test_every_kind_is_checked_or_listed_as_not_covered(request, record_property):
    checks, uncovered = all_checks(), {}
    for golden in golden_files(request.config):
        if golden.kind not in checks:
            uncovered[golden.kind] = uncovered.get(golden.kind, 0) + len(golden.cases())
    record_property("not covered", uncovered)
