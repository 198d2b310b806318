"""Modules of the user, which add rows to the tables: SPACES, WEIGHTINGS, DATASETS, SEARCHES, TRAININGS, PRIMITIVES, ….

The command line imports those that `--import` and the variable SHARPKERAS_IMPORT name; the processes that it starts
import the same ones.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator

from sharpkeras.errors import SharpKerasError, UsageError

VARIABLE = "SHARPKERAS_IMPORT"  # names of modules, with commas between them


def named(modules: Iterable[str] = ()) -> list[str]:
    """The modules that VARIABLE names, then these, each once."""
    names = [*os.environ.get(VARIABLE, "").split(","), *modules]
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def import_all(modules: Iterable[str]) -> None:
    """Imports the modules, from the current directory too, and names them in VARIABLE.

    Raises:
        UsageError: a module is not there, or it cannot be imported.
    """
    modules = list(modules)
    for name in modules:
        _import(name)
    if modules:
        os.environ[VARIABLE] = ",".join(modules)


def _import(name: str) -> None:
    try:
        with _from_current_directory():
            importlib.import_module(name)
    except SharpKerasError:
        raise
    except (ModuleNotFoundError, ValueError, TypeError) as error:  # the last two of names such as "." and "..x"
        is_missing = not isinstance(error, ModuleNotFoundError) or f"{name}.".startswith(f"{error.name}.")
        if not is_missing:
            raise _failed(name, error) from error
        step = "name it as Python imports it, from here or from an installed package: mine for mine.py"
        raise UsageError("there is no such module", where="--import", seen=name, next_step=step) from error
    except Exception as error:
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> UsageError:
    seen, step = f"{type(error).__name__}: {error}", f'python -c "import {name}" shows where'
    return UsageError(f"the module {name} cannot be imported", where="--import", seen=seen, next_step=step)


@contextlib.contextmanager
def _from_current_directory() -> Iterator[None]:
    """While it lasts, modules are found in the current directory first."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the list
            sys.path.remove(here)
