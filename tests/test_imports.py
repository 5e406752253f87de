"""Imports point one way: the rows of the house, read from the source with `ast`.

Which third-party library may be imported where is enforced by ruff (TID251 in pyproject.toml).
"""

import ast
import fnmatch
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module may import from rows above its own, and from its own row as long as no circle arises.
# Names are within pusa_jax unless they begin with `convert` or `configs`. `*` stands for one part
# of a name; of several patterns that fit, the one with the fewest stars counts.
ROWS = [
    ["typing", "weights.leaves"],
    [
        "devices.sharding",
        "devices.processes",
        "files.atomic",
        "files.records",
        "files.staging",
        "devices.compile_cache",
        "weights.streaming",
        "media.pixels",
        "media.video",
        "devices.topologies",
        "collectives",
        "progress",
        "diffusion.flow",
    ],
    ["diffusion.*"],  # sees a velocity function, never a model
    ["models.remat", "models.*.config"],  # sizes of networks: data
    ["weights.chunks"],
    ["weights.store", "models.*"],
    ["models.*.*"],
    ["models.registry", "flops"],
    ["training.*", "convert.*"],
    ["meshes", "pipeline", "report"],
    ["loading", "jobs", "plan", "plan_train", "testing", "tiny"],
    ["tiny_world.*"],
    ["demo"],
    ["cli", "cli_data", "cli_plan", "cli_train", "cli_weights"],
]
# Imported inside a function only: weights in a foreign layout enter the pipeline here.
LAZY = {("pipeline", "loading")}
NOTHING_OF_OURS = "configs"

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("pusa_jax", "convert", "configs")
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__").removeprefix("pusa_jax."): f for name, f in FILES.items()}


def row_of(module):
    """The row with the most exact pattern that has as many parts as the name."""
    fits = [
        (pattern.count("*"), row)
        for row, patterns in enumerate(ROWS)
        for pattern in patterns
        if pattern.count(".") == module.count(".") and fnmatch.fnmatch(module, pattern)
    ]
    return min(fits)[1] if fits else None


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
            if name.partition(".")[0] in ("pusa_jax", "convert", "configs"):
                yield name.removeprefix("pusa_jax."), node not in top


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
PLACED = [name for name in MODULES if not MODULES[name].name.startswith("__init__")]


@pytest.mark.parametrize("module", PLACED)
def test_imports_point_to_rows_above(module):
    imported = list(imports_of(module))
    if module.startswith(NOTHING_OF_OURS):
        assert all(name.startswith(NOTHING_OF_OURS) for name, _ in imported), imported
        return
    row = row_of(module)
    assert row is not None, f"{module} has no row; place it in ROWS of {Path(__file__).name}."
    for name, lazy in imported:
        # The root holds the version; packages hold nothing but a docstring.
        if name == "pusa_jax" or (lazy and (module, name) in LAZY):
            continue
        target = row_of(name)
        assert target is not None and target <= row, f"{module} must not import {name}"


def test_no_module_imports_itself_through_others():
    graph = {m: {n for n, _ in imports_of(m) if (m, n) not in LAZY} for m in PLACED}
    graphlib.TopologicalSorter(graph).prepare()


PLAIN = {"jax", "flax", "numpy", "ml_dtypes", "jaxtyping"}


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("plan", PLAIN),
        ("pipeline", PLAIN),
        ("training.step", PLAIN | {"optax"}),
        ("training.loop", PLAIN | {"optax", "orbax"}),
        *((f"convert.{name}", PLAIN) for name in ("wan", "vae", "t5", "lora")),
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
    found -= {"pusa_jax", "convert", *sys.stdlib_module_names}
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


def test_a_model_family_imports_no_other_family():
    families = {p.parent.name for p in (ROOT / "pusa_jax/models").glob("*/__init__.py")}
    for module in PLACED:
        part = module.split(".")
        if part[0] == "models" and len(part) == 3:
            others = {n.split(".")[1] for n, _ in imports_of(module) if n.startswith("models.")}
            assert not (others & families) - {part[1]}, module


def test_packages_import_nothing_of_ours():
    for module in set(MODULES) - set(PLACED) - {"pusa_jax"}:
        assert not list(imports_of(module)), module
