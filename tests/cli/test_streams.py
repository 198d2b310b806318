"""Every command on every kind of stream: full, closed, of few characters; no text of one ends as a bug of ours."""

import ast
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import SEARCH, TRAIN, run_on

from sharpkeras.errors import ResourceError
from sharpkeras_cli import streams, tables
from sharpkeras_cli.main import COMMANDS

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

from sharpkeras.experiment import paper_tables

LIGHT = {  # arguments → exit code; none of them imports a framework
    ("--help",): 0,
    ("--version",): 0,
    ("list", "recipes"): 0,
    ("list", "recipes", "--json"): 0,
    ("inspect", "náme.json"): 0,
    ("inspect", "náme.json", "--json"): 0,
    ("inspect", "nothing"): 2,
    ("serch",): 2,
    ("benchmark",): 2,
    ("search", "--epochs", "0", "--json"): 2,
    ("search", "--help"): 0,
}
GENOTYPE = {"normal": [["none", 0], ["none", 1]], "normal_concat": [2], "name": "x"}
GENOTYPE |= {"reduce": GENOTYPE["normal"], "reduce_concat": [2]}
TABLE = [{"name": "×", "printed": {"params_m": 3.6, "addmult_b": 0.5}, "measured": None, "note": "it is 2.8 ± 0.1 – …"}]
SHELL = 'exec "$0" -m sharpkeras_cli.main "$@" '


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("place")
    Image.new("RGB", (4, 4)).save(folder / "image.png")
    (folder / "náme.json").write_text(json.dumps(GENOTYPE))
    return folder


def in_a_shell(place, arguments, redirections, **environment):
    """A command with these redirections of a shell; the finished process, its output as bytes."""
    command = ["bash", "-c", SHELL + redirections, sys.executable, *arguments]
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **environment}
    return subprocess.run(command, capture_output=True, cwd=place, env=environment)


def check(done):
    assert b"a bug of sharpkeras" not in done.stderr and b"Traceback" not in done.stderr, done.stderr
    assert b"Exception ignored" not in done.stderr and done.returncode not in (1, 120), done.stderr


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_streams_that_cannot_be_written(arguments, place):
    code = LIGHT[arguments]
    said = in_a_shell(place, arguments, "")
    for redirection in (">&-", "2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"):
        done = in_a_shell(place, arguments, redirection)
        check(done)
        assert done.returncode == code, redirection
        assert done.stdout == (b"" if ">&- 2" in redirection or redirection == ">&-" else said.stdout), redirection
        assert done.stderr == (b"" if "2>" in redirection else said.stderr), redirection
    done = in_a_shell(place, arguments, ">/dev/full")
    check(done)
    assert done.returncode == (7 if said.stdout else code)
    assert (b"stdout cannot be written" in done.stderr) == bool(said.stdout)


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_a_pipe_that_nobody_reads(arguments, place):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sharpkeras_cli.main", *arguments]
    for pipes in ({"stdout": writer, "stderr": subprocess.PIPE}, {"stdout": subprocess.PIPE, "stderr": writer}):
        done = subprocess.run(command, cwd=place, **pipes)
        assert done.returncode == LIGHT[arguments]
        assert b"Exception ignored" not in (done.stderr or b"") and b"bug" not in (done.stderr or b"")
    os.close(writer)


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_streams_of_few_characters(arguments, encoding, place):
    done = in_a_shell(place, arguments, "", PYTHONIOENCODING=encoding)
    check(done)
    assert done.returncode == LIGHT[arguments]
    for text in (done.stdout, done.stderr):
        assert text.decode(encoding).isascii() or encoding == "latin-1"
    if "--json" in arguments:
        whole = in_a_shell(place, arguments, "", PYTHONIOENCODING="utf-8")
        assert json.loads(done.stdout or done.stderr) == json.loads(whole.stdout or whole.stderr)


def test_the_c_locale(place):
    done = in_a_shell(place, ("list", "recipes"), "", LC_ALL="C")
    assert done.returncode == 0 and b"8x8 digits" in done.stdout and b"2.29 +- 0.06 %" in done.stdout
    assert done.stdout.isascii()
    lines = [line for line in done.stdout.decode().split("\n") if line[:1] in "|+" and line]
    assert (
        len({len(line) for line in lines[: len(lines) // 2 - 5]}) == 1
    )  # the forms are in place before it is laid out


# --- commands on networks: within this process ---


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("search", "train"):
        shutil.copytree(finished / name, folder / name)
        shutil.copytree(finished / name, folder / f"ñ {name}")
    return folder


HEAVY = (
    *([name, "--help"] for name in COMMANDS),
    ["inspect", "ñ search"],
    ["table", "2"],
    ["compare", "ñ search"],
    ["compare", "train"],
    ["extract", "ñ search", "--overwrite"],
    [*SEARCH, "--out", "ñ search"],
    [*SEARCH, "--out", "new", "--dry-run"],
    [*TRAIN[:-1], "train"],
    ["evaluate", "ñ train"],
    ["sample", "--num-nodes", "2", "--overwrite"],
    ["cost", "DARTS_V2", "--num-cells", "3", "--init-channels", "4", "--per-layer"],
    ["list"],
)


@pytest.mark.parametrize("arguments", HEAVY, ids=lambda arguments: " ".join(arguments[:2]))
def test_commands_on_networks(arguments, runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(paper_tables, "table", lambda number: TABLE)
    for encoding in ("ascii", "latin-1"):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        assert run_on(out, err, *arguments) == 0, err.buffer.getvalue()
        text = out.buffer.getvalue().decode(encoding)
        assert text and (text.isascii() or encoding == "latin-1")
    with open("/dev/full", "w") as full:
        err = io.StringIO()
        assert run_on(full, err, *arguments) == 7 and "stdout cannot be written" in err.getvalue()
    with open("/dev/full", "w") as full:
        out = io.StringIO()
        assert run_on(out, full, *arguments) == 0 and out.getvalue()
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody:
        err = io.StringIO()
        assert run_on(nobody, err, *arguments) == 0 and "Error" not in err.getvalue()


@pytest.mark.parametrize("arguments", [["compare", "search", "train"], ["evaluate", "train"], ["extract", "search"]])
def test_json_is_json_in_ascii(arguments, runs, monkeypatch):
    monkeypatch.chdir(runs)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    overwrite = ["--overwrite"] if arguments[0] == "extract" else []
    assert run_on(out, err, *arguments, *overwrite, "--json") == 0, err.buffer.getvalue()
    assert json.loads(out.buffer.getvalue())


# --- how ---


def test_what_an_encoding_lacks_gets_a_form_or_is_escaped():
    assert streams.fitting("2.29 ± 0.06 – … × §5 │", "ascii") == "2.29 +- 0.06 - ... x section 5 |"
    assert streams.fitting("± – é", "latin-1") == "± - é"
    assert streams.fitting("é 検 \udcff", "ascii") == r"\xe9 \u691c \udcff"
    assert streams.fitting("検 \udcff", "utf-8") == r"検 \udcff"


def test_every_rule_of_a_table_has_a_form():
    shown = tables.render([{"a": 1, "b": None}], title="t").translate(streams.FORMS)
    assert shown.isascii()


def test_what_is_said_after_an_error_is_dropped():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    stream = streams.Stream(Full(), needed=True)
    with pytest.raises(ResourceError, match="stdout cannot be written"):
        stream.write("a")
    assert stream.write("b") == 1 and not stream.isatty()
    stream = streams.Stream(Full(), needed=False)
    assert stream.write("a") == 1
    with contextlib.redirect_stdout(None), streams.printable():
        print("to nobody")


# --- no other way ---


def test_nothing_prints_but_through_the_streams():
    """Told from the code, so that an example, or a program that is handed to another process, prints as it likes."""
    root = Path(__file__).parents[2]
    for path in sorted((root / "cli").rglob("*.py")) + sorted((root / "sharpkeras").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path}:{getattr(node, 'lineno', 0)}"
            assert not (isinstance(node, ast.Name) and node.id == "print"), place
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("__std")), place
            if isinstance(node, ast.ImportFrom):
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert "rich.table" not in imported, f"{place} makes a table of its own"
            if isinstance(node, ast.Import):
                assert "rich.table" not in {alias.name for alias in node.names}, f"{place} makes a table of its own"
