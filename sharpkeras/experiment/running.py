"""The search and the final training, each from its recipe to the files of its run directory."""

import contextlib
import functools

import keras
import numpy as np

from sharpkeras import from_torch
from sharpkeras.data import augment, load, streams
from sharpkeras.errors import ResourceError, RunError, is_out_of_memory, printable
from sharpkeras.experiment import architectures, assembly, budgets
from sharpkeras.loop import Silent, refuse_full_disk
from sharpkeras.measure import cost
from sharpkeras.runs import RunDirectory
from sharpkeras.search.loop import search as run_search
from sharpkeras.training.loop import train as run_training

WEIGHTS = "weights"
DATA = "data.json"
EQUAL_ALPHAS = 1e-6  # logits that differ by less were never learned


def search(
    recipe, out, overwrite=False, must_exist=False, progress=None, data_options=None, check_disk=True, space=None
):
    """Searches an architecture and leaves it in the run directory `out`, with alphas, metrics and pictures.

    Args:
        recipe: SearchRecipe.
        out: the run directory; a run of the same recipe goes on where it was.
        overwrite, must_exist: see `RunDirectory.reserve`.
        progress: see `loop.Silent`.
        data_options: further arguments of `data.load`, such as download.
        check_disk: see `loop.refuse_full_disk`.
        space: a HyperCuboid of one's own, instead of the recipe's space.

    Returns:
        The Genotype or Path.
    """
    settings = {"settings": recipe.as_dict(), "backend": keras.backend.backend(), **_described(space)}
    space, progress = space or assembly.search_space(recipe), progress or Silent()
    with RunDirectory.reserve(out, "search", settings, overwrite, must_exist) as run:
        if run.finished:
            progress.complete()
            run.begin()
        else:
            found = _search(recipe, space, run, progress, data_options, check_disk)
            run.write_json(architectures.file_name(found.kind), found.as_dict())
            run.mark_finished()
        found = _last_found(run)
        _draw_search(run, space, found)
        return found


def _described(space):
    """What a run keeps of a HyperCuboid that was defined in Python."""
    return {} if space is None else {"space": space.as_dict()}


def _search(recipe, space, run, progress, data_options, check_disk):
    # Test images are not read here, so that no search can see them.
    dataset = _training_data(recipe, run, progress, data_options)
    weights_half, alphas_half = streams.search_split(len(dataset.images), recipe.train_portion, recipe.batch_size)
    steps = len(weights_half) // recipe.batch_size
    shape, classes = dataset.images.shape[1:], len(dataset.class_names)
    costs = budgets.costs(recipe, space, shape, classes)
    extract = budgets.extraction(recipe, space, costs)
    extract(space.init_alphas(recipe.seed))  # a budget that nothing fits into is told before the search
    with assembly.precision(recipe):
        model = assembly.search_model(recipe, space, dataset, steps, budgets.penalty(recipe, space, costs))
    _begin(run, dataset, model, check_disk)
    with _memory_errors(recipe, model):
        return run_search(
            model,
            run,
            recipe.epochs,
            training=lambda epoch: assembly.batches(recipe, dataset, weights_half, epoch),
            validation=lambda epoch: streams.endless(
                dataset.images,
                dataset.labels,
                alphas_half,
                recipe.batch_size,
                recipe.seed,
                first_step=epoch * steps,
                draws=augment.NUM_DRAWS,
            ),
            held_out=lambda: streams.evaluation_batches(dataset.images, dataset.labels, recipe.batch_size, alphas_half),
            extract=extract,
            describe=_description(recipe, space, shape, classes, costs),
            progress=progress,
        )


def _description(recipe, space, input_shape, num_classes, costs):
    """(architecture, alphas) → what it is made of, the cost of its network, and the cost that the alphas expect."""
    training, input_shape, num_classes = budgets.costed_network(recipe, input_shape, num_classes)

    @functools.cache
    def count(found):
        return assembly.count_cost(found, training, input_shape, num_classes, space)

    def describe(found, alphas):
        kinds, numbers = space.kinds_of(found), count(found)
        counts = {f"found_{kind}s": kinds.count(kind) for kind in ("skip", "pool", "conv")}
        row = {**counts, "found_parameters": numbers.parameters, "found_addmults": numbers.addmults_paper}
        if costs is not None:
            row.setdefault(f"found_{recipe.cost}", space.cost_of(found, costs))
            row[f"expected_{recipe.cost}"] = float(space.expected_cost(alphas, costs))
        return row

    return describe


def train(
    recipe,
    architecture,
    out,
    overwrite=False,
    must_exist=False,
    progress=None,
    data_options=None,
    check_disk=True,
    space=None,
):
    """Trains the network of an architecture and leaves its weights in the run directory `out`.

    Args:
        recipe: TrainRecipe.
        architecture: Genotype or Path.
        out, overwrite, must_exist, progress, data_options, check_disk: as in `search`.
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.

    Returns:
        The cost of the network (see `measure.cost`).
    """
    settings = {"settings": recipe.as_dict(), architecture.kind: architecture.as_dict(), **_described(space)}
    settings["backend"] = keras.backend.backend()
    architectures.from_dict(architecture.as_dict(), architecture.kind, recipe.ops)
    progress = progress or Silent()
    with RunDirectory.reserve(out, "train", settings, overwrite, must_exist) as run:
        if run.finished and run.load_arrays(WEIGHTS) is not None:
            progress.complete()
            run.begin()
            facts = run.read_json(DATA)
            network = assembly.build_network(recipe, architecture, facts["shape"], len(facts["class_names"]), space)
        else:
            build = functools.partial(assembly.build_network, recipe, architecture, space=space)
            network, weights, selection = _train(recipe, build, run, progress, data_options, check_disk)
            run.save_arrays(WEIGHTS, weights, {"keys": "official PyTorch names and layouts", "selection": selection})
            run.mark_finished()
        run.write_json(architectures.file_name(architecture.kind), architecture.as_dict())
        _draw_training(run, architecture)
        return cost.count(network.counted())


def _train(recipe, build, run, progress, data_options, check_disk):
    """The network after its training, the selected weights, and how they were selected."""
    dataset = _training_data(recipe, run, progress, data_options)
    trained_on, selected_on = _selection(recipe, dataset, data_options)
    assembly.seed_initializers(recipe.seed)
    with assembly.precision(recipe):
        network = build(input_shape=dataset.images.shape[1:], num_classes=len(dataset.class_names))
        model = assembly.training_model(recipe, network, dataset, len(trained_on) // recipe.batch_size)
    _begin(run, dataset, model, check_disk)
    with _memory_errors(recipe, model):
        weights, selection = run_training(
            model,
            run,
            recipe.epochs,
            training=lambda epoch: assembly.batches(recipe, dataset, trained_on, epoch),
            drop_path=recipe.drop_path,
            weights=lambda: from_torch.state_dict(network),
            selected_on=selected_on,
            selection=recipe.selection,
            progress=progress,
        )
    return network, weights, selection


def _selection(recipe, dataset, data_options):
    """The indices of the images to train on, and () → batches of those that select the epoch; None for the last one."""
    everything = np.arange(len(dataset.images))
    if recipe.selection == "last":
        return everything, None
    if recipe.selection == "test":
        test = load(recipe.dataset, "test", **assembly.image_options(recipe), **(data_options or {}))
        return everything, lambda: streams.evaluation_batches(test.images, test.labels, recipe.batch_size)
    trained_on, held_out = streams.search_split(len(dataset.images), 1 - recipe.held_out)
    return trained_on, lambda: streams.evaluation_batches(dataset.images, dataset.labels, recipe.batch_size, held_out)


def _training_data(recipe, run, progress, options):
    """The training split, checked to be the one that the run began with."""
    dataset = load(recipe.dataset, "train", limit=recipe.limit, **assembly.image_options(recipe), **(options or {}))
    for note in (*dataset.notes, *_precision_notes(recipe)):
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


def _precision_notes(recipe):
    on_cpu = not any(device.startswith(("gpu", "tpu")) for device in keras.distribution.list_devices())
    return [f"{recipe.precision} is slower than float32 on a CPU"] if on_cpu and recipe.precision != "float32" else []


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


def _last_found(run):
    """The architecture of a finished search, from its last epoch if its file is gone."""
    if architectures.in_run(run) is None:
        epoch = run.read_json(last_epoch(run))
        kind = next(kind for kind in architectures.KINDS if kind in epoch)
        run.write_json(architectures.file_name(kind), epoch[kind])
    return architectures.in_run(run)


def last_epoch(run):
    """The file of the alphas with which a finished search ended."""
    return f"epochs/{_metrics(run)[-1]['epoch']:04d}.json"


def _metrics(run):
    """The metrics of a finished run, a row per epoch."""
    rows = run.read_metrics()
    if not rows:
        raise RunError("has lost its metrics", where=str(run.path / "metrics.jsonl"), next_step="run it anew")
    return rows


def degenerate(recipe, out):
    """Why what the search in the run directory `out` found is degenerate, in a sentence; None if it is not."""
    run, space = RunDirectory.read(out, "search"), assembly.search_space(recipe)
    kinds = set(space.kinds_of(architectures.in_run(run)))
    if "conv" not in kinds:
        return f"no convolution, only {', '.join(sorted(kinds))}"
    decisions = space.decisions(run.read_json(last_epoch(run))["alphas"]).values()
    equal = [np.ptp(logits) < EQUAL_ALPHAS for made in decisions for logits, _ in made]
    return "all alphas are equal" if all(equal) else None


def _draw_search(run, space, found):
    from sharpkeras.view import collapse, curves

    rows = _metrics(run)
    curves.draw_metrics(rows, run.path / "metrics.png")
    collapse.draw_collapse({run.path.name: rows}, run.path / "collapse.png")
    alphas = [run.read_json(f"epochs/{row['epoch']:04d}.json")["alphas"] for row in rows]
    title = f"{run.path.name}: epoch {rows[-1]['epoch'] + 1}"
    {"genotype": _draw_cells, "path": _draw_cuboid}[found.kind](run, space, found, alphas, title)


def _draw_cells(run, space, found, alphas, title):
    from sharpkeras.view import cells, curves

    cells.draw_genotype(found, run.path / "cells.png", title=title)
    for kind, name in enumerate(("normal", "reduce")):
        by_epoch = np.array([epoch[kind] for epoch in alphas])  # (T, E, P)
        heading = f"{name.replace('reduce', 'reduction')} cell"
        curves.draw_alphas(by_epoch, space.primitive_names, run.path / f"alphas_{name}.png", title=heading)


def _draw_cuboid(run, space, found, alphas, title):
    from sharpkeras.view import hypercuboid

    routes, weights = [space.route(route) for route in found.routes], space.weights(alphas[-1])
    hypercuboid.draw_path(routes, space.lattice, space.choices, weights, run.path / "path.png", title=title)
    hypercuboid.draw_weights(weights, space.choices, run.path / "alphas.png", title=f"weights of {title}")


def _draw_training(run, found):
    from sharpkeras.view import cells, curves

    curves.draw_metrics(_metrics(run), run.path / "metrics.png")
    if found.kind == "genotype":
        cells.draw_genotype(found, run.path / "cells.png", title=found.name)
