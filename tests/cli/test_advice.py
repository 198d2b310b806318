"""Every command, flag and setting that a message names is there; see `advice` for what a command says when it runs.

The library names settings (`batch_size`), the command line has flags for them (--batch-size); and what is advised can
be done in the command that was typed.
"""

import ast
import difflib
import os
import signal
from pathlib import Path

import pytest
from support import advice
from support.command_line import make_images, sharpkeras

from sharpkeras import errors
from sharpkeras.engine import signals
from sharpkeras.errors import DataError, UsageError
from sharpkeras_cli import flags
from sharpkeras_cli.main import COMMANDS

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("cli", "sharpkeras") for path in (ROOT / folder).rglob("*.py"))
LIBRARY = [path for path in FILES if "cli" not in path.relative_to(ROOT).parts]
FLAGS = set().union(*(advice.flags_of(name) for name in COMMANDS))
NOT_OURS = {"--xla", "--no-"}  # a flag of XLA, and the beginning of one that is made
OF_THE_COMMAND_LINE = {"--set", "--import", "--dry-run"}  # which Python has not
READERS = ("search", "train", "evaluate")  # the commands that say everything about images; benchmark knows less
READING = [*sorted((ROOT / "sharpkeras" / "data").glob("*.py")), ROOT / "sharpkeras" / "experiment" / "evaluate.py"]


def texts(node):
    """(line, text) of each string in a piece of source, but for docstrings; what an f-string fills in is an X."""
    within = {id(part) for found in ast.walk(node) if isinstance(found, ast.JoinedStr) for part in ast.walk(found)}
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    bodies = [found.body for found in ast.walk(node) if isinstance(found, documented)]
    within |= {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for found in ast.walk(node):
        if isinstance(found, ast.JoinedStr):
            yield found.lineno, "".join(part.value if isinstance(part, ast.Constant) else "X" for part in found.values)
        elif isinstance(found, ast.Constant) and isinstance(found.value, str) and id(found) not in within:
            yield found.lineno, found.value


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def settings_in(node):
    return {name for _, text in texts(node) for name in errors.settings_in(text)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_text_names_is_there(path):
    for line, text in texts(tree_of(path)):
        where = f"{path.relative_to(ROOT)}, line {line}: {text!r}"
        for name, _ in advice.COMMAND.findall(text):  # or a sentence about the program
            assert name in COMMANDS or not difflib.get_close_matches(name, COMMANDS), f"{where}: no command {name}"
            assert name in COMMANDS or f"`sharpkeras {name}" not in text, f"{where}: no command {name}"
        assert not advice.problems(text), f"{where}: {advice.problems(text)}"
        named = set(advice.FLAG.findall(advice.OTHER_PROGRAM.sub("", text)))
        assert named <= FLAGS | NOT_OURS, f"{where}: no command has {named - FLAGS - NOT_OURS}"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_library_names_settings(path):
    for line, text in texts(tree_of(path)):
        rest = advice.COMMAND.sub("", advice.OTHER_PROGRAM.sub("", text))  # what a shell takes has flags
        is_word = text.startswith("--") and " " not in text  # of a command that is put together
        words = [] if is_word else advice.FLAG.findall(rest)
        assert not set(words) - NOT_OURS - OF_THE_COMMAND_LINE, f"{path}, line {line}: {text!r}"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_setting_has_a_flag(path):
    """What stands in backticks and is none is a word of Python, such as a method."""
    known = {*flags.of_any_command(), *flags.OPPOSITES, "optimize"}
    python = {"call", "training", "none", "compute_output_shape", "build", "metrics", "max_w", "selection", "scale"}
    python |= {"costs", "expected_cost"}
    assert settings_in(tree_of(path)) <= known | python


def says(path):
    """(line, literal words) of each `say_next(…)`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "say_next":
            yield node.lineno, [word.value for word in node.args if isinstance(word, ast.Constant)]


def test_each_command_ends_with_one_that_there_is():
    said = [(path, line, words) for path in FILES for line, words in says(path)]
    assert len(said) >= 9
    for path, line, words in said:
        flags = {word for word in words if str(word).startswith("--")}
        if words and words[0] in COMMANDS:  # else both are made elsewhere, and seen when it runs
            assert flags <= advice.flags_of(words[0]), f"{path}, line {line}"
        else:
            assert not flags, f"{path}, line {line}"


def test_the_check_sees_what_is_wrong():
    assert advice.problems("sharpkeras evaluate RUN --image-size 32") == ["evaluate has no --image-size"]
    assert advice.problems("resize with --image-size", "evaluate") == ["evaluate has no --image-size"]
    assert not advice.problems("resize with --image-size", "train")
    assert not advice.problems("pip install --upgrade x, then --force", "compare")
    assert not advice.problems("sharpkeras benchmark --primitives --out x, then --latency-table x", "search")


# --- what depends on the command that was typed ---


def interrupted(monkeypatch, *arguments, error=KeyboardInterrupt):
    import sharpkeras as sk

    def stop(*_, **__):
        raise error()

    for name in ("search", "evaluate", "compare"):
        monkeypatch.setattr(sk, name, stop)
    return sharpkeras(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "--out", "x"), "The same command goes on from the last checkpoint."),
        (("search", "--out", "x", "--overwrite"), "The same command without --overwrite goes on"),
        (("compare", "x"), "Interrupted.\n"),
    ],
)
def test_an_interrupted_command_says_how_it_goes_on(arguments, said, monkeypatch):
    result = interrupted(monkeypatch, *arguments)
    assert result.code == 130 and said in result.err


def test_a_stopped_run_that_began_anew_does_not_advise_to_begin_anew_again(monkeypatch):
    def stopped():
        return signals.StoppedError(signal.SIGTERM)

    result = interrupted(monkeypatch, "search", "--out", "x", error=stopped)
    assert result.code == 143 and "the same command goes on from here" in result.err
    result = interrupted(monkeypatch, "search", "--out", "x", "--overwrite", error=stopped)
    assert result.code == 143 and "the same command without --overwrite goes on from here" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "--out", "x"), "lower --batch-size, or lower --init-channels or --num-cells, or free some memory"),
        (("evaluate", "x"), "lower --batch-size, or free some memory"),
        (("compare", "x"), "free some memory"),
    ],
)
def test_no_flag_is_advised_that_the_command_has_not(arguments, said, monkeypatch):
    result = interrupted(monkeypatch, *arguments, error=MemoryError)
    assert result.code == 7 and said in result.err


@pytest.mark.parametrize("command", ["inspect", "evaluate", "extract", "compare"])
def test_who_reads_a_run_is_told_to_name_another_and_who_writes_one_to_choose_a_place(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run", "run.json").write_text("{}")
    result = sharpkeras(command, "run")
    assert result.code == 5 and "name a directory that search or train wrote" in result.err
    result = sharpkeras("search", "--out", "run")
    assert result.code == 5 and "choose another directory with --out" in result.err


# --- what reads images says what each command that reads some has ---


def settings_of(command):
    return {*flags.of_command(command)}


@pytest.mark.parametrize("path", READING, ids=lambda path: path.name)
def test_what_reads_images_advises_what_its_commands_have(path):
    tree, common = tree_of(path), set.intersection(*map(settings_of, READERS))
    assert settings_in(tree) <= set.union(*map(settings_of, READERS))
    keywords = [found for found in ast.walk(tree) if isinstance(found, ast.keyword)]
    # Where the value of a setting is refused, it was given.
    given = [keyword for keyword in keywords if keyword.arg in ("where", "seen", "allowed")]
    several = [word.value for word in keywords if word.arg == "next_step" and isinstance(word.value, ast.Tuple)]
    for steps in several:
        assert any(not settings_in(step) for step in steps.elts), f"line {steps.lineno}: no step without a setting"
    apart = [name for node in (*given, *several) for _, text in texts(node) for name in errors.SETTING.findall(text)]
    everything = [name for _, text in texts(tree) for name in errors.SETTING.findall(text)]
    rest = [everything.remove(name) for name in apart] and everything
    assert {name for name, _ in rest} <= common, "give these as one of several next steps, one of which has no setting"


def test_the_sources_are_looked_through():
    found = {name for path in READING for name in settings_in(tree_of(path))}
    assert {"image_size", "limit", "skip_bad_images", "follow_symlinks", "download"} <= found


STEPS = ("replace these files", "leave them out with `skip_bad_images`", "take `limit` or `image_size`")


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        (set(), "replace these files"),
        ({"skip_bad_images"}, "replace these files, or leave them out with `skip_bad_images`"),
        ({"limit"}, "replace these files"),
        ({"limit", "image_size"}, "replace these files, or take `limit` or `image_size`"),
    ],
)
def test_a_step_that_cannot_be_taken_is_left_out(settings, step):
    error = DataError("broken", next_step=STEPS)
    assert error.next_step == ", or ".join(STEPS)
    error.keep_to(settings)
    assert error.next_step == error.as_dict()["next"] == step and f"next:    {step}" in str(error)


def test_a_single_step_stays_as_it_is():
    error = UsageError("broken", next_step="sharpkeras evaluate RUN --data SPEC")
    error.keep_to(set())
    assert error.next_step == "sharpkeras evaluate RUN --data SPEC"
    DataError("nothing to do").keep_to(set())


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("search", "`batch_size`, `selection=last`", "--batch-size, --selection last"),
        ("search", "more `epochs`, and `skip_none=False`", "more --epochs, and --no-skip-none"),
        (
            "search",
            "`must_exist`, `checkpoint_s=5`, `check_disk=False`",
            "--resume, --checkpoint-interval 5, --ignore-disk-check",
        ),
        (
            "export",
            "`precision=int8`, `input=uint8`, `optimize=False`",
            "--precision int8, --input uint8, --no-optimize",
        ),
        ("evaluate", "`dataset=digits`, with `overwrite`", "--dataset digits, with --overwrite"),
        ("train", "let its `call` do it; `sharpkeras list recipes`", "let its `call` do it; `sharpkeras list recipes`"),
        (None, "`latency_table=t.json`", "--latency-table t.json"),
    ],
)
def test_settings_become_flags(command, text, said):
    assert flags.rendered(text, command) == said


def test_python_has_settings_and_the_command_line_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = UsageError("broken", where="`init=x`", next_step="use `batch_size=3`")
    assert str(error) == "init x: broken\n  next:    use `batch_size=3`" and error.as_dict()["where"] == "init x"
    make_images(tmp_path / "photos", {"a": 5, "b": 5})
    (tmp_path / "photos" / "a" / "000.png").write_bytes(b"<html>")
    searched = sharpkeras("search", "--dataset", "folder:photos", "--out", "new")
    assert searched.code == 4 and "or leave them out with --skip-bad-images" in searched.err
    measured = sharpkeras("benchmark", "--primitives", "--dataset", "folder:photos")
    assert measured.code == 4 and "next:    replace these files\n" in measured.err
