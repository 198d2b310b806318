"""What the pages have from the code: who may import whom, what an addition touches, and the code of additions.

A file counts as touched if it names every row that there is today: it would have to name the next one too. A name is a
string or an identifier in the code; comments and docstrings do not count. For a space a file counts too if it asks
which one it has.

    python docs/tables.py            print the tables
    python docs/tables.py --write    put all into docs/architecture.md and docs/extending.md
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
EXTENSIONS = ROOT / "tests" / "support" / "extensions.py"
MARK = "<!-- {} by tables.py -->\n"
END = "<!-- end -->\n"


class Addition(NamedTuple):
    """Something that people add.

    Args:
        what: its name in the table.
        new: what is written for it.
        rows: a regular expression for each row of today; a file that has names for all of them counts.
        before: files that it touched before the redesign, by the same count.
        without: folders that belong to single rows.
        asks: a regular expression for questions which row it is; a file with one counts too.
    """

    what: str
    new: str
    rows: list[str]
    before: int
    without: tuple[str, ...] = ()
    asks: str = "(?!)"


def sources() -> list[Path]:
    return sorted(path for folder in ("sharpkeras", "cli") for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names(path: Path) -> set[str]:
    """Identifiers, imported modules and strings of a file, less docstrings; "== x" and "is a x" of its questions."""
    found: set[str] = set()
    module = tree(path)
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                found.add(text)
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ImportFrom(module=str(source)):
                found |= {source, *(alias.name for alias in node.names)}
                found |= {f"{source}.{alias.name}" for alias in node.names}
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.Compare():
                found |= {f"== {ast.unparse(part)}" for part in (node.left, *node.comparators)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            found.add(f"is a {ast.unparse(node.args[1])}")
    return found


def rows(*tables: str) -> list[str]:
    """The keys of literal dictionaries, or the strings of literal tuples, as regular expressions."""
    found = {table: max(literals(table), key=len, default=[]) for table in tables}
    for table, keys in found.items():
        if not keys:
            raise ValueError(f"no table {table}")
    return list(dict.fromkeys(re.escape(key) for keys in found.values() for key in keys))


def literals(table: str) -> Iterator[list[str]]:
    """The strings of every table of this name, in any module."""
    for node in (node for path in sources() for node in tree(path).body):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == table:
                parts = node.value.keys if isinstance(node.value, ast.Dict) else getattr(node.value, "elts", [])
                yield [str(part.value) for part in parts if isinstance(part, ast.Constant)]


def additions() -> Iterator[Addition]:
    yield Addition(
        "a space",
        "a folder in `spaces/` and a row of SPACES",
        [r"CellSpace|.*\bspaces\.cell\b.*", r"HyperCuboid|MultiChannelNet|MULTICHANNEL|.*\bspaces\.hypercuboid\b.*"],
        before=13,
        without=("sharpkeras/spaces/cell/", "sharpkeras/spaces/hypercuboid/"),
        asks=r"== ('path'|'genotype'|'multichannel'|multichannel\.NAME|MULTICHANNEL)|is a (CellSpace|HyperCuboid)",
    )
    weightings = rows("WEIGHTINGS")
    yield Addition("a weighting", "a function and a row of WEIGHTINGS", weightings, before=2)
    strategies = rows("STRATEGIES")
    yield Addition("a path strategy", "a function and a row of STRATEGIES", strategies, before=2)
    datasets = rows("DATASETS")
    yield Addition("a dataset", "a loader and a row of DATASETS", datasets, before=1)
    recipes = rows("SEARCHES", "TRAININGS")
    yield Addition("a recipe", "a row of SEARCHES or TRAININGS", recipes, before=1)
    primitives = rows("SHARP_OPS")
    yield Addition("a primitive", "a row of an op table, and its name in a list of PRIMITIVES", primitives, before=1)
    classes = [node.name for node in tree(ROOT / "sharpkeras/layers.py").body if isinstance(node, ast.ClassDef)]
    yield Addition("a layer", "a class", [re.escape(name) for name in classes], before=1)
    backends = rows("BACKENDS")
    yield Addition("a backend", "a file in `backend/` and a row of BACKENDS", backends, before=7)
    commands = rows("COMMANDS")
    yield Addition("a command", "a file in `cli/commands/` and a row of COMMANDS", commands, before=1)
    rewrites = rows("REWRITES")
    yield Addition("an ONNX rewrite", "a function and a row of REWRITES", rewrites, before=1)


def touched(addition: Addition, named: dict[str, set[str]]) -> list[str]:
    """The files that an addition touches, besides those that are written for it."""

    def counts(found: set[str]) -> bool:
        every = all(any(re.fullmatch(row, name) for name in found) for row in addition.rows)
        return every or any(re.match(addition.asks, name) for name in found)

    return [file for file, found in named.items() if not file.startswith(addition.without) and counts(found)]


def touch_table() -> str:
    named = {path.relative_to(ROOT).as_posix(): names(path) for path in sources()}
    lines = ["| Addition | What is written | Files touched | Before | Which |", "|---|---|---|---|---|"]
    for addition in additions():
        files = touched(addition, named)
        places = ", ".join(f"`{file}`" for file in files)
        lines.append(f"| {addition.what} | {addition.new} | {len(files)} | {addition.before} | {places} |")
    return "\n".join(lines) + "\n"


def import_table() -> str:
    """MAY_IMPORT of tests/test_structure.py, which is what the tests enforce."""
    for node in tree(ROOT / "tests" / "test_structure.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MAY_IMPORT":
            allowed: dict[str, str] = ast.literal_eval(node.value)
    lines = ["| Part | May import |", "|---|---|"]
    for part, others in allowed.items():
        name = "`__init__.py`" if part == "__init__" else f"`{part}`"
        lines.append(f"| {name} | {', '.join(others.split()) or 'nothing else of sharpkeras'} |")
    return "\n".join(lines) + "\n"


def extensions() -> str:
    """The code of tests/support/extensions.py, with its comments of the form "# --- a layer ---" as headings."""
    _, code = EXTENSIONS.read_text(encoding="utf-8").split('"""\n\n', 1)
    imports, *parts = re.split(r"^# --- (.+) ---\n", code, flags=re.MULTILINE)
    sections = [("imports", imports), *zip(parts[::2], parts[1::2])]
    return "\n".join(f"## {title[0].upper()}{title[1:]}\n\n```py\n{body.strip()}\n```\n" for title, body in sections)


PAGES = {"architecture.md": {"imports": import_table, "touched": touch_table}, "extending.md": {"code": extensions}}


def filled(name: str) -> str:
    """A page of PAGES with what is made from the code of today in its places."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for part, make in PAGES[name].items():
        before, rest = page.split(MARK.format(part))
        page = before + MARK.format(part) + make() + END + rest.split(END, 1)[1]
    return page


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        for name in PAGES:
            (ROOT / "docs" / name).write_text(filled(name), encoding="utf-8")
    else:
        print(import_table(), touch_table(), sep="\n", end="")
