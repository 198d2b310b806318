"""Options that commands share, and options made from the fields of a recipe."""

import contextlib
import dataclasses
import difflib
import functools
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpkeras import recipes
from sharpkeras.errors import SETTING, ConfigError, ResourceError, printable
from sharpkeras.experiment.inherited_settings import BACKENDS, recorded_backend
from sharpkeras.io import json_files, toml_files
from sharpkeras.measure import gpus
from sharpkeras.paper import published
from sharpkeras.recipes import TrainRecipe
from sharpkeras.recipes.rows import Recipe, RecipeEntry
from sharpkeras.recipes.settings import count
from sharpkeras_cli import flags, tables
from sharpkeras_cli.quiet import silence_native_logs
from sharpkeras_cli.versions import refuse_old, require_backend

if TYPE_CHECKING:
    from sharpkeras.experiment.forecast import Forecast

ERRORS_PRINTED = {  # of the paper's tables
    "val_err": "CIFAR-10 {} %",
    "test_err_cifar10_1": "CIFAR-10.1 {} %",
    "top1_err": "top-1 {} %",
    "top5_err": "top-5 {} %",
}

CHECKPOINTS_HELP = "Seconds between two checkpoints; 0 writes one after each step.  [default: 60]"

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")


SIZES = (
    "network",
    "ops",
    "init_channels",
    "num_cells",
    "mid_channels",
    "final_filters",
    "num_classes",
    "input_size",
)


def network_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a network's sizes; the command gets those that are given as `sizes`, see `sharpkeras.cost`."""

    @click.option("--for", "network", type=RowNames(recipes.NETWORKS), help="Network of table 2 or 3.  [cifar10]")
    @click.option("--ops", type=click.Choice(("sharp", "darts")), help="Layers that primitives stand for.  [sharp]")
    @click.option("--init-channels", type=click.IntRange(2), help="Channels of the first cell.  [36, ImageNet 48]")
    @click.option("--num-cells", type=click.IntRange(1), help="Cells.  [20, ImageNet 14]")
    @click.option("--mid-channels", type=click.IntRange(1), help="Middle channels of the choke primitives.  [32]")
    @click.option("--final-filters", type=click.IntRange(1), help="Filters before the classifier of a path.  [768]")
    @click.option("--num-classes", type=click.IntRange(2, 10**6), help="Classes.  [10, ImageNet 1000]")
    @click.option("--input-size", type=click.IntRange(4, 4096), help="Pixels per side.  [32, ImageNet 224]")
    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in SIZES}
        sizes = {name: value for name, value in given.items() if value is not None}
        return function(*arguments, sizes=sizes, **options)

    return command


def data(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of how images are read, further arguments of `data.load`, to a command that reads some."""
    function = click.option("--follow-symlinks", is_flag=True, help="Follow links that lead out of an image folder.")(
        function
    )
    function = click.option("--skip-bad-images", is_flag=True, help="Leave out images that cannot be read.")(function)
    return click.option("--download", is_flag=True, help="Allow the dataset to be downloaded.")(function)


AUTO = "auto"  # the backend that sees a GPU


def reading(data_options: Mapping[str, Any]) -> list[str]:
    """The flags of `data` that were typed, for whoever reads the same images again; what was downloaded is there."""
    return [f"--{name.replace('_', '-')}" for name in ("skip_bad_images", "follow_symlinks") if data_options[name]]


def backend(function: Callable[..., Any], of_run: str | None = None) -> Callable[..., Any]:
    """Add `--backend` and `--device` to a command; they are chosen before Keras is imported.

    Args:
        of_run: the name of an argument; where it is a run and no backend was named, its backend is taken.
    """
    default = f"that of {of_run.upper()} if it is a run, else tensorflow" if of_run else "tensorflow"

    words = f"Keras backend; auto is jax where it sees a GPU and tensorflow does not.  [default: {default}]"

    @click.option("--backend", type=click.Choice((*BACKENDS, AUTO)), help=words)
    @click.option("--device", type=click.Choice(("auto", "cpu", "gpu")), default="auto", help="Where to compute.")
    @functools.wraps(function)
    def command(*arguments: Any, backend: str | None, device: str, **options: Any) -> Any:
        named = backend or os.environ.get("KERAS_BACKEND")
        choose_backend(named or (backend_of(options.get(of_run)) if of_run else None), device)
        return function(*arguments, **options)

    return command


def backend_to_be(arguments: Sequence[str]) -> str | None:
    """The backend that a command line will choose; None for the default one.

    Args:
        arguments: the name of the command and what was typed behind it.
    """
    command, *words = arguments
    if command in ("quickstart", "export") or command == "benchmark" and "--primitives" in words:
        return BACKENDS[0]  # as these say
    named: list[str | None] = [after for word, after in zip(words, words[1:]) if word == "--backend"]
    named += [word.partition("=")[2] for word in words if word.startswith("--backend=")]
    named = [name for name in named if name in (*BACKENDS, AUTO)] or [os.environ.get("KERAS_BACKEND")]
    of_run = map(recorded_backend, words) if command == "train" else ()
    return named[-1] or next((name for name in of_run if name), None)


def backend_of(source: object) -> str | None:
    """The backend that a run was computed on, which is said; None where `source` is no run."""
    name = recorded_backend(source)
    if name is not None and name != BACKENDS[0]:
        click.echo(f"note: backend {name} is that of {printable(source)}; --backend names another", err=True)
    return name


def by_backend_of(source: object) -> list[str]:
    """The flag by which `train` computes on the backend of a run, where another command would take the first one."""
    name = recorded_backend(source)
    return ["--backend", name] if name not in (None, BACKENDS[0]) else []


def choose_backend(name: str | None = None, device: str = "auto") -> None:
    """Sets the environment that Keras and TensorFlow read when they are imported.

    Args:
        name: of the backend; "auto" is the one that sees a GPU, None that of the environment.
        device: "auto", "cpu" or "gpu".

    Raises:
        ConfigError: for a backend that sharpkeras has no step for or that is not installed, or a package too old.
        ResourceError: when a GPU is asked for and none is visible.
    """
    name = name or os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name == AUTO:
        name = BACKENDS[0] if device == "cpu" else gpus.suitable_backend()
        click.echo(f"note: backend {name}, by --backend auto", err=True)
    if name not in BACKENDS:
        allowed = ", ".join(BACKENDS)
        raise ConfigError("unsupported Keras backend", where="KERAS_BACKEND", seen=name, allowed=allowed)
    context = click.get_current_context(silent=True)
    refuse_old(allowed=context is not None and context.find_root().params.get("allow_old_deps", False))
    require_backend(name)
    _forget_settings_of_keras()
    os.environ["KERAS_BACKEND"] = name
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:  # which XLA reads too
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        silence_native_logs()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # A supernet is thousands of small operations: one core to each beats all cores on one after the other (15 %).
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(len(os.sched_getaffinity(0))))
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["JAX_PLATFORMS"] = "cpu"
    if device == "gpu":
        import keras

        visible = keras.distribution.list_devices()
        if not any(device.startswith("gpu") for device in visible):
            raise ResourceError("no GPU is visible", where="--device", seen=visible, next_step="--device cpu")


def _forget_settings_of_keras() -> None:
    """Gives Keras its own defaults: neither a keras.json nor another variable of its changes what a command answers."""
    os.environ["KERAS_HOME"] = os.devnull  # no directory, so that no keras.json is read there, and none is written
    for variable in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED"):
        os.environ.pop(variable, None)
    if "keras" in sys.modules:  # imported before, by the Python program that calls the command
        from keras import config

        config.set_image_data_format("channels_last")
        config.set_floatx("float32")
        config.set_epsilon(1e-7)


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of how a run is carried out; the command gets them as RunOptions, called `run_options`."""

    @click.option("--resume", "must_exist", is_flag=True, help="Go on with a run; it is an error if there is none.")
    @click.option("--strict-resume", is_flag=True, help="Go on only where the result stays the same to the last bit.")
    @overwrite
    @click.option("--checkpoint-interval", "checkpoint_s", type=FiniteRange(0.0), help=CHECKPOINTS_HELP)
    @click.option("--steps-per-call", type=click.IntRange(1), help="Steps in one compiled call, on JAX.  [default: 1]")
    @click.option("--deterministic", is_flag=True, help="Give the same bits again, even where that is slower.")
    @click.option("--remat", is_flag=True, help="Compute activations again for the gradient: less memory, more time.")
    @click.option("--devices", type=Devices(), help="Divide each batch by N devices, or by all (JAX).  [default: 1]")
    @click.option("--coordinator", metavar="HOST:PORT", help="Address of process 0 in a job of several processes.")
    @click.option("--process-id", type=click.IntRange(0), help="Which of them this is, from 0.")
    @click.option("--num-processes", type=click.IntRange(1), help="How many there are.")
    @click.option("--ignore-disk-check", is_flag=True, help="Begin even on a nearly full disk.")
    @click.option("--ignore-memory-check", is_flag=True, help="Begin even if a step seems to need too much memory.")
    @click.option("--dry-run", is_flag=True, help="Forecast memory, time and disk; write nothing.")
    @functools.wraps(function)
    def command(
        *arguments: Any,
        smoke: bool,
        out: str | os.PathLike[str] | None,
        ignore_disk_check: bool,
        ignore_memory_check: bool,
        **options: Any,
    ) -> Any:
        from sharpkeras.experiment.run_options import RunOptions

        names = [field.name for field in dataclasses.fields(RunOptions)]
        chosen = {name: options.pop(name) for name in names if name in options}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        chosen["overwrite"] |= smoke and out is None  # trials have a place of their own
        chosen |= {"check_disk": not ignore_disk_check, "check_memory": not ignore_memory_check}
        run_options = RunOptions(**chosen)
        return function(*arguments, smoke=smoke, out=out, run_options=run_options, **options)

    return command


def recipe_options(recipe_class: type[Recipe]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add one option per field of a recipe, `--set`, `--config` and `--smoke`.

    The command gets `recipe_of`, a function from a recipe to begin with, such as the settings of a row, to the finished
    one. What a flag says goes before what the file says, and that before the row.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        fields = recipe_class.fields()

        @functools.wraps(function)
        def command(
            *arguments: Any, config: Path | None, strict: bool, assignments: Sequence[str], smoke: bool, **options: Any
        ) -> Any:
            given = {field.name: options.pop(field.name) for field in fields}
            given = {name: value for name, value in given.items() if value is not None}
            given |= recipe_class.parse(assignments)

            def recipe_of(base: Recipe) -> Recipe:
                recipe = make_recipe(recipe_class, base, given, config, strict)
                return recipe.smoke() if smoke else recipe

            return function(*arguments, recipe_of=recipe_of, smoke=smoke, **options)

        decorated = settings(recipe_class, *[field.name for field in fields])(command)
        for option in (
            click.option("--smoke", is_flag=True, help="Take two steps on generated images in a narrow network."),
            click.option("--strict", is_flag=True, help="Refuse a flag that contradicts --config."),
            click.option(
                "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting, by its name."
            ),
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                help="Take settings from a JSON or TOML file.",
            ),
        ):
            decorated = option(decorated)
        return decorated

    return decorate


def settings(recipe_class: type[Recipe], *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of some fields of a recipe to a command; one that is not given is None."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        fields = {field.name: field for field in recipe_class.fields()}
        for name in reversed(names):
            function = _option(fields[name], fields)(function)
        return function

    return decorate


def make_recipe(
    recipe_class: type[Recipe], base: Recipe, given: Mapping[str, Any], config: Path | None, strict: bool
) -> Recipe:
    """The recipe of a row's settings, a config file and flags.

    Raises:
        UsageError: when the file cannot be read.
        ConfigError: for a wrong setting, or with `strict` for a flag that contradicts the file.
    """
    settings = read_config(config) if config else {}
    recipe_class.from_dict(settings, str(config), base)
    for name in [name for name, value in given.items() if name in settings and settings[name] != value]:
        if strict:
            raise ConfigError("a flag contradicts --config", where=name, seen=given[name], allowed=settings[name])
        note = f"note: {name} is {given[name]}, as the flag says, and not {settings[name]} of {config}"
        click.echo(printable(note, 1000), err=True)
    return recipe_class.from_dict({**settings, **given}, "settings", base)


def read_config(path: Path) -> Any:
    """The settings in a JSON or TOML file, or in a run's recipe.json."""
    settings = toml_files.load(path) if path.suffix == ".toml" else json_files.load(path)
    return settings.get("settings", settings) if isinstance(settings, dict) else settings


class RowNames(click.Choice):
    """A click.Choice of the names in a table, which is read when it is used: a user's module may add rows to it.

    Args:
        table: an iterable of names, such as a dictionary, or () → such a table.
    """

    def __init__(self, table: Iterable[str] | Callable[[], Iterable[str]]) -> None:
        self.table, self.case_sensitive = table, True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]  # an attribute there
        return tuple(self.table() if callable(self.table) else self.table)


class Devices(click.ParamType):
    """A number of devices, or "all"."""

    name = "N|all"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int | str:
        if value == "all":
            return "all"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{printable(value)!r} is neither a number of devices, from 1 on, nor 'all'.", parameter, context)
        return int(value)


class Names(RowNames):
    """A RowNames that guesses what a mistyped name meant."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        near = difflib.get_close_matches(str(value), self.choices, n=1)
        if near and value not in self.choices:
            self.fail(f"{printable(value)!r} is none of {', '.join(self.choices)}. Did you mean {near[0]}?")
        return super().convert(value, parameter, context)


class CountRange(click.IntRange):
    """A click.IntRange that takes 600M for 600000000."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        with contextlib.suppress(ValueError):
            value = count(str(value))
        return super().convert(value, parameter, context)


class FiniteRange(click.FloatRange):
    """A click.FloatRange that takes no NaN, which lies outside no range, and no infinity."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", parameter, context)
        return number


def tell_forecast(forecast: "Forecast", as_json: bool) -> None:
    """Prints an experiment.Forecast."""
    if as_json:
        click.echo(json.dumps(forecast.as_dict()))
        return

    def clock(seconds: float | None) -> str:
        return "not timed" if seconds is None else f"{seconds:,.2f} s" if seconds < 60 else f"{seconds / 60:,.1f} min"

    available = forecast.available_memory_bytes
    free = "unknown" if available is None else f"{available / 1e9:,.2f} GB"
    rows = {
        "parameters": f"{forecast.parameters:,}",
        "alphas": forecast.alphas and f"{forecast.alphas:,}",
        "AddMults": forecast.addmults and f"{forecast.addmults:,} (as the paper counts them)",
        "memory of a step": f"{forecast.peak_memory_bytes / 1e9:,.2f} GB, estimated; available: {free}",
        "until the first step": clock(forecast.first_step_s),
        "a step": clock(forecast.step_s),
        "an epoch": f"{clock(forecast.epoch_s)}: {forecast.steps:,} steps, evaluation {clock(forecast.evaluation_s)}",
        "in all": f"{clock(forecast.total_s)}: {forecast.epochs:,} epochs",
        "disk": f"{forecast.disk_bytes / 1e6:,.1f} MB of checkpoints",
    }
    shown = {name: text for name, text in rows.items() if text}
    tables.show([shown], title="Forecast; nothing was written", standing=True)
    if not forecast.fits:
        click.echo("WARNING: a step seems to need more memory than there is, so none was timed.", err=True)


def tell_printed(row: RecipeEntry) -> None:
    """Says what the paper prints for a recipe, and what was decided where its sources differ."""
    entry = published.printed(row)
    if entry and row.printed:
        errors = ", ".join(errors_printed(entry))
        size = f"{entry['params_m']} M parameters, {addmults_printed(entry)} AddMults"
        click.echo(f"the paper's table {row.printed[0]}, {entry['name']}: {errors}; {size}", err=True)
    if row.note:
        click.echo(f"note: {flags.rendered(row.note)}", err=True)


def addmults_printed(entry: Mapping[str, Any]) -> str | None:
    """The AddMults in a row of the paper's tables, which print them in billions or in millions."""
    keys = {"addmult_b": "B", "addmult_m": "M"}
    return next((f"{entry[key]} {unit}" for key, unit in keys.items() if entry.get(key) is not None), None)


def errors_printed(entry: Mapping[str, Any]) -> list[str]:
    """The errors in a row of the paper's tables, in words."""
    return [text.format(entry[key]) for key, text in ERRORS_PRINTED.items() if key in entry]


def trained_by(row: str, training: TrainRecipe, smoke: bool = False) -> list[Any]:
    """The flags by which `train` has exactly the TrainRecipe `training`, beginning with the recipe `row`."""
    words = ["--recipe", row] if row != recipes.DIGITS else []
    if smoke:
        return [*words, "--smoke"]
    for name, value in recipes.TRAININGS[row].settings.changes(training).items():
        plain = value is None or isinstance(value, bool)  # which a flag does not say
        words += ["--set", f"{name}={str(value).lower()}"] if plain else [f"--{name.replace('_', '-')}", value]
    return words


def say_next(*words: Any) -> None:
    """Ends a command with the next one to type."""
    click.echo(f"Next: {' '.join(map(typed, ['sharpkeras', *map(str, words)]))}")


def typed(word: str) -> str:
    """A word as a shell takes it, on one line and without a character that would do something to the terminal.

    It can come out of a stranger's recipe. What is no UTF-8, or no character to be seen, stands in `$'...'` of bash.
    """
    if word.isprintable():
        return shlex.quote(word)
    escaped = {"'": "\\'", "\\": "\\\\"}
    pieces = [escaped.get(c, c) if c.isprintable() else _in_bytes(c) for c in word]
    return f"$'{''.join(pieces)}'"


def _in_bytes(character: str) -> str:
    is_byte = "\udc80" <= character <= "\udcff"  # of a name that is no UTF-8; other half characters are in JSON alone
    encoded = character.encode(errors="surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in encoded)


def _option(field: dataclasses.Field, names: Iterable[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The click option of a recipe's field, with its range and its default in the help; `names` are all settings."""
    rule, flag = field.metadata, "--" + field.name.replace("_", "-")
    text = f"{rule['help'][0].upper()}{rule['help'][1:]}."
    text = SETTING.sub(lambda found: f"--{found[1].replace('_', '-')}" if found[1] in names else found[0], text)
    if field.default is not None:
        text += f"  [digits: {field.default}]"
    if "bool" in str(field.type):
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=text)
    kind: click.ParamType | type[str] = str
    if rule["choices"]:
        kind = RowNames(rule["choices"])
    elif "int" in str(field.type):
        kind = CountRange(rule["low"], rule["high"])
    elif "float" in str(field.type):
        kind = FiniteRange(rule["low"], rule["high"])
    return click.option(flag, field.name, type=kind, help=text)
