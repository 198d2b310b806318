"""The table of docs/bad_input.md, and the tests that name its rows, both read as text: no test is imported or run."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "bad_input.md"


class Case(NamedTuple):
    """A test, or one of its parameters, with the rows that it names and the exit codes that it expects as constants."""

    place: str
    rows: frozenset[int]
    exit_codes: frozenset[int]


def table() -> list[tuple[int, frozenset[int]]]:
    """(number, exit codes) of each row of the page, in its order."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d+ \| .* \| .* \|", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 5 and all(row) for row in cells), "a row has not the five columns"
    return [(int(row[0]), frozenset(int(code) for code in row[4].split(","))) for row in cells]


def cases() -> list[Case]:
    """Every test below tests/ that names rows.

    It does so by its function's name (`test_row_54_and_68_…`), by the id of a parameter (`row-83-bomb`), or by the
    first item of a tuple in the `rows(…)` of tests/cli/test_bad_input.py (`"4-nan"`); the second is the exit code.
    """
    return [
        case
        for path in sorted(TESTS.rglob("test_*.py"))
        for function in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        for case in _cases_of(function, f"{path.relative_to(TESTS).as_posix()}::{function.name}")
    ]


def _cases_of(function: ast.FunctionDef, place: str) -> list[Case]:
    exit_codes = frozenset(code for statement in function.body for code in _exit_codes(statement))
    found = []
    if match := re.match(r"test_row_(\d+)(?:_and_(\d+))?_", function.name):
        found.append(Case(place, frozenset(int(row) for row in match.groups() if row), exit_codes))
    for call in [node for decorator in function.decorator_list for node in ast.walk(decorator) if _is_call(node)]:
        if _name(call.func) == "rows":
            for item in call.args:
                label, code = (element.value for element in item.elts[:2])
                found.append(Case(f"{place}[{label}]", frozenset({int(label.split("-")[0])}), frozenset({code})))
        for label in [_text(keyword.value) for keyword in call.keywords if keyword.arg == "id"]:
            if match := re.match(r"row-(\d+)", label):
                found.append(Case(f"{place}[{label}]", frozenset({int(match[1])}), exit_codes))
    return found


def _exit_codes(statement: ast.stmt) -> list[int]:
    """The constants of `refused(5, …)`, `f(…, code=5)` and `result.code == 5`; returncode and exit_code too."""
    values = []
    for node in ast.walk(statement):
        if _is_call(node):
            values += node.args[:1] if _name(node.func) == "refused" else []
            values += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        elif isinstance(node, ast.Compare) and _name(node.left) in ("code", "returncode", "exit_code"):
            values += node.comparators if isinstance(node.ops[0], ast.Eq) else []
    return [value.value for value in values if isinstance(value, ast.Constant) and type(value.value) is int]


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call)


def _name(node: ast.expr) -> str | None:
    """The last name of `a.b.c` or `c`."""
    return getattr(node, "attr", None) or getattr(node, "id", None)


def _text(node: ast.expr) -> str:
    """A constant text, or what an f-string begins with."""
    first = node.values[0] if isinstance(node, ast.JoinedStr) else node
    return str(getattr(first, "value", ""))
