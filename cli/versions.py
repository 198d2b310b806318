"""The oldest versions of other packages that are safe, as the installed sharpkeras declares them."""

import contextlib
import importlib.metadata
import importlib.util
import re

import click

from sharpkeras.errors import ConfigError

FLOOR = re.compile(r"([\w.-]+)(?:\[[^]]*\])?>=([\d.]+)")
DEVELOPMENT = re.compile(r'extra == "(test|lock)"')
BACKEND_EXTRAS = {"tensorflow": "cpu", "jax": "jax"}


def require_backend(name: str) -> None:
    """Raises ConfigError with the command that installs the Keras backend `name`, unless it is there."""
    if importlib.util.find_spec(name) is None:
        next_step = f'pip install "sharpkeras[{BACKEND_EXTRAS[name]}]"'
        raise ConfigError(f"the package {name} is not installed", where="--backend", seen=name, next_step=next_step)


def refuse_old(allowed: bool) -> None:
    """Raises ConfigError for an installed package below its floor; only warns if that is `allowed`."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from a checkout, nothing is declared
        requirements = importlib.metadata.requires("sharpkeras") or ()
        declared = [FLOOR.match(text) for text in requirements if not DEVELOPMENT.search(text)]
        for name, floor in dict.fromkeys(match.groups() for match in declared if match):
            found = _version(name)
            if found is None or _numbers(found) >= _numbers(floor):
                continue
            if not allowed:
                step = f'pip install "{name}>={floor}", or sharpkeras --allow-old-deps …'
                raise ConfigError(f"the package {name} is too old", seen=found, allowed=f">={floor}", next_step=step)
            click.echo(f"warning: {name} {found} is older than {floor}, the oldest that is known to be safe", err=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0]))
