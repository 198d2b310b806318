"""Every command and every flag that a message names is there; see `advice` for what a command says when it runs."""

import ast
import difflib
import os
import signal
from pathlib import Path

import pytest
from support import advice
from support.command_line import sharpkeras

from sharpkeras.engine import signals
from sharpkeras_cli.main import COMMANDS

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("cli", "sharpkeras") for path in (ROOT / folder).rglob("*.py"))
FLAGS = set().union(*(advice.flags_of(name) for name in COMMANDS))
NOT_OURS = {"--xla", "--no-"}  # a flag of XLA, and the beginning of one that is made


def texts(path):
    """(line, text) of each string in a file; what an f-string fills in is an X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_text_names_is_there(path):
    for line, text in texts(path):
        where = f"{path.relative_to(ROOT)}, line {line}: {text!r}"
        for name, _ in advice.COMMAND.findall(text):  # or a sentence about the program
            assert name in COMMANDS or not difflib.get_close_matches(name, COMMANDS), f"{where}: no command {name}"
            assert name in COMMANDS or f"`sharpkeras {name}" not in text, f"{where}: no command {name}"
        assert not advice.problems(text), f"{where}: {advice.problems(text)}"
        named = set(advice.FLAG.findall(advice.OTHER_PROGRAM.sub("", text)))
        assert named <= FLAGS | NOT_OURS, f"{where}: no command has {named - FLAGS - NOT_OURS}"


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
