"""What is mutated, which tests answer for it, and what is left out."""

import ast
import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Position = tuple[int, int]  # line from 1, column from 0


def rooms() -> dict[str, list[str]]:
    """File -> the tests that cover it, as pytest is told them."""
    return tomllib.loads((HERE / "rooms.toml").read_text())["rooms"]


def equivalents() -> list[dict[str, str]]:
    """Mutants that do what the original does: file, line, mutant and reason."""
    return tomllib.loads((HERE / "equivalent.toml").read_text()).get("equivalent", [])


def by_hand() -> dict[str, list[list[str]]]:
    """File -> texts in it, each with what stands in its place: what no operator makes."""
    return tomllib.loads((HERE / "by_hand.toml").read_text())


def silent_spans(source: str) -> list[tuple[Position, Position]]:
    """Where a change is no change of behaviour.

    Annotations, `raise` statements (which error is raised is behaviour, but no operator changes
    that; the rest is its text), and the arguments of `@dataclass` and the bare `*` of signatures,
    which promise what pyright holds.
    Docstrings need no span: no operator changes strings.
    """
    silent = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(returns=ast.expr() as annotation):
                silent.append(annotation)
            case (
                ast.arg(annotation=ast.expr() as annotation) | ast.AnnAssign(annotation=annotation)
            ):
                silent.append(annotation)
            case ast.Raise():
                silent.append(node)
            case ast.ClassDef(decorator_list=decorators):
                silent += [k for d in decorators if isinstance(d, ast.Call) for k in d.keywords]
    spans = [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in silent]
    for number, line in enumerate(source.splitlines(), 1):
        stars = (match.start() for match in re.finditer(r"\*(?=,)", line))
        spans += [((number, at), (number, at + 1)) for at in stars]
    return spans


def is_silent(spans: list[tuple[Position, Position]], start: Position, end: Position) -> bool:
    """Whether a change between two positions lies within one of the spans."""
    return any(first <= start and end <= last for first, last in spans)


def normal(text: str) -> str:
    """The text with single spaces, so that indentation and line breaks do not count."""
    return " ".join(text.split())
