"""The pages name what is there: files, folders, links, targets of make, modules, tests.

Commands of the README are run by `test_readme.py`.
"""

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
PAGES += [f"docs/api/{p.name}" for p in (ROOT / "docs/api").glob("*.md")]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
FOLDERS = {str(folder) for name in TRACKED for folder in Path(name).parents}
OURS = re.compile(
    r"(pusa_jax|convert|configs|experiments|tests|docs|diffusion|models|inference|media|weights|"
    r"devices|files|data|training|planning|demo|testing|cli|\.ci|\.github)/"
)
"""How a path of this repository begins, in full or within the package."""

SETTINGS = {"PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"}
"""Names of other programs' settings."""

SOURCE = "\n".join((ROOT / name).read_text() for name in TRACKED if name.endswith(".py"))


def written_out(text):
    """`a/{b,c}.py` as its two paths."""
    found = re.search(r"\{([^{}]*)\}", text)
    if not found:
        return [text]
    before, after = text[: found.start()], text[found.end() :]
    return [p for one in found[1].split(",") for p in written_out(before + one.strip() + after)]


def is_there(path):
    path = path.rstrip("/")
    known = TRACKED if Path(path).suffix else FOLDERS | set(TRACKED)
    return any(fnmatch.fnmatch(name, pattern) for name in known for pattern in (path, f"*/{path}"))


def paths_of(text):
    for span in re.findall(r"`([^`\n]+)`", text):
        for path in written_out(span):
            is_path = OURS.match(path) or re.fullmatch(r"[\w.-]+\.(py|toml|md|sh)", path)
            if is_path and re.fullmatch(r"[\w./*-]+", path):
                yield path


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_that_a_page_names_are_there(page):
    assert [p for p in paths_of((ROOT / page).read_text()) if not is_there(p)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
    here = (ROOT / page).parent
    assert [ln for ln in links if not ln.startswith("http") and not (here / ln).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_targets_modules_and_tests_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = re.findall(r"(?:^|`)make ([a-z][\w-]+)", text, re.MULTILINE)
    assert set(asked) <= targets, set(asked) - targets
    tests = {name for name in re.findall(r"\btest_\w+", text) if f"def {name}(" not in SOURCE}
    assert [name for name in tests if not is_there(f"{name}.py")] == []
    for module in re.findall(r"python -m ((?:experiments|pusa_jax|tests)[\w.]*)", text):
        path = module.replace(".", "/")
        assert is_there(f"{path}.py") or is_there(f"{path}/__main__.py"), module


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/extending.md"])
def test_names_that_a_recipe_is_about_are_in_the_code(page):
    """Names in capitals are tables that get a row; `_name` and `Name.field` what is called so."""
    names = re.findall(r"`([A-Z_][A-Z_]+|_[a-z_]+|[A-Z]\w+\.\w+)`", (ROOT / page).read_text())
    names = {n for n in names if n not in SETTINGS and not n.endswith((".py", ".md"))}
    assert len(names) > 5
    last = {name: name.rpartition(".")[2] for name in names}
    assert [n for n, word in last.items() if not re.search(rf"\b{word}\b", SOURCE)] == []
