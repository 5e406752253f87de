"""The mutants of a file: cosmic-ray's operators, at every place where a change is behaviour."""

import ast
import dataclasses
import difflib
from collections.abc import Iterator

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from rooms import ROOT, by_hand, is_silent, normal, silent_spans

# cosmic-ray has every operator for every other, 200 pairs, and most fail for their types alone. A
# neighbour or two of each says as much in a fraction of the time.
SWAPS = {
    "Binary": "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_FloorDiv Pow_Mul"
    " BitOr_BitAnd BitAnd_BitOr",
    "Comparison": "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_GtE LtE_Gt Gt_LtE GtE_Lt"
    " Is_IsNot IsNot_Is",
    "Unary": "Delete_USub Delete_Not",
}
OPERATORS = [f"Replace{kind}Operator_{swap}" for kind in SWAPS for swap in SWAPS[kind].split()] + [
    "AddNot",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    "ZeroIterationForLoop",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
    """One broken version of a file; `line` and `changed` are what differs, before and after."""

    file: str
    code: str
    line: str
    changed: str
    number: int


def mutants_by_hand(file: str) -> Iterator[Mutant]:
    """The mutants of a file in by_hand.toml.

    Raises:
      ValueError: a text is not in the file any more.
    """
    source = (ROOT / file).read_text()
    for text, mutant in by_hand().get(file, []):
        before, found, behind = source.partition(text)
        if not found:
            raise ValueError(f"by_hand.toml: {file} has no {text!r} any more; mend the entry.")
        yield Mutant(
            file=file,
            code=before + mutant + behind,
            line=normal(text),
            changed=normal(mutant),
            number=before.count("\n") + 1,
        )


def mutants_of(file: str) -> Iterator[Mutant]:
    """All mutants of a file that differ in behaviour as far as its syntax tells, each once."""
    source = (ROOT / file).read_text()
    tree, spans = get_ast(source), silent_spans(source)
    seen = {ast.dump(ast.parse(source))}
    for operator in (get_operator(f"core/{name}")() for name in OPERATORS):
        places = [p for node in ast_nodes(tree) for p in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if is_silent(spans, start, end):
                continue
            code = mutate_code(source, operator, occurrence)
            try:
                meaning = ast.dump(ast.parse(code))
            except SyntaxError:  # the `*` of a signature is no product
                continue
            if meaning not in seen:
                seen.add(meaning)
                old, new = source.splitlines(), code.splitlines()
                changes = list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:]
                line, changed = (
                    normal(" ".join(c[1:] for c in changes if c[0] == sign)) for sign in "-+"
                )
                yield Mutant(file=file, code=code, line=line, changed=changed, number=start[0])
