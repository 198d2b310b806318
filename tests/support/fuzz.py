"""What must hold of all input: no traceback, a documented exit code, a message that can be read, nothing half written.

    PYTHONPATH=tests python -m support.fuzz --minutes 2 --seed 7

Each kind of file, the runs of strangers and the command lines get that long (`make fuzz`); `test_fuzz.py` has the same
with fewer examples, which never change. Nothing here builds a network: see `cheap`.
"""

import argparse
import collections
import contextlib
import functools
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import hypothesis
from hypothesis import strategies as st

from sharpkeras.data import load
from sharpkeras.errors import SharpKerasError
from sharpkeras.experiment import builders, compare, paper_tables, primitive_latency
from sharpkeras.measure.cost import Cost
from sharpkeras_cli.main import COMMANDS
from support.command_line import files_below, sharpkeras
from support.hostile import command_lines, contents, make_place, strange_runs
from support.parsers import PARSERS

EXIT_CODES = {0, 2, 3, 4, 5, 6, 7, 8, 9}  # 1 is a bug; 130 and 143 need a signal
EXIT_CODES_OF_FILES = {3, 5}
LONGEST_MESSAGE = 10_000  # characters
HANG_S = 60  # no example takes a second


def enough(*_, **__):
    """In place of what takes long: the command has accepted everything until here, and ends well."""
    raise click.exceptions.Exit(0)


def load_small(spec, *arguments, **options):
    """`data.load`, but for what would import a library of datasets."""
    is_small = ":" in spec or spec == "digits"
    return load(spec, *arguments, **options) if is_small else enough()


def counted(*_, **__):
    return Cost(1, 1, 1)


# What takes long → what stands for it, in each module of sharpkeras.experiment that has it.
FUNCTIONS = {
    load: load_small,
    builders.search_model: enough,
    compare._counted: counted,
    primitive_latency.parts_of: enough,
    paper_tables._measured: lambda *_: None,
}
CUTS = {  # the same elsewhere
    "sharpkeras.measure.latency.benchmark.take_turns": enough,
    "sharpkeras.measure.latency.benchmark.busy_share": lambda: 0.0,
    "sharpkeras.spaces.network_spec.NetworkSpec.build": enough,
    "sharpkeras.spaces.network_spec.NetworkSpec.cost": counted,
    "sharpkeras.spaces.cell.space.CellSpace.costs": enough,
    "sharpkeras.spaces.hypercuboid.space.HyperCuboid.costs": enough,
    "sharpkeras.view.collapse.draw_collapse": enough,
    "sharpkeras.sweeping.scheduling.carry_out": enough,
    "sharpkeras.sweeping.pools.RayPool.__init__": enough,
    "os.fsync": lambda file: None,
}


@contextlib.contextmanager
def cheap():
    """Commands do all that they do before and after the work, and none of it."""
    modules = [module for name, module in sys.modules.items() if name.startswith("sharpkeras.experiment")]
    with contextlib.ExitStack() as stack:
        for original, replacement in FUNCTIONS.items():
            for module in modules:
                for name in [name for name, value in vars(module).items() if value is original]:
                    stack.enter_context(mock.patch.object(module, name, replacement))
        for target, replacement in CUTS.items():
            stack.enter_context(mock.patch(target, replacement))
        yield


def check_file(parser, content, folder):
    """Whether a file of this content is read; then it says the same when it is written again. Else it is refused."""
    path = Path(folder, parser.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        value = parser.read(path)
    except SharpKerasError as error:
        assert error.exit_code in EXIT_CODES_OF_FILES, error.exit_code
        check_message(str(error))
        json.dumps(error.as_dict(), default=str)
        return False
    path.write_bytes(parser.write(value))
    assert parser.read(path) == value
    return True


def check_message(text):
    """It is there, moves no cursor, can be printed on every terminal that knows UTF-8, and fits on a few screens."""
    assert text.strip() and len(text) < LONGEST_MESSAGE, len(text)
    strange = {character for character in text if not character.isprintable() and character != "\n"}
    assert not strange, f"{strange} in {text!r}"


def check_command(words, template, spoil=lambda: None, own=None):
    """The exit code of a command in a copy of the folder `template`, in which `spoil` is called before.

    A command that fails changes no file, but for those in the run directory `own`, with which it went on.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), cheap():
        shutil.copytree(template, ".", dirs_exist_ok=True)
        spoil()
        before = files_below(Path())
        result = sharpkeras(*words)
        after = files_below(Path())
    assert not [path for path in after if path.suffix == ".part"], words
    told = f"{words} ended with {result.code}: {result.err}{result.out}"
    assert result.code in EXIT_CODES and "Traceback" not in told, told
    for stream in filter(None, (result.err, result.out)):
        check_message(stream[-LONGEST_MESSAGE // 2 :])
    if result.code and not ("--strict" in words and words[0] == "inspect" and result.out):  # findings are no error
        check_message(result.err)
        differing = {path for path, _ in after.items() ^ before.items() if path.name != "lock"}
        changed = [path for path in differing if path.parts[0] != own]
        assert not changed, f"{told}; it changed {sorted(changed)}"
        if "--json" in words:
            assert json.loads(result.err.splitlines()[-1])["exit_code"] == result.code, told
    return result.code


def check_run(strange, template):
    """The exit code of a command on a run of which a stranger wrote one file; `strange` as of `strange_runs`."""
    run, name, content, words = strange
    return check_command(words, template, lambda: Path(run, name).write_bytes(content), own=run)


# --- for hours ---


def checks(folder):
    """Name → strategy and check, which says whether the input was taken."""
    template = make_place(Path(folder, "template"))
    found = {
        f"file of {name}": (contents(parser.seeds), functools.partial(check_file, parser, folder=Path(folder, name)))
        for name, parser in PARSERS.items()
    }
    lines = st.sampled_from(COMMANDS).flatmap(command_lines)
    found["runs"] = (strange_runs(), lambda strange: check_run(strange, template) == 0)
    found["command lines"] = (lines, lambda words: check_command(words, template) == 0)
    return found


def fuzz(strategy, check, seconds, seed):
    """Checks examples for so long; returns how many there were and how many were taken.

    An error that it lets through has the smallest input that was found in `falsified_by`.
    """
    end, counts, example, failed = time.monotonic() + seconds, collections.Counter(), None, False

    def one(given):
        nonlocal example, failed
        if time.monotonic() > end and not failed:  # when it has failed, Hypothesis looks for a smaller example
            return
        example, failed_before, failed = given, failed, True
        taken = watched(check, given)
        failed = failed_before
        counts.update(("all", "taken") if taken else ("all",))

    never = hypothesis.settings(
        max_examples=1000, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    try:
        while time.monotonic() < end:
            hypothesis.seed(seed)(never(hypothesis.given(strategy)(one)))()
            seed += 1
    except BaseException as error:
        error.falsified_by = example
        raise
    return counts["all"], counts["taken"]


def watched(check, given):
    """What the check says, or an AssertionError when it takes so long that it hangs."""

    def hangs(*_):
        raise AssertionError(f"hangs: still busy after {HANG_S} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANG_S)
    try:
        return check(given)
    finally:
        signal.alarm(0)


def main():
    parser = argparse.ArgumentParser(description="Hostile input for hours: see the docstring.")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each kind of input")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the first thousand examples")
    parser.add_argument("--only", default="", help="kinds that have this in their names")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    logging.lastResort = None  # what readers warn of
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, (strategy, check) in checks(folder).items():
            if arguments.only not in name:
                continue
            try:
                count, taken = fuzz(strategy, check, 60 * arguments.minutes, arguments.seed)
                print(f"{name}: {count:,} examples, {taken:,} of them taken", flush=True)
            except Exception as error:
                error.__notes__ = []  # the whole input once more
                traceback.print_exception(error)
                print(f"{name}: FAILED, seed {arguments.seed}, by {error.falsified_by!r}"[:5000], flush=True)
                failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
