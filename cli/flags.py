"""The flags of the command line for the settings that messages of the library name."""

import functools
import importlib
import re

import click

from sharpkeras.errors import SETTING

COMMANDS = (
    "quickstart",
    "search",
    "extract",
    "sample",
    "train",
    "evaluate",
    "sweep",
    "compare",
    "export",
    "benchmark",
    "inspect",
    "cost",
    "table",
    "list",
)

OPPOSITES = {  # settings whose False is a flag of another name than --no-…
    "check_disk": "--ignore-disk-check",
    "check_memory": "--ignore-memory-check",
}


def load_command(name: str) -> click.Command:
    """The click command of that name, from its file."""
    return importlib.import_module(f"sharpkeras_cli.commands.{name}").command


def of_command(name: str | None) -> dict[str, str]:
    """Setting → flag of a command: by the name of the parameter, and by that of the flag; none of no command."""
    found: dict[str, str] = {}
    for option in load_command(name).params if name else ():
        if isinstance(option, click.Option):
            found |= {flag.lstrip("-").replace("-", "_"): flag for flag in (*option.opts, *option.secondary_opts)}
            found.setdefault(option.name, option.opts[0])
    return found


@functools.cache
def of_any_command() -> dict[str, str]:
    """Setting → flag of all commands; where several have a setting, that of the first."""
    return {name: flag for command in reversed(COMMANDS) for name, flag in of_command(command).items()}


def rendered(text: str, command: str | None = None) -> str:
    """A text of the library with flags in place of settings: `batch_size` becomes --batch-size.

    Args:
        text: what the library says.
        command: the name of the command that was typed; None is the one that runs. A setting that it has not gets the
            flag of another command, and what no command has stays as it is.
    """
    if "`" not in text:
        return text
    context = click.get_current_context(silent=True)
    command = command or (context and context.info_name in COMMANDS and context.info_name) or None
    flags = {**of_any_command(), **of_command(command)}

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if value == "False":
            return flags.get(f"no_{name}") or OPPOSITES.get(name, found[0])
        if name not in flags:
            return found[0]
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return SETTING.sub(flag, text)
