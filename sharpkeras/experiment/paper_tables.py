"""Trained networks, and the tables of the paper beside their measured numbers."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras

from sharpkeras.errors import ConfigError, RunError
from sharpkeras.experiment import search_budget, weights
from sharpkeras.measure import cost
from sharpkeras.measure.cost import Cost
from sharpkeras.paper import published
from sharpkeras.recipes import TRAININGS, SearchRecipe, TrainRecipe
from sharpkeras.runs import EPOCHS_FROM_0, RunDirectory, architectures, contents, differences, files
from sharpkeras.spaces import ARCHITECTURES, SPACES, Architecture, SearchSpace
from sharpkeras.spaces.final_network import FinalNetwork
from sharpkeras.spaces.network_spec import NetworkSpec

# Rows whose architecture Keras has, and one whose configuration the paper leaves to its reader.
APPLICATIONS = {
    (3, "MobileNetv2"): ("MobileNetV2", {}),
    (3, "MobileNetv2 (1.4)"): ("MobileNetV2", {"alpha": 1.4}),
    (3, "NASNet-A"): ("NASNetMobile", {}),
}
OTHERS = {(3, "DARTS"): {"genotype": "DARTS_V2", "ops": "darts", "init_channels": 48, "layers": 14}}
PATH_NOTE = (
    "the published paths do not have the AddMults that table 4 prints, by the count that gives tables 2 and 3 to the "
    "printed digit; measured is what they have, at 768 final filters."
)
NOTES = {
    **{(4, name): PATH_NOTE for name in ("Scalar", "Handmade", "Max-W")},
    (
        3,
        "MobileNetv2",
    ): "keras.applications.MobileNetV2; the printed AddMults are those of convolutions and dense layers.",
    (3, "MobileNetv2 (1.4)"): "keras.applications.MobileNetV2 at alpha 1.4, whose parameters are fewer than printed.",
    (
        3,
        "NASNet-A",
    ): "keras.applications.NASNetMobile; the printed AddMults are those of convolutions and dense layers.",
    (3, "DARTS"): "DARTS_V2 at 48 channels and 14 cells: the printed AddMults are not reached by any count of it.",
}


def trained_network(
    path: str | os.PathLike[str], space: SearchSpace | None = None
) -> tuple[FinalNetwork, TrainRecipe, dict[str, Any], Architecture, dict[str, Any]]:
    """The network of a training run with its weights, its TrainRecipe, the facts of its data, its architecture, and how
    the weights were selected.

    Args:
        path: the run directory.
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.

    Raises:
        RunError: when there is no such run, or it has not ended, or its weights are damaged or not finite.
        ConfigError: when it was trained in another space.
    """
    run = RunDirectory.read(path, "train")
    _refuse_another_space(run, space)
    arrays, meta = weights.of_run(run)
    recipe, facts = _recipe_and_facts(run)
    found = architectures.of_recipe(run)
    if found is None:
        raise RunError("has no architecture", where=f"{path}/{files.RECIPE}", allowed=" or ".join(ARCHITECTURES))
    network = NetworkSpec(recipe, facts["shape"], len(facts["class_names"]), space).build(found)
    weights.put_into(network, arrays, f"{path}/{files.WEIGHTS}")
    selection = meta.get("selection", {"by": "last"})
    return network, recipe, facts, found, {**selection, **EPOCHS_FROM_0} if "epoch" in selection else selection


def _refuse_another_space(run: RunDirectory, space: SearchSpace | None) -> None:
    """Raise ConfigError where a space is given that is not the one of the training."""
    trained_in = run.recipe.get("space")
    if space is None or trained_in is None and space.name in SPACES:
        return  # that this is a space which only Python knows is told where the network is built
    table = differences({"space": trained_in}, {"space": space.as_dict()})
    if table:
        raise ConfigError(f"was trained in another space{table}", where=str(run.path / files.RECIPE))


def is_training(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a training run."""
    return os.path.isdir(path) and RunDirectory.read(path).kind == "train"


def sizes_of_run(path: str | os.PathLike[str]) -> NetworkSpec | None:
    """The NetworkSpec of a run; None of anything else.

    Of a search that of the network that is trained next.

    Raises:
        RunError, ConfigError: when the run is damaged.
    """
    run = RunDirectory.read(path) if os.path.isdir(path) else None  # which knows no name that is too long
    if run is None:
        return None
    if run.kind == "search":
        facts = contents.images(run)
        searched = SearchRecipe.from_dict(contents.settings(run), str(run.path / files.RECIPE))
        return search_budget.costed_network(searched.priced(), facts["shape"], len(facts["class_names"]))
    recipe, facts = _recipe_and_facts(run)
    return NetworkSpec(recipe, facts["shape"], len(facts["class_names"]))


def _recipe_and_facts(run: RunDirectory) -> tuple[TrainRecipe, dict[str, Any]]:
    """The TrainRecipe of a training run, and the facts of its data."""
    return TrainRecipe.from_dict(contents.settings(run), str(run.path / files.RECIPE)), contents.data(run)


def table(number: int) -> list[dict[str, Any]]:
    """The rows of a table of the paper: what it prints, beside the parameters and AddMults counted here.

    Args:
        number: 2 (CIFAR-10), 3 (ImageNet) or 4 (MultiChannelNet on CIFAR-10).

    Returns:
        A list of {"name", "printed", "measured", "note"}: the paper's columns as they stand; a Cost as a
        dictionary, exact integers, None where no architecture is published; a sentence or None.
    """
    count = functools.cache(_published_cost)  # the rows without AutoAugment have the networks of those with it
    return [
        {
            "name": row["name"],
            "printed": {k: v for k, v in row.items() if k not in ("name", "reproduce", "measured", "note")},
            "measured": _measured(number, row, count),
            "note": row.get("note") or NOTES.get((number, row["name"])),
        }
        for row in published.table(number)
    ]


def _measured(number: int, row: Mapping[str, Any], count: Callable[..., Cost]) -> dict[str, Any] | None:
    """The cost of a row's network as a dict: by its configuration, its recipe, or as Keras has it; None without one."""
    size, classes = {2: (32, 10), 3: (224, 1000), 4: (32, 10)}[number]
    key = (number, row["name"])
    if key in APPLICATIONS:
        name, options = APPLICATIONS[key]
        return cost.count(getattr(keras.applications, name)(weights=None, **options))._asdict()
    recipe = next((row for row in TRAININGS.values() if row.printed == key), None)
    how = row.get("reproduce") or OTHERS.get(key)
    if how and "genotype" in how:
        settings = {"ops": how["ops"], "init_channels": how["init_channels"], "num_cells": how["layers"]}
        settings["mid_channels"], genotype = how.get("mid_channels"), how["genotype"]
    elif recipe:
        settings = {name: getattr(recipe.settings, name) for name in ("ops", "init_channels", "num_cells")}
        genotype = recipe.architecture
    else:
        return None
    settings["stem"] = {2: "cifar", 3: "imagenet", 4: "cifar"}[number]
    return count(genotype, TrainRecipe(**settings), size, classes)._asdict()


def _published_cost(name: str, recipe: TrainRecipe, size: int, classes: int) -> Cost:
    return NetworkSpec(recipe, (size, size, 3), classes).cost(published.architecture(name))
