"""Imports point one way: the floors of the house, read from the source with `ast`.

Which third-party library may be imported where is enforced by ruff (TID251 in pyproject.toml).
"""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import from floors above its own in this list, and from rooms of its own floor as long
# as no circle arises among modules.
FLOORS = [
    ["typing", "progress", "listing"],
    ["devices", "files"],
    ["diffusion", "media", "weights"],  # `diffusion` sees a velocity function, never a model
    ["models"],
    ["convert"],
    ["hub"],
    ["inference"],
    ["data", "demo"],
    ["batch", "evaluation", "report", "vbench"],
    ["training"],
    ["planning", "testing"],
    ["cli", "web"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ALONE = "configs"
"""Configurations import nothing of ours."""

FILES = {
    ".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path
    for folder, paths in {
        "pusa_jax": (ROOT / "pusa_jax").rglob("*.py"),
        ".": [p for room in ("convert", "configs") for p in (ROOT / room).rglob("*.py")],
    }.items()
    for path in sorted(paths)
}
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items()}
PLACED = [name for name, file in MODULES.items() if not file.name.startswith("__")]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def imports_of(module):
    """Modules of ours that a module imports; (name, whether inside a function)."""
    tree = ast.parse(MODULES[module].read_text())
    top = set(ast.walk(ast.Module([n for n in tree.body if not isinstance(n, DEFINITIONS)], [])))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [n for n in inside if n.removeprefix("pusa_jax.") in MODULES]
            names = known or [str(node.module)]
        for name in names:
            first = name.partition(".")[0]
            assert first not in STRANGERS, f"{module} imports {name}, which is not installed"
            if first == "pusa_jax":
                yield name.removeprefix("pusa_jax."), node not in top


STRANGERS = ("convert", "configs", "experiments", "tests")
"""Folders of a checkout that have no name of their own where the package is installed."""


def room(module):
    """First part of a module's name."""
    return module.partition(".")[0]


@pytest.mark.parametrize("module", PLACED)
def test_imports_point_to_floors_above(module):
    imported = [name for name, _ in imports_of(module) if name != "pusa_jax"]
    if room(module) == ALONE:
        assert all(room(name) == ALONE for name in imported), imported
        return
    assert room(module) in FLOOR, f"{module} is in no room; place it in FLOORS"
    for name in imported:
        assert FLOOR.get(room(name), len(FLOORS)) <= FLOOR[room(module)], f"must not import {name}"


def test_no_module_imports_itself_through_others():
    graph = {m: {n for n, _ in imports_of(m)} for m in PLACED}
    graphlib.TopologicalSorter(graph).prepare()


def test_few_modules_lie_loose():
    assert len(list((ROOT / "pusa_jax").glob("*.py"))) <= 6


PLAIN = {"jax", "flax", "numpy", "ml_dtypes", "jaxtyping"}


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("planning.inference", PLAIN),
        ("inference.pipeline", PLAIN),
        ("training.step", PLAIN | {"optax"}),
        ("training.loop", PLAIN | {"optax", "orbax"}),
        *((f"convert.{name}", PLAIN) for name in ("wan.dit", "wan.vae", "t5", "lora")),
    ],
)
def test_what_experiments_measure_needs_few_libraries(module, libraries):
    """They run from a plain checkout on machines that have little besides jax and flax."""
    todo, seen, found = [module], set(), set()
    while todo:
        one = todo.pop()
        seen.add(one)
        inner = {name for name, lazy in imports_of(one) if not lazy} & set(PLACED)
        todo += inner - seen
        found.update(libraries_of(one))
    found -= {"pusa_jax", *sys.stdlib_module_names}
    assert found <= libraries, found - libraries


def libraries_of(module):
    """Third-party libraries that a module imports when it is imported."""
    for node in ast.parse(MODULES[module].read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        yield from (name.partition(".")[0] for name in names)


FAMILIES = {p.parent.name for p in (ROOT / "pusa_jax/models").glob("*/dit.py")}
FAMILY_ROOMS = tuple(
    f"{room}.{name}" for name in sorted(FAMILIES) for room in ("models", "convert")
)
AT_HOME = (*FAMILY_ROOMS, "testing")
"""Rooms of a family, and of tests that make tiny models of it."""


def test_the_families_are_found_by_their_rooms():
    assert {"wan", "mochi"} <= FAMILIES


def test_a_model_family_imports_no_other_family():
    for module in PLACED:
        part = module.split(".")
        if part[0] == "models" and part[1] in FAMILIES:
            others = {n.split(".")[1] for n, _ in imports_of(module) if n.startswith("models.")}
            assert not (others & FAMILIES) - {part[1]}, module


NAMES_FAMILIES = {"models.families", "convert.networks"}
"""The two modules that list all families: as networks of the house, and as foreign files."""


def names_a_family(module):
    return any(
        name == home or name.startswith(f"{home}.")
        for name, _ in imports_of(module)
        for home in FAMILY_ROOMS
    )


@pytest.mark.parametrize("module", PLACED)
def test_only_two_modules_name_a_family(module):
    if module.startswith(AT_HOME) or module in NAMES_FAMILIES:
        return
    assert not names_a_family(module)


def test_packages_import_nothing_of_ours():
    for module in set(MODULES) - set(PLACED) - {"__init__", "__main__"}:
        assert not list(imports_of(module)), module
