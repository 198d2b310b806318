"""What a run will need, before it runs: memory, time and disk; and the refusal of a step that has too little memory."""

import dataclasses
import itertools
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sharpkeras import spaces
from sharpkeras.engine.checkpointing import model_arrays
from sharpkeras.engine.epochs import CHECKPOINTS_ON_DISK, NullProgress
from sharpkeras.engine.step_model import backend_step
from sharpkeras.errors import ResourceError, UsageError
from sharpkeras.experiment import setup, weights
from sharpkeras.experiment.run_options import DEFAULT_OPTIONS, RunOptions
from sharpkeras.experiment.search_budget import Budget
from sharpkeras.measure import cost
from sharpkeras.measure.memory import available_bytes
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.recipes.rows import Recipe
from sharpkeras.spaces import Architecture, SearchSpace

TIMED_STEPS = 5
ENOUGH_S = 30.0  # of timed steps


@dataclass(frozen=True)
class Forecast:
    """What a run needs, per step, per epoch and in all.

    Attributes:
        parameters: of the supernet, or of the network.
        alphas: of a search; None for a training.
        addmults: of the network, as the paper counts them; None for a search.
        peak_memory_bytes: of a step, estimated; see `CompiledStep.peak_bytes`.
        available_memory_bytes: what there is for it; None where that is not known.
        first_step_s: until the first step is done, with tracing and compiling; None, as all times, if memory is short.
        step_s: median of a few further steps, with the reading of their images.
        steps: of an epoch.
        evaluation_s: of the images that are evaluated after each epoch; 0 if there are none.
        epoch_s: of one epoch with its evaluation.
        epochs: of the run.
        total_s: of the whole run, with what is compiled first; without pictures and checkpoints.
        disk_bytes: of the checkpoints that lie there at once.
    """

    parameters: int
    alphas: int | None
    addmults: int | None
    peak_memory_bytes: int
    available_memory_bytes: int | None
    first_step_s: float | None
    step_s: float | None
    steps: int
    evaluation_s: float | None
    epoch_s: float | None
    epochs: int
    total_s: float | None
    disk_bytes: int

    @property
    def fits(self) -> bool:
        """Whether there is memory enough, as far as is known."""
        return self.available_memory_bytes is None or self.peak_memory_bytes <= self.available_memory_bytes

    def as_dict(self) -> dict[str, Any]:
        """The fields, and whether the memory is enough (`fits`), for `--json`."""
        return {**dataclasses.asdict(self), "fits": self.fits}


def forecast(run_setup: setup.RunSetup, epochs: int, addmults: int | None = None) -> Forecast:
    """The Forecast of a run that is assembled and not begun; leaves no file. The model has trained a little afterwards.

    Args:
        run_setup: setup.RunSetup.
        epochs: of the run.
        addmults: of the network; None for a search.
    """
    model, steps = run_setup.model, run_setup.steps
    numbers = {"steps": steps, "epochs": epochs, "addmults": addmults, **_sizes(model)}
    data = itertools.chain.from_iterable(run_setup.data(epoch, 0) for epoch in itertools.count())
    step, batch, started = model.compiled_step(), next(data), time.perf_counter()
    peak, left = step.peak_bytes(batch), memory_left()
    numbers |= {"peak_memory_bytes": peak, "available_memory_bytes": left}
    if left is not None and peak > left:
        return Forecast(**numbers, first_step_s=None, step_s=None, evaluation_s=None, epoch_s=None, total_s=None)
    float(step(batch)["train_loss"])  # waits for the device
    first_step_s, step_s = time.perf_counter() - started, _seconds_of_a_step(step, data)
    step.sync()
    compile_s, evaluation_s = _evaluation_seconds(run_setup) if run_setup.held_out else (0.0, 0.0)
    epoch_s = steps * step_s + evaluation_s
    times = {"first_step_s": first_step_s, "step_s": step_s, "evaluation_s": evaluation_s, "epoch_s": epoch_s}
    return Forecast(**numbers, **times, total_s=first_step_s + compile_s + epochs * epoch_s - step_s)


def _sizes(model: Any) -> dict[str, Any]:
    """Numbers of a model's parameters and alphas, and the disk that its checkpoints take."""
    alphas = getattr(model, "alphas", None)
    weights = (model.network if alphas is None else model.supernet).trainable_variables
    return {
        "parameters": sum(math.prod(variable.shape) for variable in weights),
        "alphas": None if alphas is None else sum(math.prod(variable.shape) for variable in alphas),
        "disk_bytes": CHECKPOINTS_ON_DISK * sum(array.nbytes for array in model_arrays(model).values()),
    }


def _seconds_of_a_step(step: Any, data: Iterator[Any]) -> float:
    seconds: list[float] = []
    while len(seconds) < TIMED_STEPS and sum(seconds) < ENOUGH_S:
        started = time.perf_counter()
        float(step(next(data))["train_loss"])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _evaluation_seconds(run_setup: setup.RunSetup) -> tuple[float, float]:
    """What compiling the evaluation takes, and what evaluating all images takes: by one batch, evaluated twice."""
    batch, seconds = next(iter(run_setup.held_out())), []
    for _ in range(2):
        started = time.perf_counter()
        run_setup.model.logits([batch])
        seconds.append(time.perf_counter() - started)
    return max(0.0, seconds[0] - seconds[1]), seconds[1] * math.ceil(run_setup.held_out_images / len(batch[0]))


def memory_left() -> int | None:
    """Bytes that a step may still take: of the GPU's memory if there is one, else of the process's; None if unknown."""
    on_device = backend_step().device_bytes_left()
    return available_bytes() if on_device is None else on_device


def forecast_search(
    recipe: SearchRecipe,
    options: RunOptions = DEFAULT_OPTIONS,
    data_options: Mapping[str, Any] | None = None,
    space: SearchSpace | None = None,
) -> Forecast:
    """The Forecast of a search; `options` counts as far as it changes what a step needs."""
    _begin_job(recipe, options)
    dataset = setup.training_data(recipe, NullProgress(), data_options)
    recipe = recipe if space or recipe.cost == "none" else recipe.priced()
    space = space or spaces.of_recipe(recipe)
    budget = Budget.of(recipe, space, dataset.images.shape[1:], len(dataset.class_names))
    run_setup = setup.search(recipe, space, dataset, options.remat, budget.penalty if budget.costs else None)
    return forecast(run_setup, recipe.epochs)


def forecast_training(
    recipe: TrainRecipe,
    architecture: Architecture,
    options: RunOptions = DEFAULT_OPTIONS,
    data_options: Mapping[str, Any] | None = None,
    space: SearchSpace | None = None,
    init: str | os.PathLike[str] | None = None,
) -> Forecast:
    """The Forecast of a training; `options` counts as far as it changes what a step needs.

    What `train` would refuse, other weights to begin with too, is refused here.
    """
    _begin_job(recipe, options)
    initial = None if init is None else weights.initial(init)
    dataset = setup.training_data(recipe, NullProgress(), data_options)
    build = setup.building(recipe, architecture, space, initial, init)
    run_setup = setup.training(recipe, build, dataset, options.remat, data_options)
    return forecast(run_setup, recipe.epochs, cost.count(run_setup.model.network.without_auxiliary()).addmults_paper)


def _begin_job(recipe: Recipe, options: RunOptions) -> None:
    if options.num_processes is not None:
        raise UsageError(
            "a forecast is made by one process", where="`num_processes`", next_step="leave it out, and name `devices`"
        )
    options.begin_job(recipe.batch_size)


def refuse_too_large(recipe: Recipe, remat: bool, step: Any, batch: Any) -> None:
    """Raises ResourceError where a step is estimated to need more memory than there is.

    Args:
        recipe: SearchRecipe or TrainRecipe.
        remat: whether activations are computed again.
        step: the CompiledStep that will run.
        batch: what it will take.
    """
    needed, left = step.peak_bytes(batch), memory_left()
    if left is not None and needed > left:
        raise ResourceError(
            "a step would need more memory than there is",
            seen=f"{tried(recipe, remat)}: an estimated {needed / 1e9:,.1f} GB",
            allowed=f"{left / 1e9:,.1f} GB, which are available now",
            next_step=f"{smaller(recipe, remat)}; or `check_memory=False`",
        )


def tried(recipe: Recipe, remat: bool) -> str:
    """The settings that decide how much memory a step needs, in words."""
    words = f"batch size {recipe.batch_size}, {recipe.init_channels} channels, {recipe.num_cells} cells"
    return f"{words}, with `remat`" if remat else words


def smaller(recipe: Recipe, remat: bool) -> str:
    """The flags that make a step need less memory, in words; the first ones keep the network as it is."""
    accumulates = " (and a larger `accumulate`, for updates of as many images)" if hasattr(recipe, "accumulate") else ""
    words = f"lower `batch_size`{accumulates}, `init_channels` or `num_cells`"
    return words if remat else f"add `remat`, or {words}"
