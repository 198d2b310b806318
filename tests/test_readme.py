"""README and docs/: each command in them is one, each file and link is there, each Python example runs."""

import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sharpkeras_cli.main import group

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}

# What a Python example is made with here, so that it takes seconds: each names its epochs.
TINY = "epochs=1, warmup_epochs=0, limit=80, batch_size=16, init_channels=2, num_cells=3"


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def spans(text):
    """The lines of shell blocks and what stands in backquotes."""
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


SPANS = {page: spans(text) for page, text in TEXTS.items()}
ALL_SPANS = [span for found in SPANS.values() for span in found]
COMMANDS = sorted({span.split(" #")[0].strip() for span in ALL_SPANS if span.startswith("sharpkeras ")})
FILES = sorted({name for span in ALL_SPANS for name in re.findall(r"^(?:python )?([\w.]+/[\w./]+\.\w+)\b", span)})


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 120


def test_there_are_commands():
    assert len(COMMANDS) >= 40


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line):
    words = shlex.split(line)[1:]
    # As under the group: click keeps a command's help option as its first context had it.
    parent = click.Context(group, info_name="sharpkeras", **group.context_settings)
    while words[0].startswith("--"):
        option = next((option for option in group.params if words[0] in option.opts), None)
        assert option is not None, f"no option {words[0]}"
        words = words[1 if option.is_flag else 2 :]
        if not words or words[0] == "…":
            return
    command = group.get_command(parent, words[0])
    assert command is not None, f"no command {words[0]}"
    if words[1:]:  # else the text may speak of the command without what it needs
        command.make_context(words[0], words[1:], parent=parent)  # raises on an option or a value that there is not


@pytest.mark.parametrize("name", [name for name in FILES if name.split("/")[0] not in ("runs", "exported")])
def test_file_is_there(name):
    assert (ROOT / name).is_file()


def test_targets_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([\w-]+)", "\n".join(ALL_SPANS), re.MULTILINE))
    assert {"setup", "test", "demo", "check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


def test_the_index_has_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\((\w+\.md)\)", TEXTS["docs/index.md"]))


def test_pictures_are_small():
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "docs" / "images").iterdir())


@pytest.mark.parametrize("name", sorted({span for span in ALL_SPANS if re.fullmatch(r"sharpkeras(\.\w+)+", span)}))
def test_name_is_there(name):
    pkgutil.resolve_name(name)  # raises if there is none


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks("python", text)])
def test_python_examples_run(page, tmp_path):
    """All of a page, one after the other: later ones use what earlier ones made."""
    code = re.sub(r"\bepochs=\d+", TINY, "\n".join(blocks("python", TEXTS[page])))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", ("architecture.md", "extending.md"))
def test_what_pages_have_from_the_code_is_that_of_today(page):
    """`python docs/tables.py --write` makes it anew."""
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    assert tables["filled"](page) == TEXTS[f"docs/{page}"]
