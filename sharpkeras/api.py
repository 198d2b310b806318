"""The functions of `import sharpkeras as sk`: what each command does, with the same defaults, results and messages.

Importing this module loads no framework: what needs Keras is imported when a function is called.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

from sharpkeras.errors import UsageError
from sharpkeras.experiment import inherited_settings
from sharpkeras.io.onnx_files import TARGETS
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import architectures
from sharpkeras.spaces.architecture import Architecture

if TYPE_CHECKING:
    from sharpkeras.engine.epochs import NullProgress
    from sharpkeras.experiment.forecast import Forecast
    from sharpkeras.experiment.load import ImageClassifier
    from sharpkeras.experiment.run_options import RunOptions
    from sharpkeras.measure.cost import Cost
    from sharpkeras.spaces.search_space import SearchSpace
    from sharpkeras.sweeping.scheduling import NullProgress as SweepProgress

Place = str | os.PathLike

DATA_OPTIONS = ("download", "skip_bad_images", "follow_symlinks")
EXPORTED = FilePath("exported")  # the default folder of ONNX files
TIMED_RUNS = 300


class Extraction(NamedTuple):
    """What `extract` has read off a search.

    Attributes:
        architecture: Genotype or Path.
        cost: that of its network.
        recipe: the SearchRecipe with the changed settings; its `cost_of` names the recipe of that network.
        training: the TrainRecipe by which the architecture is trained next.
    """

    architecture: Architecture
    cost: "Cost"
    recipe: SearchRecipe
    training: TrainRecipe


def architecture(source: Place) -> Architecture:
    """The architecture of a run directory, a JSON file or a published name.

    Raises:
        ConfigError: for an unknown name or a broken file.
        RunError: for a directory that is no run, or a search that has not ended.
    """
    return architectures.architecture(source)


def search(
    recipe: str | SearchRecipe | None = "digits",
    out: Place | None = None,
    *,
    space: "str | SearchSpace | None" = None,
    options: "RunOptions | None" = None,
    progress: "NullProgress | None" = None,
    data: dict[str, bool] | None = None,
    **settings: Any,
) -> Architecture:
    """Search an architecture, as `sharpkeras search` does.

    Args:
        recipe: a row of SEARCHES by name, or a SearchRecipe.
        out: the run directory; None is runs/search. A run of the same recipe goes on where it was stopped.
        space: the setting `space` as a text, or a HyperCuboid of one's own.
        options: how the run is carried out, such as `sk.RunOptions(overwrite=True)`.
        progress: what is told how far the run is; None tells nothing.
        data: how images are read: `download`, `skip_bad_images`, `follow_symlinks`.
        settings: settings of the recipe that are other now, such as epochs=60 or max_addmults="600M".

    Returns:
        The Genotype or Path that was found.

    Raises:
        UsageError, ConfigError: an unknown recipe or setting, or a value that it cannot have.
        DataError: missing, broken or unfitting images.
        RunError: `out` holds something else, or cannot be written.
    """
    if isinstance(space, str):
        settings, space = {**settings, "space": space}, None
    chosen = inherited_settings.changed(inherited_settings.named_search(recipe), settings)
    read = _data_options(data)
    from sharpkeras.experiment.run_options import DEFAULT_OPTIONS
    from sharpkeras.experiment.search import search as run_search

    out = inherited_settings.run_directory(out, "search")
    return run_search(chosen, out, options or DEFAULT_OPTIONS, progress, read, space)


def train(
    architecture: Place | Architecture,
    out: Place | None = None,
    *,
    recipe: str | TrainRecipe | None = None,
    space: "SearchSpace | None" = None,
    init: Place | None = None,
    options: "RunOptions | None" = None,
    progress: "NullProgress | None" = None,
    data: dict[str, bool] | None = None,
    **settings: Any,
) -> "Cost":
    """Train the network of an architecture, as `sharpkeras train` does.

    What a search found is trained on its images and, where Keras is not imported yet and KERAS_BACKEND is not set, by
    its backend.

    Args:
        architecture: a run, a file, a published name, a Genotype or Path, or a row of TRAININGS by name, which brings
            its published architecture.
        out: the run directory; None is runs/train. A run of the same recipe goes on where it was stopped.
        recipe: a row of TRAININGS by name, or a TrainRecipe. None is the one that `architecture` names or inherits
            from its run, else digits.
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.
        init: weights to begin with: a training run, a .safetensors or an .h5 file.
        options, progress, data: as in `search`.
        settings: settings of the recipe that are other now.

    Returns:
        The Cost of the network.

    Raises:
        UsageError, ConfigError: an unknown architecture, recipe or setting, or a value that it cannot have.
        DataError: missing, broken or unfitting images.
        RunError: `out` holds something else, or cannot be written; or a run that is read is damaged.
    """
    requested = inherited_settings.requested_training(architecture, recipe)
    chosen, read = inherited_settings.changed(requested.recipe, settings), _data_options(data)
    if "keras" not in sys.modules and not os.environ.get("KERAS_BACKEND"):
        if backend := inherited_settings.recorded_backend(requested.run):
            os.environ["KERAS_BACKEND"] = backend
    from sharpkeras.experiment.run_options import DEFAULT_OPTIONS
    from sharpkeras.experiment.train import train as run_training

    if progress:
        for note in requested.notes(chosen):
            progress.note(note)
    out = inherited_settings.run_directory(out, "train")
    return run_training(chosen, requested.architecture, out, options or DEFAULT_OPTIONS, progress, read, space, init)


def forecast(
    recipe: str | SearchRecipe | TrainRecipe | None = None,
    *,
    architecture: Place | Architecture | None = None,
    space: "str | SearchSpace | None" = None,
    init: Place | None = None,
    options: "RunOptions | None" = None,
    data: dict[str, bool] | None = None,
    **settings: Any,
) -> "Forecast":
    """Forecast the memory, time and disk of a run, as `--dry-run` does; nothing is written.

    Args:
        recipe: as in `search`; where there is an architecture, as in `train`.
        architecture: what is trained, as in `train`; None forecasts a search.
        space, options, data, settings: as in `search` or `train`.
        init: weights to begin with, of a training.

    Returns:
        The Forecast; its `as_dict()` is what `--dry-run --json` prints.

    Raises:
        UsageError, ConfigError, DataError: what the run would be refused for.
    """
    from sharpkeras.experiment import forecast as forecasts
    from sharpkeras.experiment.run_options import DEFAULT_OPTIONS

    how = (options or DEFAULT_OPTIONS, _data_options(data))
    if architecture is None:
        if isinstance(space, str):
            settings, space = {**settings, "space": space}, None
        chosen = inherited_settings.changed(inherited_settings.named_search(recipe), settings)
        return forecasts.forecast_search(chosen, *how, space)
    requested = inherited_settings.requested_training(architecture, recipe)
    training = inherited_settings.changed(requested.recipe, settings)
    return forecasts.forecast_training(training, requested.architecture, *how, space, init)


def evaluate(
    run: Place,
    dataset: str | None = None,
    *,
    batch_size: int = 256,
    space: "SearchSpace | None" = None,
    progress: "NullProgress | None" = None,
    data: dict[str, bool] | None = None,
    tell: Callable[[dict], None] | None = None,
) -> dict[str, Any]:
    """Measure the test error of a training run, as `sharpkeras evaluate` does.

    The run keeps the report as evaluation.json and the answer to every image as predictions.safetensors.

    Args:
        run: a training run.
        dataset: other data of the same classes, such as "cifar10.1:DIR"; None is the test split of its own.
        batch_size: images at a time.
        space: the HyperCuboid of a path, where it is not MultiChannelNet.
        progress, data: as in `search`.
        tell: called with the report before it is kept, so that a full disk costs no figure.

    Returns:
        The report: n, errors, error, its 95 % interval, top5, how the weights were selected, and more.

    Raises:
        RunError: there is no such run, it has not ended, or its directory cannot be written.
        DataError: no test images, or of other classes or another size than the training's.
    """
    from sharpkeras.experiment.evaluate import evaluate as run_evaluation

    return run_evaluation(run, dataset, batch_size, _data_options(data), space, progress, tell)


def export(
    source: Place,
    out: Place | None = None,
    *,
    opset: int = 17,
    input: str = "float32",
    precision: str = "float32",
    calibration_images: int = 512,
    weight_bits: int = 7,
    test_images: int = 1000,
    optimize: bool = True,
    target: str = "auto",
    network: str | None = None,
    space: "SearchSpace | None" = None,
    overwrite: bool = False,
    data: dict[str, bool] | None = None,
    **sizes: Any,
) -> dict[str, Any]:
    """Write a network as ONNX, as `sharpkeras export` does; it is refused unless it agrees with Keras.

    Args:
        source: a training run; or, with random weights, an architecture (a file or a published name) or a model of
            keras.applications ("keras:MobileNetV2").
        out: the file, NAME.onnx, beside which NAME.json is written; None is exported/SOURCE.onnx.
        opset: ONNX operator set, 13 to 18.
        input: images that the file takes: "float32" (preprocessed) or "uint8" (as they are stored).
        precision: in which the file computes: "float32", "float16" (for GPUs) or "int8" (calibrated on images).
        calibration_images: training images for int8, at least 100.
        weight_bits: of int8: 7 for every processor, 8 for x86 with VNNI and ARM alone.
        test_images: images that the file is tested on.
        optimize: whether the graph is simplified after the conversion.
        target: the processor that the file is made for: "avx2", "avx512", "arm", "gpu", or "auto", which measures on
            this machine (float32; a file in float16 is for GPUs).
        network: for an architecture, the network of table 2 ("cifar10", the default) or 3 ("imagenet").
        space: the HyperCuboid of a path, where it is not MultiChannelNet.
        overwrite: whether files that are there are replaced.
        data: as in `search`.
        sizes: for an architecture, other sizes of its network: ops, init_channels, num_cells, mid_channels,
            final_filters, num_classes, input_size.

    Returns:
        The report that is also in NAME.json, with the largest difference to Keras.

    Raises:
        VerificationError: the file disagrees with Keras; it is kept as NAME.rejected.onnx.
        RunError: a file is there already, or the run has not ended.
    """
    from sharpkeras.experiment.export import export as run_export
    from sharpkeras.recipes import network_sizes

    _one_of("input", input, ("float32", "uint8"))
    _one_of("precision", precision, ("float32", "float16", "int8"))
    _one_of("target", target, ("auto", *TARGETS))
    if not optimize and target != "auto":
        raise UsageError("a graph that is left as it is has no target", where="`target`", seen=target, allowed="auto")
    given = {name: value for name, value in {"name": network, **sizes}.items() if value is not None}
    return run_export(
        source,
        exported_file(source) if out is None else out,
        opset=opset,
        overwrite=overwrite,
        optimize=optimize,
        target=target,
        stored_pixels=input == "uint8",
        test_images=test_images,
        calibration_images=calibration_images,
        weight_bits=weight_bits,
        precision=precision,
        sizes=network_sizes(**given) if given else None,
        space=space,
        data_options=_data_options(data),
    )


def exported_file(source: Place) -> FilePath:
    """Where `export` writes a source by default."""
    there, name = os.path.exists(source), os.fspath(source)
    return EXPORTED / f"{FilePath(source).resolve().stem if there else name.replace(':', '-')}.onnx"


def extract(
    run: Place,
    out: Place = "extracted.json",
    *,
    strategy: str = "longest",
    routes: int = 1,
    epoch: int | None = None,
    overwrite: bool = False,
    tell: Callable[[Extraction], None] | None = None,
    **settings: Any,
) -> Extraction:
    """Read another architecture off the alphas of a search, as `sharpkeras extract` does.

    Args:
        run: a search run.
        out: the JSON file that is written.
        strategy: of a path of multichannel; under a budget only "longest".
        routes: of a path, by min-cost flow, at most.
        epoch: whose alphas, from 1; None is the last.
        overwrite: whether an architecture that is there is replaced.
        tell: called with the result before the file is written.
        settings: settings of the search that are other now: skip_none, latency_table, cost_of, or a budget
            (max_addmults, max_parameters, max_latency_ms) instead of the search's own.

    Raises:
        RunError: no such run or epoch, or a file is in the way.
        ConfigError: nothing is within the budget.
    """
    from sharpkeras.experiment.extract import extract as run_extraction

    changes = SearchRecipe.read_values(settings)
    if any(name.startswith("max_") for name in changes):  # instead of the budget that the search had
        changes = {**dict.fromkeys(("max_addmults", "max_parameters", "max_latency_ms")), **changes}

    def told(*found: Any) -> None:
        if tell:
            tell(Extraction(*found))

    return Extraction(*run_extraction(run, out, strategy, routes, epoch, changes, overwrite, told))


def sample(
    recipe: str | SearchRecipe | None = None,
    out: Place = "genotypes",
    *,
    count: int = 1,
    overwrite: bool = False,
    **settings: Any,
) -> list[tuple[FilePath, Architecture]]:
    """Draw random architectures, the baseline of a search, as `sharpkeras sample` does.

    Args:
        recipe: a row of SEARCHES by name, or a SearchRecipe; of it the space, its sizes and the seed count.
        out: a folder, or a file that ends in .json for a single architecture.
        count: how many; each has the next seed.
        overwrite: whether architectures that are there are replaced.
        settings: settings of the recipe that are other now, such as space="darts" or seed=3.

    Returns:
        The files with their architectures.
    """
    chosen = inherited_settings.changed(inherited_settings.named_search(recipe), settings)
    from sharpkeras.experiment.sample import sample as draw

    return draw(chosen, out, count, overwrite)


def compare(
    runs: Iterable[Place],
    *,
    force: bool = False,
    picture: Place | None = None,
    overwrite: bool = False,
    tell: Callable[[dict], None] | None = None,
) -> dict[str, Any]:
    """Compare runs side by side, as `sharpkeras compare` does: test errors of trainings, collapse watch of searches.

    Args:
        runs: run directories; the other trainings are tested against the first.
        force: whether runs on other images, or with weights selected otherwise, are compared all the same, labelled.
        picture: a PNG file for the collapse watch of the searches.
        overwrite: whether a picture that is there is replaced.
        tell: called with the report before the picture is drawn.

    Returns:
        The report: `trainings`, `training_groups`, `pairs`, `searches`, `search_groups` and `differences`.

    Raises:
        ConfigError: the runs are not comparable, and `force` is not set.
    """
    from sharpkeras.experiment.compare import compare as run_comparison

    return run_comparison(list(runs), force, picture, overwrite, tell)


def sweep(
    file: Place | Mapping[str, Any] | None = None,
    out: Place = "runs/sweep",
    *,
    recipes: Sequence[str] = (),
    random: bool = False,
    seeds: str | int | Sequence[int] | None = None,
    search: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    on: str = "local",
    jobs: int | None = None,
    threads: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    backend: str | None = None,
    device: str = "auto",
    checkpoint_s: float | None = None,
    deterministic: bool = False,
    data: dict[str, bool] | None = None,
    progress: "SweepProgress | None" = None,
    tell: Callable[[dict], None] | None = None,
) -> dict[str, Any]:
    """Search, train and evaluate for many rows and seeds, and compare, as `sharpkeras sweep` does.

    Each row with each of its seeds is a job in a directory of its own below `out`, its commands processes of their own.

    Args:
        file: a TOML or JSON file of rows, or its content, such as {"rows": [{"recipe": "digits"}]}.
        out: the directory; a sweep that is there goes on, and new rows and seeds are added to it.
        recipes: rows of SEARCHES instead of a file.
        random: whether each of `recipes` gets a row of random architectures too.
        seeds: of every row: "0-9", 3 or [0, 1]; None is as the file says, else 0.
        search, train: settings of all searches and all trainings that are other now.
        on: where jobs run: "local", "ray" or "slurm".
        jobs: how many at once; None is one per GPU or, without, per 4 cores; on Slurm all.
        threads: of each job; None is the cores, divided.
        slurm: settings of `sbatch`, such as {"partition": "gpu"}.
        backend, device, checkpoint_s, deterministic: of every job, as the commands have them.
        data: how images are read: `download`, `skip_bad_images`, `follow_symlinks`.
        progress: what is told how far the sweep is; None tells nothing.
        tell: called with the report before it is kept, and before an error on jobs that failed is raised.

    Returns:
        The report: `jobs`, a dict for each; `rows`, the test errors of each row over its seeds; `comparison`, what
        `compare` says of all runs.

    Raises:
        UsageError, ConfigError: rows or settings that cannot be; all that is wrong in one message.
        RunError: `out` holds something else, or a row of the same name with other settings.
        SharpKerasError: jobs have failed, the others are done; with the exit code of the first.
    """
    from sharpkeras.experiment import sweep as sweeping

    _one_of("device", device, ("auto", "cpu", "gpu"))
    if backend is not None:
        _one_of("backend", backend, inherited_settings.BACKENDS)
    numbers = list(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else seeds
    chosen = sweeping.rows(file, numbers, recipes, random, search, train)
    place = sweeping.Place(on, jobs, threads, {name: str(value) for name, value in (slurm or {}).items()})
    read = tuple(name for name, given in _data_options(data).items() if given)
    how = sweeping.How(backend, device, deterministic, checkpoint_s, read)
    return sweeping.sweep(chosen, out, place, how, progress, tell)


def cost(
    architecture: Place | Architecture,
    *,
    network: str | None = None,
    space: "SearchSpace | None" = None,
    **sizes: Any,
) -> "Cost":
    """Count parameters and AddMults of the network of an architecture, as `sharpkeras cost` does.

    Args:
        architecture: a run, a file, a published name, a Genotype or a Path. A training run has sizes of its own, a
            search those of the network that is trained next; all others those of table 2.
        network: the sizes of table 2 ("cifar10") or 3 ("imagenet").
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.
        sizes: other sizes: ops, init_channels, num_cells, mid_channels, final_filters, num_classes, input_size.

    Returns:
        Exact integers: `parameters`, `addmults_paper` (the paper's count), `addmults_conv_dense`.
    """
    from sharpkeras.experiment.cost import sized_network
    from sharpkeras.measure.cost import count

    return count(sized_network(architecture, network, space, **sizes).model)


def benchmark(
    *sources: Place,
    batch_size: int | Sequence[int] = (1,),
    threads: int | None = None,
    runs: int = TIMED_RUNS,
    percentiles: Sequence[int] | None = None,
    providers: str = "CPU",
    timeout_s: float | None = None,
    max_memory_gib: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the latency of networks that take turns, as `sharpkeras benchmark` does.

    Args:
        sources: ONNX files, or "tensorflow:RUN" and "jax:RUN" for the network of a training run in Keras.
        batch_size: images per run, or several such numbers.
        threads: of an engine; None is all cores.
        runs: timed runs of each network.
        percentiles: besides 50 and 90: 95, from 200 runs on, or 99, from 1000 on; None adds 99 where it can.
        providers: ONNX Runtime providers, such as "CUDA,CPU".
        timeout_s: seconds that a network may take to start, or for a turn.
        max_memory_gib: GiB that a network may take; None is by its file and images.
        progress: called with (turns done, all turns).

    Returns:
        The report: `models` with their percentiles and 95 % intervals, and `comparisons` with the first network.
    """
    if not sources:
        raise UsageError("nothing to measure", where="sources", allowed="ONNX files, or tensorflow:RUN or jax:RUN")
    from sharpkeras.measure.latency import benchmark as latency

    sizes = (batch_size,) if isinstance(batch_size, int) else tuple(dict.fromkeys(batch_size))
    return latency.benchmark(
        [_contender(os.fspath(source)) for source in sources],
        batch_sizes=sizes,
        threads=threads,
        runs=runs,
        percentiles=tuple(sorted({50, 90, *percentiles})) if percentiles else None,
        providers=provider_names(providers),
        memory_bytes=int(max_memory_gib * 2**30) if max_memory_gib else None,
        progress=progress,
        **({} if timeout_s is None else {"timeout_s": timeout_s}),
    )


def provider_names(text: str) -> tuple[str, ...]:
    """("CUDAExecutionProvider", "CPUExecutionProvider") of "CUDA,CPU"."""
    return tuple(f"{name.strip().removesuffix('ExecutionProvider')}ExecutionProvider" for name in text.split(","))


def backend_and_run(source: str) -> tuple[str, str] | None:
    """("jax", "runs/train") of "jax:runs/train"; None of the name of an ONNX file."""
    backend, colon, run = source.partition(":")
    return (backend, run) if colon and backend in inherited_settings.BACKENDS else None


def _contender(source: str) -> Any:
    """What `measure.latency.benchmark` takes for a source of `benchmark`."""
    from sharpkeras.measure.latency.benchmark import OnnxFile

    in_keras = backend_and_run(source)
    if in_keras is None:
        return OnnxFile(source)
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", in_keras[0])
    from sharpkeras.experiment.keras_engine import KerasRun

    return KerasRun(*in_keras)


def table(number: int) -> list[dict[str, Any]]:
    """Table 2, 3 or 4 of the paper, printed beside measured, as `sharpkeras table` has it.

    Args:
        number: 2 (CIFAR-10), 3 (ImageNet) or 4 (MultiChannelNet on CIFAR-10).

    Returns:
        Its rows; `measured` is None where no architecture is published.
    """
    _one_of("number", number, (2, 3, 4))
    from sharpkeras.experiment import paper_tables

    return paper_tables.table(number)


def load(run: Place, *, space: "SearchSpace | None" = None) -> "ImageClassifier":
    """Load a trained network as a Keras model that takes images as they are stored.

        model = sk.load("runs/train")
        logits = model.predict(images)  # uint8 (N, H, W, C) → (N, classes)
        names = [model.class_names[index] for index in logits.argmax(axis=1)]

    Args:
        run: the directory of a finished training.
        space: the HyperCuboid of a path, where it is not MultiChannelNet.

    Returns:
        A keras.Model with `class_names` and `network`, which normalises images as its evaluation does.

    Raises:
        RunError: there is no such run, it has not ended, or its weights are damaged.
    """
    from sharpkeras.experiment.load import load as load_run

    return load_run(run, space)


def _data_options(data: dict[str, bool] | None) -> dict[str, bool]:
    for name in data or {}:
        _one_of("data", name, DATA_OPTIONS)
    return dict(data or {})


def _one_of(where: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise UsageError("unknown value", where=where, seen=value, allowed=", ".join(map(str, allowed)))
