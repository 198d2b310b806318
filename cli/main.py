"""The `sharpkeras` command: its subcommands, and what an error looks like."""

import atexit
import difflib
import functools
import gc
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from sharpkeras import __version__, user_modules
from sharpkeras.engine import signals
from sharpkeras.errors import ResourceError, RunError, SharpKerasError, in_lines, is_out_of_memory, printable
from sharpkeras.io import atomic_writes
from sharpkeras_cli import flags, streams
from sharpkeras_cli.flags import COMMANDS, load_command

RUNS = {"quickstart", "search", "sweep", "train"}  # of which an interrupted one goes on

# A network is a million small objects that stay. Python looks for cycles among them 700 new ones at a time, which is a
# twelfth of an export, and takes the cycles they lie in apart at the end, which keeps a finished command for seconds.
gc.set_threshold(100_000)
atexit.register(gc.freeze)


class Commands(click.Group):
    """Loads a subcommand's file when it is asked for, and guesses what a mistyped name meant."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return load_command(name)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in COMMANDS:
            near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Commands: {', '.join(COMMANDS)}."
            context.fail(f"No such command {printable(arguments[0])!r}.{hint}")
        _import_modules(context, arguments)  # before the choices of the command's options are made
        return super().resolve_command(context, arguments)


def _import_modules(context: click.Context, arguments: Sequence[str]) -> None:
    """Imports the user's modules on the backend that the command will have; they may import Keras."""
    names = user_modules.named(context.params["modules"])
    if names:
        from sharpkeras_cli import options

        before = os.environ.get("KERAS_BACKEND")
        options.choose_backend(options.backend_to_be(arguments))
        user_modules.import_all(names)
        if before is None:  # the command chooses it again, and says why
            del os.environ["KERAS_BACKEND"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sharpkeras")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--allow-old-deps", is_flag=True, help="Run with packages older than is known to be safe.")
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import your Python module, which adds spaces, datasets, recipes …; also SHARPKERAS_IMPORT=MODULE,MODULE.",
)
def group(debug: bool, allow_old_deps: bool, modules: tuple[str, ...]) -> None:
    """Differentiable architecture search (DARTS, sharpDARTS) for Keras 3.

    sharpkeras quickstart runs the whole path on real handwritten digits in a few minutes.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line; every error ends in one message and its exit code (see `sharpkeras.errors`)."""
    with streams.printable():
        code = _run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code of a command line, when all is said."""
    debug, as_json = "--debug" in arguments, "--json" in arguments
    _show_warnings()
    try:
        with signals.ends_in_order():
            result = group.main(arguments, prog_name="sharpkeras", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    except click.UsageError as error:
        code = _tell_usage(error, as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"\nInterrupted.{_goes_on(arguments)}", err=True)
        code = 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        error = _as_ours(error, arguments)
        error.keep_to(flags.of_command(_typed(arguments)))
        error.render(functools.partial(flags.rendered, command=_typed(arguments)))
        code = _tell(error, as_json)
    return code


def _goes_on(arguments: Sequence[str]) -> str:
    """What makes an interrupted run go on, a sentence; nothing of a command that is no run."""
    if _typed(arguments) not in RUNS:
        return ""
    same = "The same command without --overwrite" if "--overwrite" in arguments else "The same command"
    return f" {same} goes on from the last checkpoint."


def _typed(arguments: Sequence[str]) -> str | None:
    """The name of the command on a command line; None where there is none."""
    pairs = zip(["", *arguments], arguments)
    return next((word for before, word in pairs if word in COMMANDS and before != "--import"), None)


class OnStderr(logging.Handler):
    """What the library warns of, as a line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"warning: {printable(flags.rendered(record.getMessage()))}", err=True)


def _show_warnings() -> None:
    """Puts the library's warnings on stderr, once per process; they also go into a run's log.txt."""
    logger = logging.getLogger("sharpkeras")
    if not any(handler.name == "stderr" for handler in logger.handlers):
        handler = OnStderr(logging.WARNING)
        handler.name = "stderr"
        logger.addHandler(handler)


def _as_ours(error: Exception, arguments: Sequence[str]) -> SharpKerasError:
    """The error as a SharpKerasError: a file or the memory that the system denies, or a bug of ours."""
    if isinstance(error, signals.StoppedError) and "--overwrite" in arguments:
        error.next_step = "the same command without --overwrite goes on from here"
    if isinstance(error, SharpKerasError):
        return error
    if is_out_of_memory(error):
        return ResourceError(
            "out of memory",
            seen=printable(str(error).strip().split("\n")[0]),
            next_step=(
                "lower `batch_size`",
                "lower `init_channels` or `num_cells`",
                "free some memory: end other programs",
            ),
        )
    if isinstance(error, OSError) and error.errno in atomic_writes.FULL:  # wherever it was met: a log, a temporary file
        return atomic_writes.disk_error(error, error.filename)
    if isinstance(error, OSError) and error.filename is not None:  # a name that is too long, a place without permission
        problem, step = "cannot be read or written", "name another file or directory"
        return RunError(problem, where=str(error.filename), seen=error.strerror, next_step=step)
    return SharpKerasError(
        f"a bug of sharpkeras: {type(error).__name__}: {printable(str(error))}",
        next_step="sharpkeras --debug … shows where; please report it",
    )


def _tell(error: SharpKerasError, as_json: bool) -> int:
    word = "" if isinstance(error, signals.StoppedError) else "Error: "
    click.echo(json.dumps(error.as_dict(), default=str) if as_json else f"{word}{error}", err=True)
    return error.exit_code


def _tell_usage(error: click.UsageError, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": error.format_message(), "exit_code": 2}), err=True)
    else:
        shown = io.StringIO()
        error.show(shown)
        click.echo(in_lines(shown.getvalue().rstrip()), err=True)  # it repeats what was typed
    return 2


if __name__ == "__main__":
    main()
