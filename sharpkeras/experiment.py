"""The composition root: what each command does, put together from all other modules.

Every function takes plain values and returns plain values; the command line adds words and progress.
"""

import dataclasses
import functools
import platform
from pathlib import Path

import keras
import numpy as np

from sharpkeras import __version__, atomic, from_torch, published, strict_json
from sharpkeras.data import augment, load, streams
from sharpkeras.errors import ConfigError, DataError, RunError, UsageError
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
REAL_IMAGES = 17  # that the export is checked on


# --- search and training ---


def search(recipe, out, overwrite=False, must_exist=False, progress=None, data_options=None):
    """Searches a genotype and leaves it in the run directory `out`, with alphas, metrics and pictures.

    Args:
        recipe: SearchRecipe.
        out: the run directory; a run of the same recipe goes on where it was.
        overwrite, must_exist: see `RunDirectory.open`.
        progress: see `loop.Silent`.
        data_options: further arguments of `data.load`, such as download.

    Returns:
        The Genotype.
    """
    space = cell_space(recipe)
    settings = {"settings": recipe.as_dict(), "backend": keras.backend.backend()}
    with RunDirectory.open(out, "search", settings, overwrite, must_exist) as run:
        if not run.finished:
            # Test images are not read here, so that no search can see them.
            dataset = _training_data(recipe, run, data_options)
            halves = streams.search_split(len(dataset.images), recipe.train_portion, recipe.batch_size)
            model = _search_model(recipe, space, dataset, len(halves[0]) // recipe.batch_size)
            batches = functools.partial(_batches, recipe, dataset)
            found = run_search(
                model,
                run,
                recipe.epochs,
                training=lambda epoch: batches(halves[0], epoch),
                validation=lambda epoch: streams.endless(
                    dataset.images,
                    dataset.labels,
                    halves[1],
                    recipe.batch_size,
                    recipe.seed,
                    first_step=epoch * (len(halves[0]) // recipe.batch_size),
                    draws=augment.NUM_DRAWS,
                ),
                held_out=lambda: streams.evaluation_batches(
                    dataset.images, dataset.labels, recipe.batch_size, halves[1]
                ),
                skip_none=recipe.skip_none,
                progress=progress,
            )
            run.write_json(GENOTYPE, found.as_dict())
            run.mark_finished()
        found = _last_genotype(run)
        _draw_search(run, space, found)
        return found


def train(recipe, genotype, out, overwrite=False, must_exist=False, progress=None, data_options=None):
    """Trains the network of a genotype and leaves its weights in the run directory `out`.

    Args:
        recipe: TrainRecipe.
        genotype: Genotype.
        out, overwrite, must_exist, progress, data_options: as in `search`.

    Returns:
        The cost of the network (see `measure.cost`).
    """
    settings = {"settings": recipe.as_dict(), "genotype": genotype.as_dict(), "backend": keras.backend.backend()}
    genotypes.from_dict(genotype.as_dict(), "genotype", recipe.ops)
    with RunDirectory.open(out, "train", settings, overwrite, must_exist) as run:
        dataset = _training_data(recipe, run, data_options)
        network = build_network(recipe, genotype, dataset.images.shape[1:], len(dataset.class_names))
        if not run.finished or run.load_arrays(WEIGHTS) is None:
            steps = len(dataset.images) // recipe.batch_size
            model = _training_model(recipe, network, dataset, steps)
            everything = np.arange(len(dataset.images))
            run_training(
                model,
                run,
                recipe.epochs,
                training=lambda epoch: _batches(recipe, dataset, everything, epoch),
                drop_path=recipe.drop_path,
                progress=progress,
            )
            run.save_arrays(WEIGHTS, from_torch.state_dict(network), {"keys": "official PyTorch names and layouts"})
            run.mark_finished()
        run.write_json(GENOTYPE, genotype.as_dict())
        _draw_training(run, genotype)
        return cost.count(network.counted())


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
    keras.utils.set_random_seed(recipe.seed)
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
        allowed = f"0 to {min(dataset.images.shape[1:3])}, the side of the images"
        raise UsageError("Cutout is larger than the images", where="--cutout-px", seen=recipe.cutout_px, allowed=allowed)
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


def _training_data(recipe, run, options):
    """The training split, checked to be the one that the run began with."""
    sizes = {"image_size": recipe.image_size, "limit": recipe.limit}
    dataset = load(recipe.dataset, "train", **sizes, **(options or {}))
    streams.check(dataset, recipe.batch_size)
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
    if (run.path / "data.json").exists():
        before = run.read_json("data.json")["fingerprint"]
        if before != dataset.fingerprint:
            raise RunError(
                "the run began with other data",
                where=str(run.path),
                seen=f"fingerprint {dataset.fingerprint}",
                allowed=before,
                next_step="choose another directory with --out, or begin anew with --overwrite",
            )
    else:
        run.write_json("data.json", facts)
    return dataset


def _last_genotype(run):
    """The genotype of a finished search, from its last epoch if its file is gone."""
    if not (run.path / GENOTYPE).is_file():
        last = max(row["epoch"] for row in run.read_metrics())
        run.write_json(GENOTYPE, run.read_json(f"epochs/{last:04d}.json")["genotype"])
    return genotypes.from_dict(run.read_json(GENOTYPE), str(run.path / GENOTYPE))


def degenerate(genotype, ops):
    """Why a genotype is degenerate, in a sentence; None if it is not: no convolution, or every edge a skip or a pool."""
    kinds = {OPS[ops][name].kind for name, _ in genotype.normal + genotype.reduce}
    return None if "conv" in kinds else f"no convolution, only {', '.join(sorted(kinds))}"


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
        return genotypes.load(path), None
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
    facts, weights = run.read_json("data.json"), loaded[0]
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
    model = TrainingModel(network, SGD(0.0), normalize=functools.partial(augment.normalize, mean=test.mean, deviation=test.deviation))
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
        "selection": "last epoch; nothing was selected on these images",
        "backend": keras.backend.backend(),
    }
    atomic.write(Path(path) / "evaluation.json", (atomic.dumps(report, "evaluation", indent=1) + "\n").encode())
    return report


def _refuse_other_classes(test, facts):
    expected, shape = tuple(facts["class_names"]), tuple(facts["shape"])
    if test.class_names != expected:
        raise DataError("the classes are not those of the training", seen=list(test.class_names), allowed=list(expected))
    if test.images.shape[1:] != shape:
        raise DataError("the images are not of the training's size", seen=test.images.shape[1:], allowed=shape)


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

    Path(out).parent.mkdir(parents=True, exist_ok=True)
    check_destination(Path(out), opset, overwrite)
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

    rows = run.read_metrics()
    cells.draw_genotype(found, run.path / "cells.png", title=f"{run.path.name}: epoch {rows[-1]['epoch'] + 1}")
    curves.draw_metrics(rows, run.path / "metrics.png")
    alphas = [strict_json.load(file)["alphas"] for file in sorted((run.path / "epochs").glob("*.json"))]
    for kind, name in enumerate(("normal", "reduce")):
        by_epoch = np.array([epoch[kind] for epoch in alphas])  # (T, E, P)
        curves.draw_alphas(by_epoch, space.primitive_names, run.path / f"alphas_{name}.png", title=f"{name} cell")


def _draw_training(run, found):
    from sharpkeras.view import cells, curves

    cells.draw_genotype(found, run.path / "cells.png", title=found.name)
    curves.draw_metrics(run.read_metrics(), run.path / "metrics.png")
