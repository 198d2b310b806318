"""The recipe of a run as it was asked for: by name or by value, with changed settings, inherited from another run.

The command line and the functions of `sharpkeras` both ask here. What the training of an architecture inherits from the
run that found it are its images, what these make of a recipe, and its backend; not its seed and not its precision,
which are part of how a network is trained.
"""

import contextlib
import dataclasses
import difflib
import os
from pathlib import Path as FilePath
from typing import Any, TypeVar

from sharpkeras.errors import ConfigError, SharpKerasError, UsageError, printable
from sharpkeras.recipes import DATA, DIGITS, SEARCHES, TRAININGS, SearchRecipe, TrainRecipe, training_of
from sharpkeras.recipes.settings import Settings
from sharpkeras.runs import RunDirectory, architectures, contents, files
from sharpkeras.spaces import ARCHITECTURES
from sharpkeras.spaces.architecture import Architecture

BACKENDS = ("tensorflow", "jax")  # the first one is the default

# ---- recipes ----

S = TypeVar("S", bound=Settings)


def changed(recipe: S, settings: dict[str, Any]) -> S:
    """The recipe with other values of some settings; texts are read as the command line reads them ("600M").

    Raises:
        ConfigError: for an unknown setting, with the nearest valid one, or a value of the wrong type or range.
    """
    return recipe.from_dict(recipe.read_values(settings), "settings", recipe)


def named_search(recipe: str | SearchRecipe | None) -> SearchRecipe:
    """A SearchRecipe, or the settings of a row of SEARCHES; None is the first row.

    Raises:
        UsageError: there is no such row, or it is another kind of recipe.
    """
    if isinstance(recipe, str) or recipe is None:
        return _row(SEARCHES, recipe).settings
    return of_kind(recipe, SearchRecipe)


def training_recipe(
    path: str | os.PathLike, name: str | None = None, search: SearchRecipe | None = None
) -> TrainRecipe:
    """The TrainRecipe by which the architecture in a run directory is trained next.

    Of a search that of `recipes.training_of`, which reads the images of the search; of a training its own.

    Args:
        path: the run directory.
        name: of a row of TRAININGS, for the architecture of a search; None is the one that goes with it.
        search: SearchRecipe; None is that of the search itself.

    Raises:
        RunError, ConfigError: when there is no such run, or it is damaged.
    """
    run = RunDirectory.read(path)
    settings, where = contents.settings(run), str(run.path / files.RECIPE)
    if run.kind == "train":
        return TrainRecipe.from_dict(settings, where)
    search = search or SearchRecipe.from_dict(settings, where)
    if not os.path.lexists(run.path / files.DATA):  # what is no regular file is refused when it is read
        return training_of(search, name)
    return training_of(search, name, contents.images(run)["shape"], contents.number_of_images(run))


# ---- what is trained ----


@dataclasses.dataclass(frozen=True)
class RequestedTraining:
    """What a training was asked for.

    Attributes:
        architecture: Genotype or Path.
        recipe: the TrainRecipe to begin with, which settings change.
        run: the run directory that the architecture comes from; None where it is no run.
    """

    architecture: Architecture
    recipe: TrainRecipe
    run: str | None = None

    def notes(self, recipe: TrainRecipe) -> list[str]:
        """Says which settings of the final recipe are those of the run, and whether its images are others."""
        if self.run is None:
            return []
        of_run, where, digits = training_recipe(self.run), printable(self.run), TRAININGS[DIGITS].settings
        names = [name for name in (*DATA, "ops") if getattr(of_run, name) != getattr(digits, name)]
        taken = [f"{name} {getattr(recipe, name)}" for name in names if getattr(recipe, name) == getattr(of_run, name)]
        notes = [f"{printable(', '.join(taken))}: as {where} has it; flags name others"] if taken else []
        if recipe.dataset != of_run.dataset:
            other, own = printable(recipe.dataset), printable(of_run.dataset)
            notes.append(f"trains on {other}, and not on {own} as {where} did")
        return notes


def requested_training(
    architecture: str | os.PathLike | Architecture, recipe: str | TrainRecipe | None = None
) -> RequestedTraining:
    """The architecture and the recipe that a training was asked for.

    Args:
        architecture: a run directory, a file, a published name, a Genotype or Path, or the name of a row of TRAININGS,
            which brings its published architecture.
        recipe: a TrainRecipe, or the name of a row of TRAININGS. None is the row that `architecture` names, else the
            recipe that a run brings (see `training_recipe`), else the first row.

    Raises:
        UsageError: there is no such recipe, or `architecture` is something else.
        ConfigError: an unknown name, a broken file, or a row without an architecture.
        RunError: a directory that is no run, or a search that has not ended.
    """
    if getattr(architecture, "kind", None) in ARCHITECTURES:
        return RequestedTraining(architecture, _named_training(recipe))
    if not isinstance(architecture, (str, os.PathLike)):
        raise not_an_architecture(architecture, "a run", "a file", "a published name", "a recipe")
    source = os.fspath(architecture)
    if source in TRAININGS:
        recipe, source = recipe or source, _architecture_of_row(source, recipe or source)
    found = _found(source)
    if not os.path.isdir(source):
        return RequestedTraining(found, _named_training(recipe))
    of_run = training_recipe(source)
    if recipe is None:
        return RequestedTraining(found, of_run, source)
    named = _named_training(recipe)
    if isinstance(recipe, str):
        named = dataclasses.replace(named, ops=of_run.ops)  # what the names of an architecture stand for
    return RequestedTraining(found, named, source)


def _architecture_of_row(name: str, recipe: str | TrainRecipe) -> str:
    """The published architecture that a row of TRAININGS has."""
    architecture = TRAININGS[name].architecture
    if architecture is None:
        problem = "this recipe has no architecture of its own"
        next_step = f"sharpkeras train RUN --recipe {recipe if isinstance(recipe, str) else name}"
        raise ConfigError(problem, where="RECIPE", seen=name, next_step=next_step)
    return architecture


def _found(source: str) -> Architecture:
    """The architecture of a run, a file or a published name; guesses which recipe a mistyped name meant."""
    try:
        return architectures.architecture(source)
    except ConfigError as error:
        near = difflib.get_close_matches(source, TRAININGS, n=1)
        error.next_step = f"did you mean {near[0]}? sharpkeras list recipes" if near else error.next_step
        raise


def _named_training(recipe: str | TrainRecipe | None) -> TrainRecipe:
    if isinstance(recipe, str) or recipe is None:
        return _row(TRAININGS, recipe).settings
    return of_kind(recipe, TrainRecipe)


def _row(rows: dict, name: str | None) -> Any:
    if name is None:
        return next(iter(rows.values()))
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1)
        step = f"did you mean {near[0]}?" if near else None
        raise UsageError("unknown recipe", where="recipe", seen=name, allowed=", ".join(rows), next_step=step)
    return rows[name]


def not_an_architecture(value: object, *others: str) -> UsageError:
    """The error for what is none of ARCHITECTURES, and none of what else is taken in their place, in words."""
    allowed = ", ".join([*(f"a {kind.capitalize()}" for kind in ARCHITECTURES), *others])
    step = "sharpkeras.architecture(…) reads one from a run or a file, or has the published ones"
    return UsageError(
        "no architecture", where="architecture", seen=type(value).__name__, allowed=allowed, next_step=step
    )


def of_kind(recipe: Any, kind: type) -> Any:
    """The recipe; raises UsageError where it is not of the class that is needed."""
    if not isinstance(recipe, kind):
        raise UsageError("another recipe", where="recipe", seen=type(recipe).__name__, allowed=kind.__name__)
    return recipe


# ---- the backend of a run, and the place of a new one ----


def recorded_backend(source: object) -> str | None:
    """The Keras backend on which a run was computed; None where `source` is no run, or names none that is known."""
    if not isinstance(source, (str, os.PathLike)) or not os.path.isdir(source):
        return None
    with contextlib.suppress(SharpKerasError):  # a damaged run is told where it is opened
        name = RunDirectory.read(source).recipe.get("backend")
        return name if name in BACKENDS else None
    return None


def run_directory(out: str | os.PathLike | None, kind: str, smoke: bool = False) -> FilePath:
    """Where a run goes: `out`, else a place by its kind ("search", "train"); trials have their own."""
    return FilePath(out) if out is not None else FilePath("runs", "smoke" if smoke else "", kind)
