"""Modules of the user, by --import and SHARPKERAS_IMPORT: their rows in the tables are there for every command."""

import os
import subprocess
import sys

import pytest
from support.command_line import sharpkeras

MODULE = """
import dataclasses
import os
from sharpkeras import recipes
from sharpkeras.data import DATASETS
from sharpkeras.primitives import PRIMITIVES

assert os.environ["KERAS_BACKEND"] == "tensorflow"  # it was chosen before
PRIMITIVES["two_of_mine"] = ("none", "skip_connect", "sep_conv_3x3")
DATASETS["my_digits"] = dataclasses.replace(DATASETS["digits"], description="digits of mine")
mine = dataclasses.replace(recipes.SEARCHES["digits"].settings, dataset="my_digits", space="two_of_mine")
recipes.SEARCHES["mine"] = dataclasses.replace(recipes.SEARCHES["digits"], settings=mine, summary="a search of mine")
"""
TINY = ["--limit", "40", "--batch-size", "8", "--init-channels", "2", "--num-cells", "2", "--num-nodes", "1"]


def run(folder, *arguments, **environment):
    """`sharpkeras` in a process of its own, so that no row of these stays in the tables of the others."""
    command = [sys.executable, "-m", "sharpkeras_cli.main", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture
def module(tmp_path):
    (tmp_path / "my_rows.py").write_text(MODULE)
    return tmp_path


def test_rows_of_a_module_are_searched(module):
    done = run(module, "--import", "my_rows", "search", "mine", *TINY, "--epochs", "1", "--out", "found")
    assert done.returncode == 0, done.stderr
    assert "my_digits: " in done.stderr and (module / "found" / "genotype.json").is_file()


def test_the_variable_does_the_same_and_the_rows_are_listed(module):
    listed = run(module, "list", SHARPKERAS_IMPORT="my_rows, json")
    assert listed.returncode == 0, listed.stderr
    assert all(text in listed.stdout for text in ("two_of_mine", "digits of mine", "a search of mine"))
    without = run(module, "search", "mine")
    assert without.returncode == 2 and "'mine' is not one of" in without.stderr


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("nowhere", "", "--import: there is no such module"),
        ("search", "import absent_package", "--import: the module search cannot be imported"),
        ("my_rows", "1 / 0", "seen:    ZeroDivisionError: division by zero"),
        ("..", "", "--import: there is no such module"),
        ("my_rows", "from sharpkeras.errors import ConfigError; raise ConfigError('wrong row')", "Error: wrong row"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(name, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if code:
        (tmp_path / f"{name}.py").write_text(code)
    result = sharpkeras("--import", name, "list", "datasets")
    assert result.code == (3 if "ConfigError" in code else 2) and said in result.err
    assert "next: " in result.err or "ConfigError" in code


def test_the_backend_is_the_one_that_the_command_will_have(monkeypatch, tmp_path):
    from sharpkeras_cli import options

    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert options.backend_to_be(["search", "--backend", "jax"]) == "jax"
    assert options.backend_to_be(["search", "--backend=jax", "--epochs", "3"]) == "jax"
    assert options.backend_to_be(["train", "DARTS_V2"]) is None
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert options.backend_to_be(["train", "DARTS_V2"]) == "jax"
    assert options.backend_to_be(["export", "run"]) == "tensorflow"
    assert options.backend_to_be(["benchmark", "--primitives"]) == "tensorflow"
