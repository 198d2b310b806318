"""The training of a final network, from its recipe to the files of its run directory."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sharpkeras.engine.epochs import NullProgress
from sharpkeras.experiment import plots, result_checks, setup, shared_steps, weights
from sharpkeras.experiment.inherited_settings import not_an_architecture, of_kind
from sharpkeras.experiment.run_options import DEFAULT_OPTIONS, RunOptions
from sharpkeras.measure import cost
from sharpkeras.measure.cost import Cost
from sharpkeras.recipes import TrainRecipe
from sharpkeras.runs import RunDirectory, architectures, contents, files
from sharpkeras.spaces import ARCHITECTURES, Architecture, SearchSpace, state_dict
from sharpkeras.spaces.final_network import FinalNetwork
from sharpkeras.spaces.network_spec import NetworkSpec
from sharpkeras.training.loop import train as run_training


def train(
    recipe: TrainRecipe,
    architecture: Architecture,
    out: str | os.PathLike[str],
    options: RunOptions = DEFAULT_OPTIONS,
    progress: NullProgress | None = None,
    data_options: Mapping[str, Any] | None = None,
    space: SearchSpace | None = None,
    init: str | os.PathLike[str] | None = None,
) -> Cost:
    """Train the network of an architecture and leave its weights in the run directory `out`.

    Args:
        recipe: TrainRecipe.
        architecture: an Architecture, such as a Genotype or a Path.
        out, options, progress, data_options: as in `search`.
        space: the space of the architecture, where it is a HyperCuboid of one's own.
        init: weights to begin with, a training run or a file; see `weights.initial`.

    Raises:
        UsageError: for another kind of recipe or architecture.

    Returns:
        The cost of the network (see `measure.cost`).
    """
    of_kind(recipe, TrainRecipe)
    options.begin_job(recipe.batch_size)
    if getattr(architecture, "kind", None) not in ARCHITECTURES:
        raise not_an_architecture(architecture)
    settings = {
        "settings": recipe.as_dict(),
        architecture.kind: architecture.as_dict(),
        **shared_steps.space_entry(space),
    }
    settings["backend"] = keras.backend.backend()
    initial = None if init is None else weights.initial(init)
    if initial is not None:
        settings["initial_weights"] = weights.fingerprint(initial)
    architectures.from_dict(architecture.as_dict(), architecture.kind, recipe.ops)
    progress = progress or NullProgress()
    with options.reserve(out, "train", settings) as run:
        if run.finished and run.load_arrays(files.WEIGHTS) is not None:
            progress.complete()
            run.begin()
            facts = contents.data(run)
            network = NetworkSpec(recipe, facts["shape"], len(facts["class_names"]), space).build(architecture)
        else:
            build = setup.building(recipe, architecture, space, initial, init)
            network, trained, selection = _train(recipe, build, run, options, progress, data_options)
            run.save_arrays(
                files.WEIGHTS, trained, {"keys": "official PyTorch names and layouts", "selection": selection}
            )
            run.mark_finished()
        architectures.write(run, architecture)
        with plots.missing_on_a_full_disk():
            plots.draw_training(run, architecture)
        shared_steps.warn(result_checks.of_training(run))
        return cost.count(network.without_auxiliary())


def _train(
    recipe: TrainRecipe,
    build: Callable[[Sequence[int], int], FinalNetwork],
    run: RunDirectory,
    options: RunOptions,
    progress: NullProgress,
    data_options: Mapping[str, Any] | None,
) -> tuple[FinalNetwork, dict[str, np.ndarray], dict[str, Any]]:
    """The network after its training, the weights that were selected, and how."""
    dataset = shared_steps.check_dataset(run, setup.training_data(recipe, progress, data_options))
    progress.stage("building the network")
    run_setup = setup.training(recipe, build, dataset, options.remat, data_options)
    shared_steps.begin(run, recipe, dataset, run_setup, options, progress)
    with shared_steps.memory_errors(recipe, options):
        trained, selection = run_training(
            run_setup.model,
            run,
            recipe.epochs,
            data=run_setup.data,
            drop_path=recipe.drop_path,
            weights=lambda: state_dict.state_dict(run_setup.model.network),
            selected_on=run_setup.held_out,
            selection=recipe.selection,
            **shared_steps.loop_options(recipe, options, progress),
        )
    return run_setup.model.network, trained, selection
