"""What a message advises can be done in the command that was typed: no flag of another one."""

import ast
import importlib
from pathlib import Path

import pytest
from support.command_line import make_images, sharpkeras

from sharpkeras.errors import FLAG, DataError, UsageError

ROOT = Path(__file__).parents[2]
READERS = ("search", "train", "evaluate")  # the commands that say everything about images; benchmark knows less
FOREIGN = {"--depth"}  # of git
SOURCES = [*sorted((ROOT / "sharpkeras" / "data").glob("*.py")), ROOT / "sharpkeras" / "experiment" / "evaluation.py"]


def flags_of(command):
    parameters = importlib.import_module(f"sharpkeras_cli.commands.{command}").command.params
    return {flag for parameter in parameters for flag in (*parameter.opts, *parameter.secondary_opts)}


COMMON = set.intersection(*map(flags_of, READERS)) | FOREIGN
ALL = set.union(*map(flags_of, READERS)) | FOREIGN


def texts(node):
    """The strings in a piece of source, but for docstrings."""
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = {
        id(found.body[0].value)
        for found in ast.walk(node)
        if isinstance(found, documented) and found.body and isinstance(found.body[0], ast.Expr)
    }
    for found in ast.walk(node):
        if isinstance(found, ast.Constant) and isinstance(found.value, str) and id(found) not in docstrings:
            yield found


def flags_in(node):
    return {flag for text in texts(node) for flag in FLAG.findall(text.value)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_flag_that_a_message_names_is_one(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert flags_in(tree) <= ALL
    keywords = [found for found in ast.walk(tree) if isinstance(found, ast.keyword)]
    # Where the value of a flag is refused, the flag was typed.
    typed = [keyword for keyword in keywords if keyword.arg in ("where", "seen", "allowed")]
    several = [word.value for word in keywords if word.arg == "next_step" and isinstance(word.value, ast.Tuple)]
    for steps in several:
        assert any(not flags_in(step) for step in steps.elts), f"line {steps.lineno}: a step without flags is missing"
    apart = {id(text) for node in (*typed, *several) for text in texts(node)}
    rest = {flag for text in texts(tree) if id(text) not in apart for flag in FLAG.findall(text.value)}
    assert rest <= COMMON, "give these as one of several next steps, one of which needs no flag"


def test_the_sources_are_looked_through():
    found = {flag for path in SOURCES for flag in flags_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert {"--image-size", "--limit", "--skip-bad-images", "--follow-symlinks", "--download"} <= found


STEPS = ("replace these files", "leave them out with --skip-bad-images", "take --limit or --image-size")


@pytest.mark.parametrize(
    ("flags", "step"),
    [
        (set(), "replace these files"),
        ({"--skip-bad-images"}, "replace these files, or leave them out with --skip-bad-images"),
        ({"--limit"}, "replace these files"),
        ({"--limit", "--image-size"}, "replace these files, or take --limit or --image-size"),
    ],
)
def test_a_step_that_cannot_be_typed_is_left_out(flags, step):
    error = DataError("broken", next_step=STEPS)
    assert error.next_step == ", or ".join(STEPS)
    error.keep_to(flags)
    assert error.next_step == error.as_dict()["next"] == step and f"next:    {step}" in str(error)


def test_a_single_step_stays_as_it_is():
    error = UsageError("broken", next_step="sharpkeras evaluate RUN --data SPEC")
    error.keep_to(set())
    assert error.next_step == "sharpkeras evaluate RUN --data SPEC"
    DataError("nothing to do").keep_to(set())


def test_the_command_line_leaves_it_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", {"a": 5, "b": 5})
    (tmp_path / "photos" / "a" / "000.png").write_bytes(b"<html>")
    searched = sharpkeras("search", "--dataset", "folder:photos", "--out", "new")
    assert searched.code == 4 and "or leave them out with --skip-bad-images" in searched.err
    measured = sharpkeras("benchmark", "--primitives", "--dataset", "folder:photos")
    assert measured.code == 4 and "next:    replace these files\n" in measured.err
