"""The composition root: what each command does, put together from all other modules.

Every function takes plain values and returns plain values; the command line adds words and progress.
"""

import contextlib
import dataclasses
import functools
import platform
import random
from pathlib import Path

import keras
import numpy as np

from sharpkeras import __version__, atomic, from_torch, published
from sharpkeras.data import augment, load, streams
from sharpkeras.errors import (
    ConfigError,
    DataError,
    ResourceError,
    RunError,
    UsageError,
    is_out_of_memory,
    printable,
)
from sharpkeras.loop import Silent, refuse_full_disk
from sharpkeras.measure import cost
from sharpkeras.measure.accuracy import ErrorRate, top_k_errors
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.primitives import OPS, PRIMITIVES
from sharpkeras.recipes import TrainRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.schedule import CosinePowerAnnealing
from sharpkeras.search.loop import search as run_search
from sharpkeras.search.model import SearchModel
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.cell.network import Network
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.training.loop import train as run_training
from sharpkeras.training.model import TrainingModel

WEIGHTS = "weights"
GENOTYPE = "genotype.json"
DATA = "data.json"
EQUAL_ALPHAS = 1e-6  # logits that differ by less were never learned
REAL_IMAGES = 17  # that the export is checked on


# --- search and training ---


def search(recipe, out, overwrite=False, must_exist=False, progress=None, data_options=None, check_disk=True):
    """Searches a genotype and leaves it in the run directory `out`, with alphas, metrics and pictures.

    Args:
        recipe: SearchRecipe.
        out: the run directory; a run of the same recipe goes on where it was.
        overwrite, must_exist: see `RunDirectory.reserve`.
        progress: see `loop.Silent`.
        data_options: further arguments of `data.load`, such as download.
        check_disk: see `loop.refuse_full_disk`.

    Returns:
        The Genotype.
    """
    space, progress = cell_space(recipe), progress or Silent()
    settings = {"settings": recipe.as_dict(), "backend": keras.backend.backend()}
    with RunDirectory.reserve(out, "search", settings, overwrite, must_exist) as run:
        if run.finished:
            progress.complete()
            run.begin()
        else:
            found = _search(recipe, space, run, progress, data_options, check_disk)
            run.write_json(GENOTYPE, found.as_dict())
            run.mark_finished()
        found = _last_genotype(run)
        _draw_search(run, space, found)
        return found


def _search(recipe, space, run, progress, data_options, check_disk):
    # Test images are not read here, so that no search can see them.
    dataset = _training_data(recipe, run, progress, data_options)
    weights_half, alphas_half = streams.search_split(len(dataset.images), recipe.train_portion, recipe.batch_size)
    steps = len(weights_half) // recipe.batch_size
    model = _search_model(recipe, space, dataset, steps)
    _begin(run, dataset, model, check_disk)
    with _memory_errors(recipe, model):
        return run_search(
            model,
            run,
            recipe.epochs,
            training=lambda epoch: _batches(recipe, dataset, weights_half, epoch),
            validation=lambda epoch: streams.endless(
                dataset.images,
                dataset.labels,
                alphas_half,
                recipe.batch_size,
                recipe.seed,
                first_step=epoch * steps,
                draws=augment.NUM_DRAWS,
            ),
            held_out=lambda: streams.evaluation_batches(
                dataset.images, dataset.labels, recipe.batch_size, alphas_half
            ),
            skip_none=recipe.skip_none,
            progress=progress,
        )


def train(
    recipe, genotype, out, overwrite=False, must_exist=False, progress=None, data_options=None, check_disk=True
):
    """Trains the network of a genotype and leaves its weights in the run directory `out`.

    Args:
        recipe: TrainRecipe.
        genotype: Genotype.
        out, overwrite, must_exist, progress, data_options, check_disk: as in `search`.

    Returns:
        The cost of the network (see `measure.cost`).
    """
    settings = {"settings": recipe.as_dict(), "genotype": genotype.as_dict(), "backend": keras.backend.backend()}
    genotypes.from_dict(genotype.as_dict(), "genotype", recipe.ops)
    progress = progress or Silent()
    with RunDirectory.reserve(out, "train", settings, overwrite, must_exist) as run:
        if run.finished and run.load_arrays(WEIGHTS) is not None:
            progress.complete()
            run.begin()
            facts = run.read_json(DATA)
            network = build_network(recipe, genotype, facts["shape"], len(facts["class_names"]))
        else:
            network = _train(recipe, genotype, run, progress, data_options, check_disk)
            run.save_arrays(WEIGHTS, from_torch.state_dict(network), {"keys": "official PyTorch names and layouts"})
            run.mark_finished()
        run.write_json(GENOTYPE, genotype.as_dict())
        _draw_training(run, genotype)
        return cost.count(network.counted())


def _train(recipe, genotype, run, progress, data_options, check_disk):
    dataset = _training_data(recipe, run, progress, data_options)
    seed_initializers(recipe.seed)
    network = build_network(recipe, genotype, dataset.images.shape[1:], len(dataset.class_names))
    model = _training_model(recipe, network, dataset, len(dataset.images) // recipe.batch_size)
    everything = np.arange(len(dataset.images))
    _begin(run, dataset, model, check_disk)
    with _memory_errors(recipe, model):
        run_training(
            model,
            run,
            recipe.epochs,
            training=lambda epoch: _batches(recipe, dataset, everything, epoch),
            drop_path=recipe.drop_path,
            progress=progress,
        )
    return network


def seed_initializers(seed):
    """Makes the weights of the models that are built next a function of `seed`.

    Keras' initializers and seed generators draw their seeds from `random`. `keras.utils.set_random_seed` does this too,
    but imports TensorFlow under any backend.
    """
    random.seed(seed)


def cell_space(recipe):
    """The CellSpace of a SearchRecipe; raises UsageError for an unknown list of primitives."""
    if recipe.space not in PRIMITIVES and "," not in recipe.space:
        allowed = f"{', '.join(PRIMITIVES)}, or primitives with commas between them"
        raise UsageError("unknown search space", where="--space", seen=recipe.space, allowed=allowed)
    names = PRIMITIVES.get(recipe.space) or tuple(name.strip() for name in recipe.space.split(","))
    return CellSpace(names, recipe.ops, recipe.weighting, recipe.num_nodes, num_concatenated=recipe.num_nodes)


def build_network(recipe, genotype, input_shape, num_classes):
    """The final Network of a TrainRecipe for images (H, W, C)."""
    return Network(
        genotype,
        ops=recipe.ops,
        stem=recipe.stem,
        input_shape=tuple(input_shape),
        num_classes=num_classes,
        init_channels=recipe.init_channels,
        num_cells=recipe.num_cells,
        mid_filters=recipe.mid_channels,
        auxiliary=recipe.auxiliary_weight > 0,
        drop_path_seed=recipe.seed,
    )


def _search_model(recipe, space, dataset, steps):
    seed_initializers(recipe.seed)
    supernet = space.supernet(
        dataset.images.shape[1:], len(dataset.class_names), recipe.init_channels, recipe.num_cells
    )
    adam = Adam(recipe.arch_learning_rate, l2=recipe.arch_l2)
    preparation = _preparation(recipe, dataset)
    return SearchModel(space, supernet, _sgd(recipe, steps), adam, recipe.order, recipe.seed, **preparation)


def _training_model(recipe, network, dataset, steps):
    preparation = _preparation(recipe, dataset)
    smoothing = recipe.label_smoothing
    return TrainingModel(network, _sgd(recipe, steps), recipe.auxiliary_weight, smoothing, **preparation)


def _sgd(recipe, steps):
    """SGD under cosine power annealing (Eq. 2), the schedule counted in steps."""
    warmup = recipe.warmup_epochs * steps
    schedule = CosinePowerAnnealing(
        recipe.learning_rate, recipe.min_learning_rate, recipe.epochs * steps - warmup, recipe.power, warmup
    )
    return SGD(schedule, recipe.momentum, recipe.l2, recipe.clip_norm)


def _preparation(recipe, dataset):
    """What happens to images on the device: in training, and in evaluation."""
    statistics = {"mean": dataset.mean, "deviation": dataset.deviation}
    sizes = {"crop_padding_px": recipe.crop_padding_px, "cutout_px": recipe.cutout_px, "flip": dataset.flip}
    if recipe.cutout_px > min(dataset.images.shape[1:3]):
        limit = f"0 to {min(dataset.images.shape[1:3])}, the side of the images"
        raise UsageError("Cutout is larger than the images", where="--cutout-px", seen=recipe.cutout_px, allowed=limit)
    return {
        "augment": functools.partial(augment.augment, **statistics, **sizes),
        "normalize": functools.partial(augment.normalize, **statistics),
    }


def _batches(recipe, dataset, indices, epoch):
    return streams.batches(
        dataset.images,
        dataset.labels,
        indices,
        recipe.batch_size,
        recipe.seed,
        epoch,
        draws=augment.NUM_DRAWS,
    )


def _training_data(recipe, run, progress, options):
    """The training split, checked to be the one that the run began with."""
    sizes = {"image_size": recipe.image_size, "limit": recipe.limit}
    dataset = load(recipe.dataset, "train", **sizes, **(options or {}))
    for note in dataset.notes:
        progress.note(note)
    streams.check(dataset, recipe.batch_size)
    if run.resumed and (run.path / DATA).exists():
        before = run.read_json(DATA)["fingerprint"]
        if before != dataset.fingerprint:
            raise RunError(
                "the run began with other data",
                where=str(run.path),
                seen=f"fingerprint {dataset.fingerprint}",
                allowed=before,
                next_step="choose another directory with --out, or begin anew with --overwrite",
            )
    return dataset


def _begin(run, dataset, model, check_disk):
    """Begins the run, now that all that can be wrong with recipe and data would have been found."""
    if check_disk:
        refuse_full_disk(model, run.path)
    run.begin()
    facts = {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset.images),
        "shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "deviation": list(dataset.deviation),
        "notes": list(dataset.notes),
        "skipped_files": list(dataset.skipped_files),
    }
    run.write_json(DATA, facts)


@contextlib.contextmanager
def _memory_errors(recipe, model):
    """Turns a framework's error for want of memory into one that says what was tried and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        megabytes = sum(4 * np.prod(v.shape) for v in model.variables) / 1e6
        tried = f"batch size {recipe.batch_size}, {recipe.init_channels} channels, {recipe.num_cells} cells"
        raise ResourceError(
            f"out of memory: {printable(str(error).strip().splitlines()[0], 200)}" if str(error) else "out of memory",
            seen=f"{tried}; variables take {megabytes:,.1f} MB, the rest is in proportion to the batch size",
            next_step="lower --batch-size, --init-channels or --num-cells, with --overwrite or another --out",
        ) from error


def _last_genotype(run):
    """The genotype of a finished search, from its last epoch if its file is gone."""
    if not (run.path / GENOTYPE).is_file():
        run.write_json(GENOTYPE, run.read_json(_last_epoch(run))["genotype"])
    return genotypes.from_dict(run.read_json(GENOTYPE), str(run.path / GENOTYPE))


def _last_epoch(run):
    return f"epochs/{_metrics(run)[-1]['epoch']:04d}.json"


def _metrics(run):
    """The metrics of a finished run, a row per epoch."""
    rows = run.read_metrics()
    if not rows:
        raise RunError("has lost its metrics", where=str(run.path / "metrics.jsonl"), next_step="run it anew")
    return rows


def degenerate(out, ops):
    """Why what the search in the run directory `out` found is degenerate, in a sentence; None if it is not."""
    run = RunDirectory.read(out, "search")
    found = genotypes.from_dict(run.read_json(GENOTYPE), str(run.path / GENOTYPE))
    kinds = {OPS[ops][name].kind for name, _ in found.normal + found.reduce}
    if "conv" not in kinds:
        return f"no convolution, only {', '.join(sorted(kinds))}"
    equal = [np.ptp(kind, axis=-1).max() < EQUAL_ALPHAS for kind in run.read_json(_last_epoch(run))["alphas"]]
    return "all alphas are equal" if all(equal) else None


# --- what was found: architectures, networks, numbers ---


def architecture(source):
    """The Genotype of a run directory, a JSON file or a published name, and the run if it is one.

    Raises:
        ConfigError: for an unknown name or a broken file.
        RunError: for a directory that is no run, or a search that has not ended.
    """
    path = Path(source)
    if path.is_dir():
        run = RunDirectory.read(path)
        if not (path / GENOTYPE).is_file():
            raise RunError("has found no genotype yet", where=str(path), next_step=f"sharpkeras search --out {path}")
        return genotypes.from_dict(run.read_json(GENOTYPE), str(path / GENOTYPE)), run
    if path.suffix == ".json" or path.is_file():
        try:
            return genotypes.load(path), None
        except ConfigError as error:
            error.next_step = error.next_step or f"a genotype file looks like {genotypes.EXPECTED}"
            raise
    return published.genotype(source), None


def trained_network(path):
    """The network of a training run with its weights, its TrainRecipe and the facts of its data.

    Raises:
        RunError: when there is no such run, or it has not ended, or its weights are damaged or not finite.
    """
    run = RunDirectory.read(path, "train")
    loaded = run.load_arrays(WEIGHTS)
    if loaded is None:
        raise RunError("has no trained weights", where=str(path), next_step="let its training end: sharpkeras train")
    recipe = TrainRecipe.from_dict(run.recipe["settings"], f"{path}/recipe.json")
    facts, weights = run.read_json(DATA), loaded[0]
    bad = [name for name, array in weights.items() if not np.isfinite(array).all()]
    if bad:
        raise RunError(f"non-finite in {len(bad)} arrays", where=f"{path}/weights.npz", seen=bad[0])
    found = genotypes.from_dict(run.recipe["genotype"], f"{path}/recipe.json: genotype")
    network = build_network(recipe, found, facts["shape"], len(facts["class_names"]))
    from_torch.load_state(network, weights)
    return network, recipe, facts, found


def evaluate(path, dataset=None, batch_size=256, data_options=None):
    """The error of a trained network on test images, with its interval.

    Args:
        path: a training run.
        dataset: a dataset with the same classes; None is the test split of the one it was trained on.

    Returns:
        A dict: dataset, split, n, errors, error, interval, the rate as text, and how the weights were selected.
    """
    network, recipe, facts, _ = trained_network(path)
    spec = dataset or recipe.dataset
    statistics = (tuple(facts["mean"]), tuple(facts["deviation"]))
    test = load(spec, "test", image_size=recipe.image_size, statistics=statistics, **(data_options or {}))
    _refuse_other_classes(test, facts)
    normalize = functools.partial(augment.normalize, mean=test.mean, deviation=test.deviation)
    model = TrainingModel(network, SGD(0.0), normalize=normalize)
    logits = model.logits(streams.evaluation_batches(test.images, test.labels, min(batch_size, len(test.images))))
    rate = ErrorRate(top_k_errors(logits, test.labels), len(test.labels))
    report = {
        "run": str(path),
        "dataset": spec,
        "split": "test",
        "n": rate.n,
        "errors": rate.errors,
        "error": rate.error,
        "interval": [rate.low, rate.high],
        "confidence": rate.confidence,
        "text": str(rate),
        "notes": list(test.notes),
        "selection": "last epoch; nothing was selected on these images",
        "backend": keras.backend.backend(),
    }
    atomic.write(Path(path) / "evaluation.json", (atomic.dumps(report, "evaluation", indent=1) + "\n").encode())
    return report


def _refuse_other_classes(test, facts):
    expected, shape = tuple(facts["class_names"]), tuple(facts["shape"])
    if test.class_names != expected:
        problem = "the classes are not those of the training"
        raise DataError(problem, where=test.name, seen=list(test.class_names), allowed=list(expected))
    if test.images.shape[1:] != shape:
        problem = "the images are not of the training's size"
        raise DataError(problem, where=test.name, seen=test.images.shape[1:], allowed=shape)


def count_cost(genotype, recipe, input_shape, num_classes):
    """Parameters and AddMults (see `measure.cost.Cost`) of the network of a genotype, without auxiliary head."""
    recipe = dataclasses.replace(recipe, auxiliary_weight=0.0)
    return cost.count(build_network(recipe, genotype, input_shape, num_classes).counted())


def table(number):
    """The rows of a table of the paper: printed beside measured, exact integers.

    Args:
        number: 2 (CIFAR-10) or 3 (ImageNet).

    Returns:
        A list of {"name", "printed", "measured", "note"}; `measured` is None where no architecture is published.
    """
    stem, classes = {2: ("cifar", 10), 3: ("imagenet", 1000)}[number]
    rows = []
    for row in published.table(number):
        how, measured = row.get("reproduce"), None
        if how:
            sizes = {"init_channels": how["init_channels"], "num_cells": how["layers"]}
            recipe = TrainRecipe(ops=how["ops"], stem=stem, mid_channels=how.get("mid_channels"), **sizes)
            found = published.genotype(how["genotype"])
            measured = count_cost(found, recipe, how["input"], classes)._asdict()
        printed = {k: v for k, v in row.items() if k not in ("name", "reproduce", "measured", "note")}
        rows.append({"name": row["name"], "printed": printed, "measured": measured, "note": row.get("note")})
    return rows


# --- outward ---


def export(path, out, opset=17, overwrite=False):
    """Writes a trained network as ONNX, refused unless it agrees with Keras; see `export.export_onnx`."""
    from sharpkeras.export import check_destination, export_onnx

    out, report = Path(out), Path(out).with_suffix(".json")
    RunDirectory.read(path, "train")
    if report.exists() and not out.exists():  # such as the recipe.json of a run
        raise RunError("is no report of an export", where=str(report), next_step="choose another name with --out")
    with atomic.disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    check_destination(out, opset, overwrite)
    network, recipe, facts, found = trained_network(path)
    numbers = cost.count(network.counted())
    metadata = {
        "genotype": found.as_dict(),
        "classes": facts["class_names"],
        "preprocessing": {"scale": "x / 255", "mean": facts["mean"], "deviation": facts["deviation"], "layout": "NHWC"},
        "cost": numbers._asdict(),
        "recipe": recipe.as_dict(),
        "sharpkeras": __version__,
    }
    return export_onnx(
        network.deployed(), out, opset=opset, images=_real_images(recipe, facts), metadata=metadata, overwrite=overwrite
    )


def _real_images(recipe, facts):
    """A few training images as the network takes them; None where the data is not there (any more)."""
    try:
        dataset = load(recipe.dataset, "train", image_size=recipe.image_size, limit=REAL_IMAGES * 2)
    except (DataError, UsageError):
        return None
    if list(dataset.images.shape[1:]) != facts["shape"]:
        return None
    images = dataset.images[:REAL_IMAGES].astype("float32") / 255.0
    return ((images - np.array(facts["mean"])) / np.array(facts["deviation"])).astype("float32")


def machine():
    """Where a number was measured: processor, cores, system."""
    from sharpkeras.measure.latency import available_cores, device_name

    return {"device": device_name(), "cores": available_cores(), "system": platform.platform(), "python": platform.python_version()}


# --- pictures ---


def _draw_search(run, space, found):
    from sharpkeras.view import cells, curves

    rows = _metrics(run)
    cells.draw_genotype(found, run.path / "cells.png", title=f"{run.path.name}: epoch {rows[-1]['epoch'] + 1}")
    curves.draw_metrics(rows, run.path / "metrics.png")
    alphas = [run.read_json(f"epochs/{row['epoch']:04d}.json")["alphas"] for row in rows]
    for kind, name in enumerate(("normal", "reduce")):
        by_epoch = np.array([epoch[kind] for epoch in alphas])  # (T, E, P)
        curves.draw_alphas(by_epoch, space.primitive_names, run.path / f"alphas_{name}.png", title=f"{name} cell")


def _draw_training(run, found):
    from sharpkeras.view import cells, curves

    cells.draw_genotype(found, run.path / "cells.png", title=found.name)
    curves.draw_metrics(_metrics(run), run.path / "metrics.png")
