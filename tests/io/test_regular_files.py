"""What a stranger can put in the place of a file: never waited for, never followed, never read without end."""

import contextlib
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")

from support.command_line import sharpkeras
from support.fuzz import cheap
from support.hostile import SEARCH, make_place

from sharpkeras.errors import RunError, UsageError
from sharpkeras.io import atomic_writes, json_files, regular_files, toml_files
from sharpkeras.runs import RunDirectory

SECRET = "root:x:0:0:the first line of another file"
HANG_S = 60  # a command here takes milliseconds
HUGE = 40 * 10**9


def pipe(path):
    os.mkfifo(path)


def link(path):
    path.symlink_to(Path("secret").resolve())


def link_to_itself(path):
    path.symlink_to(path.name)


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


def directory(path):
    path.mkdir()


def listening(path):
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)  # a path as a socket takes it is short


def huge(path):
    path.touch()
    os.truncate(path, HUGE)


SPECIAL = (pipe, link, link_to_itself, link_to_a_device, listening)
COMMANDS = {
    "extract": ("extract", "search", "--out", "new.json"),
    "compare": ("compare", "search", "train"),
    "train": ("train", "search", "--out", "new"),
    "resume": ("search", "--space", SEARCH.space, "--num-nodes", "2", "--out", "search"),
    "evaluate": ("evaluate", "train"),
    "export": ("export", "train", "--out", "exported.onnx"),
    "inspect search": ("inspect", "search"),
    "inspect train": ("inspect", "train"),
}
OF_SEARCHES, OF_TRAININGS = {"extract", "compare", "train", "resume"}, {"compare", "evaluate", "export"}
# A file of a run → the commands that read it, or write it; `inspect` looks at all and has findings.
READ_BY = {
    "search/run.json": OF_SEARCHES,
    "search/recipe.json": OF_SEARCHES,
    "search/data.json": {"extract", "compare", "train", "resume"},
    "search/metrics.jsonl": {"extract", "compare", "resume"},
    "search/genotype.json": {"train", "resume"},
    "search/epochs/0001.json": {"extract", "resume"},
    "search/epochs": {"extract", "resume"},
    "search/checkpoints": {"resume"},
    "search/checkpoints/.000001-000000.part": {"resume"},
    "search/checkpoints/000001-000000.damaged": {"resume"},
    "search/checkpoints/000001-000000/arrays.safetensors": {"resume"},
    "search/lock": {"resume"},
    "search/log.txt": {"resume"},
    "search/cells.png": {"resume"},
    "train/run.json": OF_TRAININGS,
    "train/recipe.json": OF_TRAININGS,
    "train/data.json": OF_TRAININGS,
    "train/weights.safetensors": {"evaluate", "export"},
    "train/evaluation.json": {"compare"},
}
FOLDERS = {"search/epochs", "search/checkpoints"}
APPENDED = {"search/lock", "search/log.txt", "search/cells.png"}  # never read
# What going on with a finished search only looks at from outside.
UNREAD = {("search/data.json", huge), ("search/epochs/0001.json", huge), ("search/epochs/0001.json", directory)}
TABLE = [(file, make) for file in READ_BY for make in SPECIAL]
TABLE += [(file, make) for file in READ_BY if file not in FOLDERS and "checkpoints" not in file for make in [directory]]
TABLE += [(file, huge) for file in READ_BY if file not in FOLDERS | APPENDED and "checkpoints" not in file]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = make_place(tmp_path_factory.mktemp("template"))
    atomic_writes.save_arrays(folder / "train" / "weights.safetensors", {"a": np.ones(2)}, {})
    (folder / "secret").write_text(SECRET + "\n")
    return folder


@pytest.fixture
def place(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


@contextlib.contextmanager
def never_waiting():
    """While it lasts, what waits forever ends in an error."""

    def hangs(*_):
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def put(file, make):
    """Lets `make` make something in the place of a file or folder of a run."""
    path = Path(file)
    atomic_writes.remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    return os.lstat(path).st_mode


@pytest.mark.parametrize(("file", "make"), TABLE, ids=lambda value: getattr(value, "__name__", value))
def test_nothing_but_a_regular_file_is_read(place, file, make):
    mode = put(file, make)
    run = Path(file).parts[0]
    for name, words in COMMANDS.items():
        if run not in words:
            continue
        shutil.rmtree("new", ignore_errors=True)
        Path("new.json").unlink(missing_ok=True)
        with never_waiting(), cheap():
            result = sharpkeras(*words)
        told = f"{words} ended with {result.code}: {result.err}{result.out}"
        assert SECRET[:6] not in told and "bug of sharpkeras" not in told and "Traceback" not in told, told
        refused = name in READ_BY[file] and not (name == "resume" and (file, make) in UNREAD)
        refused |= words[0] == "inspect" and file.endswith("run.json")
        assert result.code == (5 if refused else 0), told
        if refused:
            assert Path(file).name in result.err and "allowed:" in result.err or "next:" in result.err, told
        elif words[0] == "inspect" and make is not huge and file not in APPENDED and "checkpoints/" not in file:
            assert f"found: {Path(*Path(file).parts[1:])}" in result.out, told
        assert os.lstat(file).st_mode == mode  # neither replaced nor removed
    assert Path("secret").read_text() == SECRET + "\n"


def test_without_them_all_commands_end_well(place):
    """So that the table above shows what the one strange file does."""
    for words in COMMANDS.values():
        with cheap():
            result = sharpkeras(*words)
        assert result.code == 0, result.err


@pytest.mark.parametrize("make", [pipe, link_to_itself, link_to_a_device, directory, listening])
@pytest.mark.parametrize(
    "words",
    [
        ("train", "{}.json", "--out", "new"),
        ("cost", "{}.json"),
        ("search", "--config", "{}.json", "--out", "new"),
        ("search", "--config", "{}.toml", "--out", "new"),
        ("search", "--max-latency-ms", "1", "--latency-table", "{}.json", "--out", "new"),
        ("train", "genotype.json", "--init", "{}.safetensors", "--out", "new"),
        ("train", "genotype.json", "--init", "{}.h5", "--out", "new"),
        ("inspect", "{}.json"),
        ("benchmark", "{}.onnx"),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_path_that_is_named_is_no_pipe_either(place, make, words):
    words = [word.format("strange") for word in words]
    (name,) = [word for word in words if word.startswith("strange")]
    put(name, make)
    with never_waiting(), cheap():
        result = sharpkeras(*words)
    told = f"{result.code}: {result.err}{result.out}"
    assert result.code in (2, 3, 5) and "strange" in result.err and "bug of sharpkeras" not in told, told


def test_a_path_that_is_named_may_be_a_link(place):
    """The run directory itself too: it may lie on another disk."""
    for name in ("genotype.json", "search"):
        shutil.move(name, f"far-{name}")
        Path(name).symlink_to(f"far-{name}")
    with cheap():
        assert sharpkeras("train", "genotype.json", "--out", "new").code == 0
        assert sharpkeras(*COMMANDS["compare"]).code == 0
        assert sharpkeras(*COMMANDS["resume"]).code == 0
    assert RunDirectory.read("search").kind == "search"


def test_a_table_of_latencies_that_a_stranger_names_is_not_quoted(place):
    """His recipe may name any file, and people show messages to others."""
    recipe = json.loads(Path("search/recipe.json").read_text())
    recipe["settings"] |= {"max_latency_ms": 1.0, "latency_table": "secret"}
    Path("search/recipe.json").write_text(json.dumps(recipe))
    with cheap():
        result = sharpkeras(*COMMANDS["extract"])
    assert result.code == 3 and "secret" in result.err and "is not JSON" in result.err
    assert SECRET[:6] not in result.err + result.out


@pytest.mark.parametrize("make", [pipe, link_to_a_device])
def test_a_dry_run_refuses_the_weights_that_the_run_would(place, make):
    make(Path("w.safetensors"))
    with never_waiting():
        for command in (["train", "genotype.json", "--dry-run", "--init"], ["benchmark"]):
            result = sharpkeras(*command, "w.safetensors")
            assert result.code == 2 and "w.safetensors: is not a regular file" in result.err


@pytest.mark.parametrize("name", ["new.json", "new", "SHARP_DARTS.json", "SHARP_DARTS"])
@pytest.mark.parametrize("make", [pipe, link_to_a_device, directory, listening])
def test_an_architecture_replaces_another_file_and_nothing_else(place, make, name):
    """Whatever its name is, that of a published architecture too."""
    make(Path(name))
    kind = os.lstat(name).st_mode
    with never_waiting(), cheap():
        for command in (["extract", "search"], ["sample", "--space", "darts"]):
            if command[0] == "extract" or name.endswith(".json"):  # else a folder is asked for
                result = sharpkeras(*command, "--out", name, "--overwrite")
                assert result.code == 5 and f"{name}: is no architecture" in result.err, result.err
    assert os.lstat(name).st_mode == kind


# --- the functions themselves ---


def test_a_regular_file_is_read_to_its_cap(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert regular_files.read(tmp_path / "a", 5) == regular_files.read("a", 5, within=tmp_path) == b"12345"
    for within, path in ((None, tmp_path / "a"), (tmp_path, "a")):
        with pytest.raises(regular_files.RefusedError, match="a is larger than 4 bytes"):
            regular_files.read(path, 4, within)
    with pytest.raises(FileNotFoundError):
        regular_files.opened("b", within=tmp_path)


def test_no_folder_on_the_way_is_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text(SECRET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "inner").symlink_to(tmp_path / "outside")
    with pytest.raises(regular_files.RefusedError, match="lies behind inner, which is a link"):
        regular_files.opened("inner/a", within=tmp_path / "run")
    (tmp_path / "named").symlink_to(tmp_path / "outside")
    assert regular_files.read("a", 100, within=tmp_path / "named") == SECRET.encode()


@pytest.mark.parametrize("make", [pipe, link_to_a_device, directory, listening])
def test_readers_of_named_files(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text(SECRET)
    make(Path("a"))
    with never_waiting():
        for load in (json_files.load, toml_files.load):
            with pytest.raises(UsageError, match="not a regular file"):
                load(Path("a"))
        with pytest.raises(RunError, match="not a regular file"):
            atomic_writes.load_arrays(Path("a"))


@pytest.mark.parametrize("make", [pipe, link])
def test_what_is_written_goes_through_nothing(tmp_path, monkeypatch, make):
    """A name that is known beforehand, of the file that is written aside, may be taken."""
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text(SECRET)
    make(Path(".a.part"))
    with never_waiting():
        atomic_writes.write(Path("a"), b"content")
    assert Path("a").read_bytes() == b"content" and Path("secret").read_text() == SECRET


def test_what_is_removed_leads_nowhere(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_text(SECRET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "inner").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    for name in ("run", "link", "missing"):
        atomic_writes.remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "a").read_text() == SECRET


def test_overwriting_a_run_of_links_removes_the_links_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outside").mkdir()
    Path("outside", "a").write_text(SECRET)
    RunDirectory.open("run", "search", {"seed": 0}).close()
    for name in ("checkpoints", "epochs", "log.txt", "metrics.jsonl"):
        atomic_writes.remove(Path("run", name))
        Path("run", name).symlink_to(Path("outside" if "." not in name else "outside/a").resolve())
    with pytest.raises(RunError, match="is a link"):
        RunDirectory.open("run", "search", {"seed": 0})
    RunDirectory.open("run", "search", {"seed": 0}, overwrite=True).close()
    assert sorted(path.name for path in Path("run").iterdir()) == ["lock", "log.txt", "recipe.json", "run.json"]
    assert Path("outside", "a").read_text() == SECRET
