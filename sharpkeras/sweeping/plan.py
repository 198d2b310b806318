"""The rows of a sweep, and the command lines that each row and seed stands for.

A row is a way to come to a network: a search by a recipe, or without a search a random or a published architecture. All
of its seeds are jobs. What trains an architecture without a search is what would train the find of that search, so that
a baseline differs in its architecture alone.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sharpkeras import spaces
from sharpkeras.data import datasets
from sharpkeras.errors import ConfigError, SharpKerasError, bare, printable, settings_in
from sharpkeras.paper import published
from sharpkeras.recipes import DIGITS, SEARCHES, TRAININGS, SearchRecipe, TrainRecipe, training_of
from sharpkeras.runs import architectures

RANDOM = "random"
SEARCH, TRAIN, ARCHITECTURE = "search", "train", "architecture.json"  # in the folder of a job
NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)
ROW: dict[str, Any] = {
    "name": str,
    "recipe": str,
    "architecture": str,
    "training": str,
    "seeds": (str, int, list),
    "search": dict,
    "train": dict,
}
SHARED = ("seeds", "search", "train")  # which stand before the rows too, for all of them
MOST_JOBS = 10_000
LARGEST_SEED = 2**32 - 1
# Settings by which `sample` draws an architecture.
SAMPLED = ("space", "ops", "num_nodes", "init_channels", "num_cells", "num_scales")


@dataclass(frozen=True)
class Row:
    """A row of a sweep.

    Attributes:
        name: its folder in the directory of the sweep.
        recipe: a row of SEARCHES.
        architecture: what is trained without a search: "random", a published name or a file; None is a search.
        training: a row of TRAININGS; None is the one that goes with the search.
        seeds: of the search, or of a random architecture, and of the training.
        search: settings of the search that are other than its recipe's.
        train: the same of the training.
    """

    name: str
    recipe: str = DIGITS
    architecture: str | None = None
    training: str | None = None
    seeds: tuple[int, ...] = (0,)
    search: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row as a file of rows has it, without what is not set."""
        names = ("name", "recipe", "architecture", "training")
        row = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**row, "seeds": list(self.seeds), "search": dict(self.search), "train": dict(self.train)}

    def search_recipe(self) -> SearchRecipe:
        """The SearchRecipe of the row."""
        base: Any = SEARCHES[self.recipe].settings
        return SearchRecipe.from_dict(SearchRecipe.read_values(dict(self.search)), "search", base)

    def base_of_training(self) -> TrainRecipe:
        """The TrainRecipe that `train` settings change, as far as it is known without the images."""
        search = self.search_recipe()
        if self.training is None:
            return training_of(search)
        named: Any = TRAININGS[self.training].settings
        return replace(named, ops=search.ops)


@dataclass(frozen=True)
class Step:
    """A command of a job: its name, the words behind it, and the path that is there when it has been carried out."""

    name: str
    words: tuple[str, ...]
    leaves: str


@dataclass(frozen=True)
class Job:
    """A row with one of its seeds.

    Attributes:
        row, seed: what it is of.
        folder: where its runs are.
        steps: its commands.
    """

    row: str
    seed: int
    folder: str
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """Row and seed in words."""
        return f"{self.row} seed {self.seed}"


@dataclass(frozen=True)
class How:
    """What the commands of all jobs have in common, and no recipe says.

    Attributes:
        backend, device: as the commands have them; None and "auto" are theirs.
        deterministic, checkpoint_s: as `RunOptions` has them; None is the default.
        data: how images are read, names of flags that are set: download, skip_bad_images, follow_symlinks.
    """

    backend: str | None = None
    device: str = "auto"
    deterministic: bool = False
    checkpoint_s: float | None = None
    data: tuple[str, ...] = ()

    def of_run(self) -> list[str]:
        """The flags of `search` and `train`."""
        words = [*self.of_evaluation(), *(["--deterministic"] if self.deterministic else [])]
        return words if self.checkpoint_s is None else [*words, "--checkpoint-interval", str(self.checkpoint_s)]

    def of_evaluation(self) -> list[str]:
        """The flags of `evaluate`."""
        words = ["--backend", self.backend] if self.backend else []
        words += ["--device", self.device] if self.device != "auto" else []
        return words + [f"--{name.replace('_', '-')}" for name in self.data]


def seeds(text: Any, where: str = "`seeds`") -> tuple[int, ...]:
    """(0, 1, 2, 7) of "0-2,7"; a number, or a list of numbers, stays what it is.

    Raises:
        ConfigError: it is something else, or a seed stands twice.
    """
    found: list[int] = []
    parts = text.split(",") if isinstance(text, str) else [text] if type(text) is int else text
    for part in parts if isinstance(parts, list | tuple) else [None]:
        ends = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", str(part)) if type(part) in (str, int) else None
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if not first <= last <= LARGEST_SEED or last - first >= MOST_JOBS:
            allowed = f"numbers from 0 to {LARGEST_SEED}, such as 0-9 or 0,3,7"
            raise ConfigError("are no seeds", where=where, seen=text, allowed=allowed)
        found += range(first, last + 1)
    if not found or len(set(found)) < len(found):
        raise ConfigError("are no seeds" if not found else "have one twice", where=where, seen=text)
    return tuple(found)


def read(
    content: Any,
    where: str,
    of_all: Mapping[str, Any] | None = None,
) -> list[Row]:
    """The rows of a file.

    Args:
        content: an object with `rows`, a list of objects, and what they share: `seeds`, `search`, `train`.
        where: what messages call it, usually the file.
        of_all: `seeds`, `search` and `train` that go before what the file says of any row.

    Raises:
        ConfigError: rows that cannot be; all that is wrong in one message, each with its place.
    """
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list) or not content["rows"]:
        allowed = '{"rows": [{"recipe": "digits"}]}, in TOML [[rows]] with recipe = "digits"'
        raise ConfigError("has no rows", where=where, seen=content, allowed=allowed)
    wrong: list[SharpKerasError] = []
    shared = {name: content[name] for name in SHARED if name in content}
    known = ("kind", "schema_version", "rows", *SHARED)
    wrong += [_unknown(name, where, known) for name in content if name not in known]
    rows: list[Row] = []
    places: dict[str, str] = {}
    for index, fields in enumerate(content["rows"]):
        place = f"{where}: rows[{index}]"
        errors, row = _row(fields, place, shared, of_all or {})
        wrong += errors
        if row is not None:
            if row.name in places:
                step = f"give one a name of its own: name = {row.name}-2"
                wrong.append(
                    ConfigError(f"has the name of {places[row.name]}", where=place, seen=row.name, next_step=step)
                )
            places.setdefault(row.name, f"rows[{index}]")
            rows.append(row)
    _raise(wrong, where)
    if sum(len(row.seeds) for row in rows) > MOST_JOBS:
        raise ConfigError("has too many jobs", where=where, allowed=f"at most {MOST_JOBS}")
    return rows


def _row(
    fields: Any, where: str, shared: Mapping[str, Any], of_all: Mapping[str, Any]
) -> tuple[list[SharpKerasError], Row | None]:
    """What is wrong with a row, and the row where nothing is."""
    if not isinstance(fields, dict):
        return [ConfigError("is no row", where=where, seen=fields, allowed=f"an object with {', '.join(ROW)}")], None
    wrong: list[SharpKerasError] = [_unknown(name, where, ROW) for name in fields if name not in ROW]
    for name, kind in ROW.items():
        if name in fields and (not isinstance(fields[name], kind) or isinstance(fields[name], bool)):
            wrong.append(
                ConfigError("wrong type", where=f"{where}: {name}", seen=fields[name], allowed=_in_words(kind))
            )
    if wrong:
        return wrong, None
    tables: dict[str, dict[str, Any]] = {"search": {}, "train": {}}
    for source in (shared, fields, of_all):
        for name, table in tables.items():
            given = source.get(name, {})
            if not isinstance(given, dict):
                wrong.append(ConfigError("wrong type", where=f"{where}: {name}", seen=given, allowed="an object"))
                continue
            table |= given
    said = next((source["seeds"] for source in (of_all, fields, shared) if source.get("seeds") is not None), (0,))
    numbers: tuple[int, ...] = (0,)
    try:
        numbers = seeds(said, f"{where}: seeds")
    except ConfigError as error:
        wrong.append(error)
    recipe, architecture = fields.get("recipe", DIGITS), fields.get("architecture")
    name = fields.get("name") or _name_of(fields.get("recipe"), architecture)
    row = Row(name, recipe, architecture, fields.get("training"), numbers, tables["search"], tables["train"])
    wrong += _wrong_names(row, where)
    return (wrong, row) if wrong else (_wrong_settings(row, where), row)


def _name_of(recipe: str | None, architecture: str | None) -> str:
    """What a row without a name is called."""
    if architecture is None:
        return recipe or DIGITS
    if architecture == RANDOM:
        return f"{RANDOM}-{recipe}" if recipe else RANDOM
    stem = re.sub(r"[^\w-]", "-", Path(architecture).stem, flags=re.ASCII).lstrip("-_") or "architecture"
    return f"{stem}-{recipe}" if recipe else stem


def _wrong_names(row: Row, where: str) -> list[SharpKerasError]:
    wrong: list[SharpKerasError] = []
    if not NAME.fullmatch(row.name):
        allowed = "letters, digits, - and _, at most 64"
        wrong.append(ConfigError("is no name of a row", where=f"{where}: name", seen=row.name, allowed=allowed))
    for name, value, table in (("recipe", row.recipe, SEARCHES), ("training", row.training, TRAININGS)):
        if value is not None and value not in table:
            allowed = ", ".join(table)
            wrong.append(ConfigError("unknown recipe", where=f"{where}: {name}", seen=value, allowed=allowed))
    for name in ("search", "train"):
        if "seed" in getattr(row, name):
            step = "name the seeds of a row by `seeds`"
            wrong.append(ConfigError("has a seed of its own", where=f"{where}: {name}: seed", next_step=step))
    return wrong


def _wrong_settings(row: Row, where: str) -> list[SharpKerasError]:
    """What no run of the row could begin with: settings, search space, architecture, dataset."""
    wrong = _wrong_values(SearchRecipe, row.search, f"{where}: search", SEARCHES[row.recipe].settings)
    if wrong:  # the training follows from the search
        return wrong
    search, base = row.search_recipe(), row.base_of_training()
    wrong += _wrong_values(TrainRecipe, row.train, f"{where}: train", base)
    checks: list[tuple[str, Any]] = [(f"{where}: search: dataset", lambda: datasets.find(search.dataset))]
    if row.architecture not in (None, RANDOM):
        checks = [(f"{where}: architecture", lambda: _known(str(row.architecture)))]
    else:
        checks.append((f"{where}: search: space", lambda: spaces.of_recipe(search)))
    if not wrong:
        train = TrainRecipe.from_dict(TrainRecipe.read_values(dict(row.train)), "train", base)
        if train.dataset != search.dataset:
            checks.append((f"{where}: train: dataset", lambda: datasets.find(train.dataset)))
    for place, check in checks:
        try:
            check()
        except SharpKerasError as error:
            error.where = place
            error.next_step = None if settings_in(str(error.next_step)) else error.next_step  # of other commands
            wrong.append(error)
    return wrong


def _known(architecture: str) -> None:
    """Raises ConfigError or RunError for what is neither a published name nor an architecture's file."""
    if architecture not in (*published.names(), *published.path_names()):
        architectures.architecture(architecture)


def _wrong_values(kind: Any, given: Mapping[str, Any], where: str, base: Any) -> list[SharpKerasError]:
    """What is wrong with some settings: each by itself or, where each is right, with the others."""

    def wrong(values: dict[str, Any]) -> list[SharpKerasError]:
        try:
            kind.from_dict(values, where, base)
        except SharpKerasError as error:
            error.where = error.where if str(error.where).startswith(where) else f"{where}: {error.where}"
            return [error]
        return []

    values = kind.read_values(dict(given))
    together = wrong(values)
    alone = [error for name, value in values.items() for error in wrong({name: value})] if together else []
    return alone if len(alone) > 1 else together


def _unknown(name: Any, where: str, known: Iterable[str]) -> ConfigError:
    return ConfigError("unknown key", where=where, seen=name, allowed=", ".join(known))


def _in_words(kind: Any) -> str:
    words = {str: "a text", int: "a number", list: "a list", dict: "an object"}
    return " or ".join(words[one] for one in (kind if isinstance(kind, tuple) else (kind,)))


def _raise(wrong: Sequence[SharpKerasError], where: str) -> None:
    """Raises what is wrong: a single error as it is, several in one message."""
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        lines = [
            f"\n    {printable(bare(str(error.where)).removeprefix(f'{where}: '))}: {_said(error)}" for error in wrong
        ]
        step = "nothing has begun; mend all of them"
        raise ConfigError(f"{len(wrong)} things are wrong{''.join(lines)}", where=where, next_step=step)


def _said(error: SharpKerasError) -> str:
    """An error on one line."""
    seen = "" if error.seen is None else f", seen {printable(error.seen, 80)}"
    allowed = "" if error.allowed is None else f", allowed {printable(error.allowed, 200)}"
    step = "" if error.next_step is None else f"; {error.next_step}"
    return f"{error.problem}{seen}{allowed or step}"


# ---- the command lines of a job ----


def jobs(rows: Iterable[Row], out: str | os.PathLike[str], how: How) -> list[Job]:
    """All jobs of the rows, the first seeds of all rows first: what is compared is done at about the same time."""
    found = [(number, job) for row in rows for number, job in enumerate(_jobs_of(row, Path(out), how))]
    return [job for _, job in sorted(found, key=lambda pair: pair[0])]


def _jobs_of(row: Row, out: Path, how: How) -> Iterable[Job]:
    for seed in row.seeds:
        folder = out / row.name / f"seed-{seed}"
        trained = folder / TRAIN
        first, architecture, training = _first(row, seed, folder, how)
        words = [str(architecture), *training, "--seed", str(seed), "--out", str(trained)]
        steps = (
            *first,
            Step("train", (*words, *how.of_run()), str(trained)),
            Step("evaluate", (str(trained), *how.of_evaluation()), str(trained)),
        )
        yield Job(row.name, seed, str(folder), steps)


def _first(row: Row, seed: int, folder: Path, how: How) -> tuple[list[Step], str | Path, list[str]]:
    """The step that finds an architecture, that architecture, and the words by which its training has its recipe."""
    place = ["--seed", str(seed), "--out"]
    if row.architecture is None:
        named = ["--recipe", row.training] if row.training else []
        out = folder / SEARCH
        words = (row.recipe, *_settings(row.search), *place, str(out), *how.of_run())
        return [Step("search", words, str(out))], out, [*named, *_settings(row.train)]
    recipe, search = row.training or row.search_recipe().cost_of or row.search_recipe().training, row.search_recipe()
    changes = TRAININGS[recipe].settings.changes(row.base_of_training())
    training = ["--recipe", recipe, *_settings({**changes, **row.train})]
    if row.architecture != RANDOM:
        return [], row.architecture, training
    file = folder / ARCHITECTURE
    sizes = [text for name in SAMPLED for text in (f"--{name.replace('_', '-')}", str(getattr(search, name)))]
    return [Step("sample", (*sizes, *place, str(file)), str(file))], file, training


def _settings(settings: Mapping[str, Any]) -> list[str]:
    """`--set name=value` for each setting, as `Settings.parse` reads it."""
    texts = {None: "none", True: "true", False: "false"}
    pairs = {n: texts[v] if v is None or isinstance(v, bool) else str(v) for n, v in settings.items()}
    return [word for name, text in pairs.items() for word in ("--set", f"{name}={text}")]
