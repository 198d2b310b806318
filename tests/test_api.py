"""The public Python API: what importing it loads, and that it does what the commands do, with the same messages."""

import subprocess
import sys
import typing

import pytest

import sharpkeras as sk
from sharpkeras import api

HEAVY = {"keras", "tensorflow", "jax", "numpy", "scipy", "sklearn", "matplotlib", "onnx", "onnxruntime", "click"}
IMPORT = """
import sys
import sharpkeras as sk
print(*sys.modules)
assert {"search", "load", "CellSpace", "layers"} <= set(dir(sk))
from sharpkeras import SearchRecipe
sk.search, sk.train, sk.errors
print(*sys.modules)
"""


def test_importing_loads_no_framework():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    at_import, with_functions = (set(line.split()) for line in done.stdout.splitlines())
    assert not HEAVY & at_import
    assert not (HEAVY - {"numpy"}) & with_functions


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_is_there(name):
    assert getattr(sk, name) is not None


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        sk.serach  # noqa: B018


@pytest.mark.parametrize("name", sk._HOMES["api"])
def test_every_function_is_typed_and_documented(name):
    function = getattr(api, name)
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    assert {*arguments, "return"} <= {*function.__annotations__}
    assert function.__doc__
    assert typing.get_origin(function.__annotations__["return"]) is not typing.Any
