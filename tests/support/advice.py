"""Whether what a command advises can be typed: the commands and flags that it names are there, and fit."""

import json
import re

import click

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"(?<![\w-])sharpkeras +([a-z]+)\b((?:[^,;)`]|,(?=\S))*)")
OTHER_PROGRAM = re.compile(r"(?<![\w-])(pip|python|git)\s[^,;]*")


def flags_of(name=None):
    """The flags of a command, and those of `sharpkeras` itself, which stand before it."""
    from sharpkeras_cli.main import group

    context = click.Context(group, **group.context_settings)
    commands = [group] if name is None else [group, group.get_command(context, name)]
    names = {option for command in commands for p in command.params for option in (*p.opts, *p.secondary_opts)}
    return names | {"--help"}


def problems(text, typed=None):
    """What of `text`, which was said to somebody who typed a command, cannot be done; sentences.

    A flag within `sharpkeras NAME …` is one of that command, every other one of the command that was `typed`; None
    knows only the former.
    """
    from sharpkeras_cli.main import COMMANDS

    found, text = [], OTHER_PROGRAM.sub("", text)
    for name, rest in COMMAND.findall(text):
        if name in COMMANDS:
            wrong = set(FLAG.findall(rest)) - flags_of(name)
            found += [f"{name} has no {flag}" for flag in sorted(wrong)]
    if typed is not None and "with the command that wrote it" not in text:
        rest = COMMAND.sub("", text)
        found += [f"{typed} has no {flag}" for flag in FLAG.findall(rest) if flag not in flags_of(typed)]
    return found


def check(arguments, result):
    """Asserts that each next step which a command told can be taken."""
    from sharpkeras_cli.main import COMMANDS

    typed = next((str(argument) for argument in arguments if str(argument) in COMMANDS), None)
    told = re.findall(r"^  next: +(.*)$", result.err, re.MULTILINE)
    told += re.findall(r"^Next: (.*)$", result.out, re.MULTILINE)
    for line in result.err.splitlines():
        if line.startswith('{"error"'):
            told.append(str(json.loads(line).get("next", "")))
    for text in told:
        assert not problems(text, typed), f"{' '.join(map(str, arguments))} says {text!r}: {problems(text, typed)}"
