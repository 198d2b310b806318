"""Hostile command lines and files: the checks of `fuzz.py` on examples that are the same each time.

What they once found stands below as a table, so that it is looked at first and whatever the generator draws.
"""

import os
from pathlib import Path

import pytest

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

from hypothesis import HealthCheck, given, settings
from support.fuzz import check_command, check_file, check_run, watched
from support.hostile import (
    COMMANDS_ON_RUNS,
    GENOTYPE,
    ROUTE,
    TABLE,
    command_lines,
    contents,
    make_place,
    strange_runs,
    written,
)
from support.parsers import PARSERS

from sharpkeras.errors import ConfigError, UsageError
from sharpkeras.io import json_files
from sharpkeras.spaces.hypercuboid import multichannel
from sharpkeras.spaces.hypercuboid import path as paths
from sharpkeras_cli.main import COMMANDS

FEW = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
MANY = settings(FEW, max_examples=100)
LARGE = json_files.MAX_BYTES - 10
HUGE = "9" * 400  # no float is as large
LONG = "x" * 5000  # no name of a file is as long


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


# --- the same checks as at night ---


@pytest.mark.parametrize("kind", PARSERS)
def test_files(tmp_path, kind):
    parser, taken = PARSERS[kind], []

    @MANY
    @given(contents(parser.seeds))
    def check(content):
        taken.append(check_file(parser, content, tmp_path))

    check()
    assert 0 < sum(taken) < len(taken)  # else they are all good, or all rubbish


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines(template, name):
    @FEW
    @given(command_lines(name))
    def check(words):
        check_command(words, template)

    check()


def test_runs_of_strangers(template):
    @MANY
    @given(strange_runs())
    def check(strange):
        check_run(strange, template)

    check()


# --- what holds of good input ---


@pytest.mark.parametrize("kind", PARSERS)
def test_a_good_file_is_taken(tmp_path, kind):
    parser = PARSERS[kind]
    for seed in parser.seeds:
        content = seed if isinstance(seed, bytes) else seed.encode() if isinstance(seed, str) else written(seed)
        assert check_file(parser, content, tmp_path)


@pytest.mark.parametrize("words", [words for words in COMMANDS_ON_RUNS if words[0] in ("compare", "cost", "extract")])
def test_a_good_run_is_taken(template, words):
    assert check_command(words, template) == 0


# --- what was found ---


@pytest.mark.parametrize(
    "text",
    ('"' + '\\"' * (LARGE // 2), '"' * LARGE, '["' + "\\\\" * (LARGE // 2), '{"a": "' + '\\"[' * (LARGE // 3)),
    ids=("escaped quotes", "quotes", "backslashes", "brackets"),
)
def test_a_string_without_an_end_is_read_once(text):
    with pytest.raises(ConfigError):  # it took hours
        watched(lambda text: json_files.loads(text, "value.json"), text)


@pytest.mark.parametrize("path", ("a\0b.json", "a\ud800b.json", LONG), ids=("NUL", "half a character", "long"))
def test_a_path_that_no_file_has(path):
    with pytest.raises(UsageError, match="cannot be read"):
        json_files.load(path)


@pytest.mark.parametrize(
    ("kind", "content"),
    (
        ("TOML", ".".join(["a"] * 500_000) + " = 1"),
        ("TOML", f"epochs = {HUGE}"),
        ("TOML", f"learning_rate = {HUGE}"),
        ("TOML", "epochs = 0x" + "f" * 10_000),
        ("TOML", "epochs = [0x" + "f" * 10_000 + "]"),
        ("TOML", "epochs." + "a." * 5000 + "a = 1"),
        ("search config", '{"max_parameters": ' + "9" * 99 + "}"),
        ("search config", '{"learning_rate": ' + "9" * 101 + "}"),
        ("search config", '{"cost_of": "\\ud800"}'),
        ("genotype", '{"' + "x" * 10_000 + '": 1, ' + written(GENOTYPE.as_dict()).decode()[1:]),
        ("genotype", written({**GENOTYPE.as_dict(), "schema_version": True}).decode()),
        ("path", written({**ROUTE.as_dict(), "routes": [[{"\x1b[31m\ud800": []}, {}]]}).decode()),
        ("latencies", written({**TABLE, "table": {"\x1b" + "x" * 20_000: {"ms": -1}}}).decode()),
        ("metrics", b"\x80\n"),
        ("metrics", b"null\n"),
        ("metrics", b'{"epoch": "1"}\n'),
        ("recipe", b"[]"),
        ("recipe", b'{"settings": []}'),
        ("run", written({"program": "sharpkeras", "kind": "search", "schema_version": 1, "versions": 3}).decode()),
    ),
)
def test_a_file_is_refused(tmp_path, kind, content):
    assert not check_file(PARSERS[kind], content if isinstance(content, bytes) else content.encode(), tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    (
        (2, ("cost", "SHARP_DARTS", "--\x1b[31m")),
        (2, ("search", "--epochs", "\x1b[31m\u202e")),
        (3, ("cost", LONG)),
        (5, ("evaluate", LONG)),
        (5, ("search", "--out", LONG)),
        (2, ("extract", "search", "--epoch", "1" + "0" * 300)),
        (2, ("export", "train", "--out", "")),
        (5, ("benchmark", LONG)),
        (2, ("search", "--max-parameters", HUGE)),
        (2, ("cost", "SHARP_DARTS", "--num-classes", "1" + "0" * 9)),
        (3, ("search", "--set", f"l2={HUGE}")),
        (3, ("train", "SHARP_DARTS", "--set", "ema=nan", "--json")),
        (2, ("search", "--config", "/dev/zero")),
    ),
)
def test_a_command_is_refused(template, code, words):
    assert check_command(words, template) == code


def test_a_pipe_is_not_waited_for(template):
    words = ("search", "--config", "pipe.toml")
    assert watched(lambda words: check_command(words, template, lambda: os.mkfifo("pipe.toml")), words) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    (
        ("train/data.json", b"null", ("compare", "train")),
        ("train/recipe.json", b"{}", ("compare", "train")),
        ("train/recipe.json", b'{"settings": {"seed": []}}', ("compare", "train")),
        ("train/evaluation.json", b'{"interval": []}', ("compare", "train")),
        ("search/epochs/0001.json", b'{"alphas": [[1], [2, 3]]}', ("extract", "search", "--out", "new.json")),
        ("search/metrics.jsonl", b'{"epoch": 0, "skip_share": "x"}\n', ("compare", "search")),
    ),
)
def test_a_run_is_refused(template, name, content, words):
    assert check_command(words, template, lambda: Path(name).write_bytes(content)) in (0, 3, 5)


def test_a_path_of_more_filters_than_a_machine_holds_is_refused():
    route = [{"filters": 10**9}, *[{"filters": 10**9, "primitive": "SharpSepConv"}] * 2]
    found = paths.Path.from_dict({"space": multichannel.NAME, "routes": [route]})
    with pytest.raises(ConfigError, match="1 to 65536 filters"):
        multichannel.of_path(found)
