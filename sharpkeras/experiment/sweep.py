"""A sweep, from its rows to the comparison of what they have come to."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpkeras.errors import SharpKerasError, UsageError
from sharpkeras.io import atomic_writes, json_files, kinds, toml_files
from sharpkeras.measure.statistics import mean_interval, median_half_range
from sharpkeras.recipes import SEARCHES
from sharpkeras.runs import files
from sharpkeras.sweeping import jobs, plan, record, scheduling
from sharpkeras.sweeping.jobs import Outcome, Start
from sharpkeras.sweeping.plan import How, Job, Row
from sharpkeras.sweeping.pools import POOLS, Wish
from sharpkeras.sweeping.scheduling import NullProgress

OUT = Path("runs", "sweep")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the jobs of a sweep run, and how they are started.

    Attributes:
        on: a row of POOLS.
        jobs, threads: at once, and of each; None is by what there is.
        slurm: settings of `sbatch` by name.
        program: the command line before the name of a command; None is that of sharpkeras.
    """

    on: str = "local"
    jobs: int | None = None
    threads: int | None = None
    slurm: Mapping[str, str] = dataclasses.field(default_factory=dict)
    program: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.on not in POOLS:
            raise UsageError("unknown place", where="`on`", seen=self.on, allowed=", ".join(POOLS))
        for name in ("jobs", "threads"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 1):
                raise UsageError("out of range", where=f"`{name}`", seen=number, allowed="1 or more")
        if self.slurm and self.on != "slurm":
            raise UsageError("are settings of Slurm", where="`slurm`", next_step="`on=slurm`")


def rows(
    source: str | os.PathLike[str] | Mapping[str, Any] | None,
    seeds: Any = None,
    recipes: Sequence[str] = (),
    random: bool = False,
    search: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> list[Row]:
    """The rows of a file, or those of some recipes.

    Args:
        source: a TOML or JSON file, or its content; None where `recipes` says the rows.
        seeds: such as "0-9"; they go before those of a file.
        recipes: rows of SEARCHES, each a row of the sweep.
        random: whether each recipe gets a row of random architectures too.
        search, train: settings of all searches and trainings; they go before those of a file.

    Raises:
        UsageError: both a file and recipes, or neither.
        ConfigError: rows that cannot be.
    """
    if (source is None) == (not recipes):
        allowed = "a file of rows, or `recipes` with names of searches"
        raise UsageError("what is to be run?", where="FILE, `recipes`", allowed=allowed)
    if random and source is not None:
        step = 'give the file a row with architecture = "random"'
        raise UsageError("goes with `recipes`", where="`random`", next_step=step)
    if isinstance(source, str | os.PathLike):
        where = os.fspath(source)
        content = toml_files.load(where) if where.endswith(".toml") else json_files.load(where)
    elif source is not None:
        where, content = "rows", dict(source)
    else:
        where = "settings"
        for name in recipes:
            if name not in SEARCHES:
                raise UsageError("unknown recipe", where="`recipes`", seen=name, allowed=", ".join(SEARCHES))
        searched = [{"recipe": name} for name in recipes]
        drawn = [{"recipe": name, "architecture": plan.RANDOM} for name in recipes if random]
        content = {"rows": [*searched, *drawn]}
    of_all = {"search": dict(search or {}), "train": dict(train or {})}
    return plan.read(content, where, of_all if seeds is None else {**of_all, "seeds": seeds})


def planned(
    chosen: Sequence[Row], out: str | os.PathLike[str], how: How
) -> tuple[list[Row], list[Job], list[list[str]]]:
    """The rows that the directory `out` then has, the jobs of `chosen`, and the commands that are still to be run.

    Raises:
        RunError: the directory holds something else, or a row of the same name with other settings.
    """
    place = Path(out)
    extended = record.extended(record.recorded(place), chosen, place)
    found = plan.jobs(chosen, place, how)
    commands = [["sharpkeras", step.name, *step.words] for job in found for step in jobs.left(job)]
    return extended, found, commands


def sweep(
    chosen: Sequence[Row],
    out: str | os.PathLike[str] = OUT,
    place: Place | None = None,
    how: How | None = None,
    progress: NullProgress | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Search, train and evaluate for each row and seed, and compare.

    Args:
        chosen: the rows, see `rows`.
        out: the directory; a sweep that is there goes on, and new rows and seeds are added to it.
        place: where jobs run; None is this machine.
        how: what no recipe says.
        progress: what is told how far the sweep is.
        tell: called with the report before it is kept, and before an error on jobs that failed is raised.

    Returns:
        The report: `jobs`, a dict for each; `rows`, the test errors of each row over its seeds; `comparison`, what
        `compare` says of all runs, None where there is none.

    Raises:
        RunError: `out` holds something else, or a sweep that another process carries out.
        SharpKerasError: jobs have failed; with the exit code of the first of them.
        StoppedError: after SIGTERM or Ctrl-C, once all jobs have written their checkpoints.
    """
    place, how, progress, path = place or Place(), how or How(), progress or NullProgress(), Path(out)
    planned(chosen, path, how)  # refuses before anything is touched
    with record.held(path):
        extended, found, _ = planned(chosen, path, how)
        waiting = [job for job in found if jobs.left(job)]
        start = Start(os.getcwd(), place.program)
        wish = Wish(start, path / "slurm", place.jobs, place.threads, how.device, place.slurm)
        pool = POOLS[place.on](wish) if waiting else None
        record.write(path, extended)
        progress.plan(len(waiting), len(found) - len(waiting), pool.about if pool else "")
        ended = scheduling.carry_out(waiting, pool, progress) if pool else {}
        report = _report(path, chosen, found, ended)
        if tell:
            tell(report)
        content = atomic_writes.dump_file(kinds.of_kind(kinds.SWEEP_REPORT, report), str(path / record.REPORT))
        atomic_writes.write(path / record.REPORT, content)
    _raise_failures(report, path)
    return report


def _report(path: Path, chosen: Sequence[Row], found: Sequence[Job], ended: Mapping[Job, Outcome]) -> dict[str, Any]:
    from sharpkeras.experiment.compare import compare

    runs = [Path(job.folder, name) for job in found for name in (plan.SEARCH, plan.TRAIN)]
    runs = [run for run in runs if os.path.lexists(run / files.RUN)]
    comparison = compare(runs, force=True) if runs else None
    trainings = {row["run"]: row for row in (comparison or {"trainings": []})["trainings"]}
    return {
        "out": str(path),
        "jobs": [_as_dict(job, ended.get(job)) for job in found],
        "rows": [entry for row in chosen for entry in _errors(row, [j for j in found if j.row == row.name], trainings)],
        "comparison": comparison,
    }


def _as_dict(job: Job, outcome: Outcome | None) -> dict[str, Any]:
    """A job and how it ended; of one that had been carried out before, no more than that."""
    log = str(Path(job.folder, jobs.LOG))
    about = {"row": job.row, "seed": job.seed, "log": log}
    if outcome is None:
        return {**about, "status": "finished", "exit_code": 0, "step": None, "seconds": None}
    status = "finished" if outcome.code == 0 else "failed"
    return {
        **about,
        "status": status,
        "exit_code": outcome.code,
        "step": outcome.step,
        "seconds": round(outcome.seconds, 1),
        **({"last": list(outcome.last)} if outcome.code else {}),
    }


def _errors(row: Row, found: Sequence[Job], trainings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The test errors of a row over its seeds, an entry for each set of images; one of nothing where there is none."""
    by_job = [trainings.get(str(Path(job.folder, plan.TRAIN)), {}).get("evaluations", []) for job in found]
    images = {entry["fingerprint"]: entry for evaluations in by_job for entry in evaluations}
    about = {"row": row.name, "seeds": list(row.seeds)}
    if not images:
        return [{**about, "dataset": None, "label": None, "median": None, "mean": None}]
    entries = []
    for fingerprint, example in images.items():
        errors = [next((e["error"] for e in found if e["fingerprint"] == fingerprint), None) for found in by_job]
        numbers = {"median": median_half_range(errors), "mean": mean_interval(errors)}
        texts = {name: {**dataclasses.asdict(number), "text": str(number)} for name, number in numbers.items()}
        entries.append({**about, "dataset": example["dataset"], "label": example["label"], **texts})
    return entries


def _raise_failures(report: Mapping[str, Any], path: Path) -> None:
    """Raises one error for all jobs that failed, with the exit code of the first."""
    failed = [job for job in report["jobs"] if job["status"] == "failed"]
    if not failed:
        return
    seen = "; ".join(f"{job['row']} seed {job['seed']}: {job['step']} ended with {job['exit_code']}" for job in failed)
    log = shlex.quote(failed[0]["log"])
    step = f"see {log}, mend what it says; the same command then goes on with what is left"
    number = f"{len(failed)} of {len(report['jobs'])} jobs"
    error = SharpKerasError(f"{number} failed", where=str(path), seen=seen, next_step=step)
    error.exit_code = failed[0]["exit_code"]
    raise error
