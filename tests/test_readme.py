"""The README: each command in it is one, each file and target it names is there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from sharpkeras_cli.main import group

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPANS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
SPANS += re.findall(r"`([^`\n]+)`", README)
COMMANDS = sorted({span.split("#")[0].strip() for span in SPANS if span.startswith("sharpkeras ")})
SCRIPTS = sorted({span for span in SPANS if span.startswith("python benchmarks/")})


def test_there_are_commands():
    assert len(COMMANDS) >= 8 and SCRIPTS


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line):
    name, *arguments = shlex.split(line)[1:]
    # As under the group: click keeps a command's help option as its first context had it.
    parent = click.Context(group, info_name="sharpkeras", **group.context_settings)
    command = group.get_command(parent, name)
    assert command is not None, f"no command {name}"
    command.make_context(name, arguments, parent=parent)  # raises on an option or a value that there is not


@pytest.mark.parametrize("line", SCRIPTS)
def test_script_is_there(line):
    assert (ROOT / line.split()[1]).is_file()


def test_targets_and_pictures_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([\w-]+)", "\n".join(SPANS))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture
    for module in re.findall(r"from (sharpkeras[\w.]+) import (\w+)", README):
        source = ROOT / (module[0].replace(".", "/") + ".py")
        assert re.search(rf"^(class|def) {module[1]}\b", source.read_text(encoding="utf-8"), re.MULTILINE), module
