"""`sharpkeras sweep`"""

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpkeras.errors import in_lines, printable
from sharpkeras.experiment.inherited_settings import BACKENDS
from sharpkeras.io import atomic_writes
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.sweeping.jobs import LOG, Outcome
from sharpkeras.sweeping.plan import How, Job
from sharpkeras.sweeping.pools import POOLS
from sharpkeras.sweeping.record import REPORT
from sharpkeras.sweeping.scheduling import NullProgress
from sharpkeras_cli import options, tables
from sharpkeras_cli.commands import compare
from sharpkeras_cli.groups import GroupedCommand
from sharpkeras_cli.heartbeat import clock

if TYPE_CHECKING:
    from sharpkeras.experiment.sweep import Place

TABLE = "compare.txt"
SETTING = "NAME=VALUE"


@click.command("sweep", cls=GroupedCommand)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--recipes", metavar="NAME,NAME", help="Searches, each a row, instead of a FILE.")
@click.option("--random", is_flag=True, help="Add a row of random architectures for each of --recipes.")
@click.option("--seeds", metavar="SEEDS", help="Of every row, as 0-9 or 0,3,7.  [default: 0, or as FILE says]")
@click.option("--search", multiple=True, metavar=SETTING, help="Change a setting of all searches.")
@click.option("--train", multiple=True, metavar=SETTING, help="Change a setting of all trainings.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/sweep", show_default=True, help="Directory.")
@click.option("--on", type=click.Choice(tuple(POOLS)), default="local", show_default=True, help="Where jobs run.")
@click.option("--jobs", type=click.IntRange(1), help="Jobs at once.  [default: one per GPU, or per 4 cores]")
@click.option("--threads", type=click.IntRange(1), help="Threads of each job.  [default: the cores, divided]")
@click.option(
    "--slurm", multiple=True, metavar=SETTING, help="A setting of sbatch, as partition=gpu or timeout_min=600."
)
@click.option("--backend", type=click.Choice(BACKENDS), help="Keras backend.  [default: tensorflow]")
@click.option("--device", type=click.Choice(("auto", "cpu", "gpu")), default="auto", help="Where to compute.")
@options.data
@click.option("--checkpoint-interval", "checkpoint_s", type=options.FiniteRange(0.0), help=options.CHECKPOINTS_HELP)
@click.option("--deterministic", is_flag=True, help="Give the same bits again, even where that is slower.")
@click.option("--dry-run", is_flag=True, help="List the commands that would run; write nothing.")
@options.as_json
def command(
    file: Path | None,
    recipes: str | None,
    random: bool,
    seeds: str | None,
    search: tuple[str, ...],
    train: tuple[str, ...],
    out: Path,
    on: str,
    jobs: int | None,
    threads: int | None,
    slurm: tuple[str, ...],
    backend: str | None,
    device: str,
    checkpoint_s: float | None,
    deterministic: bool,
    dry_run: bool,
    as_json: bool,
    **data_options: bool,
) -> None:
    """Search, train and evaluate many times; compare.

    FILE is a TOML or JSON file of rows; each row with each of its seeds is a job in a directory of its own. The same
    command goes on where a sweep was stopped or a job has failed, and adds rows and seeds. It ends with what `compare`
    says of all runs.
    """
    options.choose_backend(backend, "cpu" if device == "cpu" else "auto")
    from sharpkeras.experiment import sweep as sweeping

    how = How(
        backend, device, deterministic, checkpoint_s, tuple(name for name, given in data_options.items() if given)
    )
    chosen = sweeping.rows(
        file,
        seeds,
        [name.strip() for name in recipes.split(",")] if recipes else (),
        random,
        SearchRecipe.parse(search, "--search"),
        TrainRecipe.parse(train, "--train"),
    )
    if dry_run:
        return _list(sweeping.planned(chosen, out, how)[2], as_json)
    place = sweeping.Place(on, jobs, threads, SearchRecipe.parse(slurm, "--slurm"))
    _carry_out(chosen, out, place, how, as_json)


def _carry_out(chosen: Any, out: Path, place: "Place", how: How, as_json: bool) -> None:
    from sharpkeras.experiment import sweep as sweeping

    def tell(report: dict[str, Any]) -> None:
        _tell(report, out, as_json)

    report = sweeping.sweep(chosen, out, place, how, ConsoleSweep(), tell)
    if not as_json:
        click.echo(f"Kept as {out / TABLE} and {out / REPORT}")
        options.say_next(*compare.next_command(report["comparison"]))


def _list(commands: list[list[str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"commands": commands}))
        return
    for words in commands:
        click.echo(" ".join(map(options.typed, words)))
    click.echo(f"{len(commands)} commands; nothing was run.", err=True)


def _tell(report: Mapping[str, Any], out: Path, as_json: bool) -> None:
    """Prints the tables of a sweep, and keeps them as a file."""
    if as_json:
        click.echo(json.dumps(report))
    else:
        _print(report)
    kept = io.StringIO()
    with contextlib.redirect_stdout(kept), contextlib.redirect_stderr(io.StringIO()):
        _print(report)
    atomic_writes.write(out / TABLE, kept.getvalue().encode())


def _print(report: Mapping[str, Any]) -> None:
    if report["comparison"]:
        compare.tell_report(report["comparison"], None, False)
    records = [
        {
            "row": tables.whole(row["row"]),
            "images": row["dataset"] and tables.whole(printable(row["dataset"])),
            "label": row["label"],
            "mean test error": row["mean"] and row["mean"]["text"],
            "median": row["median"] and row["median"]["text"],
        }
        for row in report["rows"]
    ]
    if not any(record["label"] for record in records):
        records = [{name: value for name, value in record.items() if name != "label"} for record in records]
    caption = "of whole jobs: seeds of the search, or of the random architecture, and of the training together"
    tables.show(records, title="Rows of the sweep", caption=caption)


class ConsoleSweep(NullProgress):
    """A line on stderr for each job that begins or ends."""

    def __init__(self) -> None:
        self._number = 0
        self._all = 0
        self._done = 0

    def plan(self, waiting: int, done: int, about: str) -> None:
        self._all, self._done = waiting, 0
        before = f", {done} done before" if done else ""
        self._say(f"{waiting} jobs{before}{f'; {about}' if about else ''}")

    def begins(self, job: Job) -> None:
        self._number += 1
        self._say(f"{self._number}/{self._all} {job.name} begins; log: {Path(job.folder, LOG)}")

    def ends(self, job: Job, outcome: Outcome, waiting: int, left_s: float) -> None:
        self._done += 1
        left = f"; {waiting} left, about {clock(left_s)}" if waiting else ""
        if outcome.code == 0:
            self._say(f"{job.name} done in {clock(outcome.seconds)}{left}")
            return
        where = f" in {outcome.step}" if outcome.step else ""
        self._say(f"{job.name} FAILED{where} with exit code {outcome.code} after {clock(outcome.seconds)}{left}")
        for line in outcome.last:
            self._say(f"    {line}")
        self._say(f"    log: {Path(job.folder, LOG)}")

    def stopping(self, running: int) -> None:
        self._say(f"waiting for {running} jobs to write their checkpoints ...")

    def _say(self, text: str) -> None:
        click.echo(in_lines(f"sweep: {text}"), err=True)
