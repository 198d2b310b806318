"""`sharpkeras benchmark`"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sharpkeras import api
from sharpkeras.errors import LONGEST, VerificationError, printable
from sharpkeras.measure.latency.interleaving import TIMEOUT_S
from sharpkeras.recipes import SearchRecipe
from sharpkeras_cli import options, tables
from sharpkeras_cli.versions import require_backend

RUNS_OF_PART = 60
MANY_RUNS = 1000  # from which on the 99th percentile is told
NOISY = "\nUNSTABLE"
TABLE = Path("latencies.json")
# What the parts of a final network depend on.
SPACE = ("dataset", "image_size", "space", "ops", "num_nodes", "init_channels", "num_cells", "num_scales")


@click.command("benchmark")
@click.argument("models", nargs=-1, metavar="[FILE|BACKEND:RUN]...")
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1, 65536),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Images per run; may be given several times.",
)
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads of an engine.  [default: all cores]")
@click.option(
    "--runs",
    type=click.IntRange(1, 10**6),
    help=f"Timed runs.  [default: {api.TIMED_RUNS}; of a primitive {RUNS_OF_PART}]",
)
@click.option(
    "--percentile",
    "percentiles",
    type=int,
    multiple=True,
    help="Besides 50 and 90: 95, from 200 --runs on, or 99, from 1000 on.",
)
@click.option("--providers", default="CPU", show_default=True, help="ONNX Runtime providers, such as CUDA,CPU.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True, max=1e6),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds that a network may take to start, or for a turn.",
)
@click.option(
    "--max-memory",
    "max_memory_gib",
    type=click.FloatRange(0, min_open=True, max=1e6),
    help="GiB that a network may take.  [default: by its file and images, at most half of what is free]",
)
@click.option("--fail-on-noise", is_flag=True, help="Exit with 8 when the machine is too noisy to trust the figure.")
@click.option("--primitives", is_flag=True, help="Measure all that the networks of a search can consist of.")
@click.option("--out", type=click.Path(path_type=Path), help=f"The file of --primitives.  [default: {TABLE}]")
@options.settings(SearchRecipe, *SPACE, "final_filters", "cost_of")
@options.overwrite
@options.as_json
def command(
    models: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    threads: int | None,
    runs: int | None,
    percentiles: tuple[int, ...],
    providers: str,
    timeout_s: float,
    max_memory_gib: float | None,
    fail_on_noise: bool,
    primitives: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Latency of networks side by side, or of the --primitives of a search.

    A FILE is an ONNX file, run by ONNX Runtime; tensorflow:RUN and jax:RUN are the network of a training run in Keras.

    The 50th and 90th percentile with 95 % intervals (the 99th from 1000 runs on), measured in five rounds of fresh
    processes with a fixed number of threads. Several networks take turns, and each is compared with the first: "faster"
    and "slower" are said only where the interval of the ratio does not hold 1. With --primitives, a table of what takes
    how long, for `sharpkeras search --max-latency-ms`; say which by the options of the search.
    """
    given = {name: value for name, value in others.items() if value}
    if primitives and (models or percentiles):
        raise click.UsageError("--primitives takes no FILE and no --percentile.")
    if primitives and len(batch_sizes) > 1:
        raise click.UsageError("--primitives takes one --batch-size.")
    if primitives:
        timing: dict[str, Any] = {
            "threads": threads,
            "providers": api.provider_names(providers),
            "timeout_s": timeout_s,
        }
        timing |= {"memory_bytes": max_memory_gib and int(max_memory_gib * 2**30)}
        timing |= {"runs": runs or RUNS_OF_PART, "batch_size": batch_sizes[0]}
        unstable = _time_primitives(given, as_json, timing)
    elif not models:
        raise click.UsageError("Missing argument 'FILE', or --primitives.")
    elif given:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} goes with --primitives.")
    else:
        timing = {"threads": threads, "providers": providers, "timeout_s": timeout_s, "max_memory_gib": max_memory_gib}
        timing |= {"runs": runs or api.TIMED_RUNS, "batch_size": tuple(dict.fromkeys(batch_sizes))}
        unstable = _time_models(models, as_json, timing, percentiles)
    if unstable and fail_on_noise:
        raise VerificationError("the machine is too noisy", where=" ".join(models) or "--primitives", seen=unstable)


def _time_models(
    models: tuple[str, ...], as_json: bool, timing: Mapping[str, Any], percentiles: tuple[int, ...]
) -> str:
    """Prints the latencies of networks that take turns; returns what makes them unstable, in words."""
    import sharpkeras as sk

    for model in models:
        _ready_backend(model)
    with _turns_shown(timing["batch_size"]) as progress:
        report = sk.benchmark(*models, percentiles=percentiles, progress=progress, **timing)
    doubts = [
        f"{row['name']}, batch {row['batch_size']}: {' and '.join(row['unstable_because'])}" for row in _noisy(report)
    ]
    if as_json:
        click.echo(json.dumps(report))
        return "; ".join(doubts)
    tables.show(_records(report))
    rows = report["models"]
    each = " of each, in turns" if len(models) > 1 else ""
    click.echo(f"{rows[0]['device']}, {rows[0]['threads']} threads, {rows[0]['runs']} runs{each}; 95 % intervals")
    for line in dict.fromkeys(_engine(row) for row in rows):
        click.echo(line)
    for doubt in doubts:
        click.echo(f"UNSTABLE: the machine is noisy: {printable(doubt, LONGEST)}")
    for warning in dict.fromkeys(warning for row in rows for warning in row["warnings"]):
        click.echo(f"note: {warning}", err=True)
    options.say_next(*_next(models, timing))
    return "; ".join(doubts)


def _next(models: tuple[str, ...], timing: Mapping[str, Any]) -> Sequence[Any]:
    """The command that tells more: the same with the runs that a 99th percentile needs, or one on the first network."""
    if timing["runs"] < MANY_RUNS:
        sizes = [word for size in timing["batch_size"] for word in ("--batch-size", size)]
        threads = ["--threads", timing["threads"]] if timing["threads"] else []
        providers = [name.removesuffix("ExecutionProvider") for name in api.provider_names(timing["providers"])]
        where = ["--providers", ",".join(providers)] if providers != ["CPU"] else []
        return ["benchmark", *models, "--runs", MANY_RUNS, *sizes, *threads, *where]
    in_keras = api.backend_and_run(models[0])
    return ["export", in_keras[1]] if in_keras else ["inspect", models[0]]


def _ready_backend(model: str) -> None:
    """Chooses the backend of Keras for a training run; nothing for an ONNX file."""
    if in_keras := api.backend_and_run(model):
        require_backend(in_keras[0])
        if "keras" not in sys.modules:
            options.choose_backend(in_keras[0])


@contextlib.contextmanager
def _turns_shown(batch_sizes: Sequence[int]) -> Iterator[Callable[[int, int], None]]:
    """What tells `latency.benchmark` the turns that are done, as a bar for each batch size on a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        tasks: list[TaskID] = []

        def show(done: int, turns: int) -> None:
            if done == 1:
                tasks.append(bars.add_task(f"batch size {batch_sizes[len(tasks)]}", total=turns))
            bars.update(tasks[-1], completed=done)

        yield show


def _noisy(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in report["models"] if row["unstable"]]


def _engine(row: Mapping[str, Any]) -> str:
    """ "ONNX Runtime (onnxruntime 1.32.0): CPUExecutionProvider"."""
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return f"{row['engine']} ({versions}): {', '.join(row['providers'])}"


def _records(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of a report of `latency.benchmark` as lines of a table, for each batch size and network."""
    rows, pairs = report["models"], {(pair["model"], pair["batch_size"]): pair for pair in report["comparisons"]}
    percentiles = [name.removesuffix("_ms") for name in rows[0] if re.fullmatch(r"p\d+_ms", name)]
    records = []
    for row in rows:
        record = {
            "network": f"{tables.whole(row['name'])}{NOISY if row['unstable'] else ''}",
            "batch": row["batch_size"],
        }
        for p in percentiles:
            record[f"{p}\nms"] = f"{_short(row[f'{p}_ms'])}\n{_between(row[f'{p}_interval_ms'])}"
        record["images\nper s"] = _short(row["images_per_second"])
        record["MiB mem.\nand file"] = f"{row['peak_memory_mib']:.0f}\n{row['bytes'] / 2**20:.2f}"
        if pairs:
            pair = pairs.get((row["name"], row["batch_size"]))
            ratio = pair and f"{_short(pair['ratio'])} ({_between(pair['interval'])})\n{pair['verdict']}"
            record["time in that\nof the first"] = ratio or ""
        records.append(record)
    return records


def _between(interval: Sequence[float]) -> str:
    return "–".join(map(_short, interval))


def _short(value: float) -> str:
    """Three digits, without an exponent where there are more: "0.0523", "18.0", "5,146"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _time_primitives(given: dict[str, Any], as_json: bool, timing: Mapping[str, Any]) -> str | None:
    """Writes the table of latencies and prints what it is about; returns what makes it unstable, in words."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        click.echo("primitives are exported on TensorFlow", err=True)
    options.choose_backend("tensorflow")
    from sharpkeras.experiment import primitive_latency

    out, overwrite = given.pop("out", TABLE), given.pop("overwrite", False)
    recipe = SearchRecipe.from_dict(given, "settings")
    result = primitive_latency.measure(recipe, out, overwrite=overwrite, progress=_shown, **timing)
    if as_json:
        click.echo(json.dumps(result))
    else:
        label = "  UNSTABLE: the machine is noisy" if result["unstable"] else ""
        click.echo(f"{out}: {len(result['table'])} parts; a random network takes {result['random_ms']:.3g} ms{label}")
        where = (
            f"{result['device']}, {', '.join(result['providers'])}, ONNX Runtime {result['versions']['onnxruntime']}"
        )
        click.echo(f"{where}, {result['threads']} threads, batch {result['batch_size']}")
        for warning in result["warnings"]:
            click.echo(f"note: {warning}", err=True)
        repeated = [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]
        budget = ("--latency-table", out, "--max-latency-ms", f"{result['random_ms']:.3g}")
        options.say_next("search", *repeated, *budget)
    return "more than half of the parts" if result["unstable"] else None


def _shown(parts: Sequence[Any]) -> Iterable[Any]:
    """The parts one at a time, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    click.echo(f"{len(parts)} parts, about 2 s each …", err=True)
    return track(parts, "measuring", console=console, disable=not console.is_terminal, transient=True)
