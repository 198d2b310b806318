"""The search and the final training, each from its recipe to the files of its run directory."""

import contextlib
import functools
import logging

import keras
import numpy as np

from sharpkeras import from_torch, strict_json
from sharpkeras.errors import ResourceError, RunError, SharpKerasError, UsageError, is_out_of_memory, printable
from sharpkeras.experiment import (
    architectures,
    assembly,
    budgets,
    findings,
    forecast,
    pictures,
    prepared,
    records,
    weights,
)
from sharpkeras.experiment.conduct import PLAIN
from sharpkeras.experiment.records import DATA
from sharpkeras.experiment.weights import WEIGHTS
from sharpkeras.loop import Silent, refuse_full_disk
from sharpkeras.measure import cost
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.search.loop import search as run_search
from sharpkeras.training.loop import train as run_training

EQUAL_ALPHAS = 1e-6  # logits that differ by less were never learned

logger = logging.getLogger("sharpkeras")


def search(recipe, out, conduct=PLAIN, progress=None, data_options=None, space=None):
    """Searches an architecture and leaves it in the run directory `out`, with alphas, metrics and pictures.

    Args:
        recipe: SearchRecipe; what its costs and budgets mean, `SearchRecipe.priced` says.
        out: the run directory; a run of the same recipe goes on where it was.
        conduct: Conduct.
        progress: see `loop.Silent`.
        data_options: further arguments of `data.load`, such as download.
        space: a HyperCuboid of one's own, instead of the recipe's space.

    Returns:
        The Genotype or Path.
    """
    _refuse_another(recipe, SearchRecipe)
    recipe = _priced(recipe, out) if space is None else recipe
    settings = {"settings": recipe.as_dict(), "backend": keras.backend.backend(), **_described(space)}
    space, progress = space or assembly.search_space(recipe), progress or Silent()
    with conduct.reserve(out, "search", settings) as run:
        if run.finished:
            progress.complete()
            run.begin()
        else:
            found = _search(recipe, space, run, conduct, progress, data_options)
            run.write_json(architectures.file_name(found.kind), found.as_dict())
            run.mark_finished()
        found = _last_found(run)
        with pictures.missing_on_a_full_disk():
            pictures.draw_search(run, space, found)
        _tell(findings.of_search(run, space))
        return found


def _priced(recipe, out):
    """The recipe with the network that its costs mean; as it is where a run goes on that began without one.

    Before costs had a network by default they meant, where Python had named none, one of the search's own size.
    """
    if recipe.cost == "none":
        return recipe
    with contextlib.suppress(SharpKerasError):  # no run there, or a damaged one, which is told when it is opened
        if RunDirectory.read(out, "search").recipe.get("settings") == recipe.as_dict():
            return recipe
    return recipe.priced()


def _tell(texts):
    for text in texts:
        logger.warning("%s", text)


def _refuse_another(recipe, kind):
    if not isinstance(recipe, kind):
        raise UsageError("another recipe", where="recipe", seen=type(recipe).__name__, allowed=kind.__name__)


def _described(space):
    """What a run keeps of a HyperCuboid that was defined in Python."""
    return {} if space is None else {"space": space.as_dict()}


def _search(recipe, space, run, conduct, progress, data_options):
    # Test images are not read here, so that no search can see them.
    dataset = _checked(run, prepared.training_data(recipe, progress, data_options))
    shape, classes = dataset.images.shape[1:], len(dataset.class_names)
    costs = budgets.costs(recipe, space, shape, classes)
    extract = budgets.extraction(recipe, space, costs)
    extract(space.init_alphas(recipe.seed))  # a budget that nothing fits into is told before the search
    progress.stage("building the supernet")
    made = prepared.search(recipe, space, dataset, conduct.remat, budgets.penalty(recipe, space, costs))
    _begin(run, recipe, dataset, made, conduct, progress)
    with _memory_errors(recipe, conduct):
        return run_search(
            made.model,
            run,
            recipe.epochs,
            data=made.data,
            held_out=made.held_out,
            extract=extract,
            describe=_description(recipe, space, shape, classes, costs),
            **_options(recipe, conduct, progress),
        )


def _options(recipe, conduct, progress):
    """The arguments of `loop.run_epochs` that a search and a training have in common."""
    check = functools.partial(forecast.refuse_too_large, recipe, conduct.remat) if conduct.check_memory else None
    return {"progress": progress, "checkpoint_s": conduct.checkpoint_s, "check": check}


def _description(recipe, space, input_shape, num_classes, costs):
    """(architecture, alphas) → what it is made of, the cost of its network, and the cost that the alphas expect."""
    network = budgets.costed_network(recipe, input_shape, num_classes)

    @functools.cache
    def count(found):
        return assembly.count_cost(found, *network, budgets.costed_space(recipe, space))

    def describe(found, alphas):
        kinds, numbers = space.kinds_of(found), count(found)
        counts = {f"found_{kind}s": kinds.count(kind) for kind in ("skip", "pool", "conv")}
        row = {**counts, "found_parameters": numbers.parameters, "found_addmults": numbers.addmults_paper}
        if costs is not None:
            row.setdefault(f"found_{recipe.cost}", space.cost_of(found, costs))
            row[f"expected_{recipe.cost}"] = float(space.expected_cost(alphas, costs))
        return row

    return describe


def train(recipe, architecture, out, conduct=PLAIN, progress=None, data_options=None, space=None, init=None):
    """Trains the network of an architecture and leaves its weights in the run directory `out`.

    Args:
        recipe: TrainRecipe.
        architecture: Genotype or Path.
        out, conduct, progress, data_options: as in `search`.
        space: the HyperCuboid of a Path, where it is not MultiChannelNet.
        init: weights to begin with, a training run or a file; see `weights.initial`.

    Raises:
        UsageError: for another kind of recipe or architecture.

    Returns:
        The cost of the network (see `measure.cost`).
    """
    _refuse_another(recipe, TrainRecipe)
    if getattr(architecture, "kind", None) not in architectures.KINDS:
        step = "sharpkeras.experiment.architecture(…) reads one from a run or a file, or has the published ones"
        raise UsageError(
            "no architecture", seen=type(architecture).__name__, allowed="a Genotype or a Path", next_step=step
        )
    settings = {"settings": recipe.as_dict(), architecture.kind: architecture.as_dict(), **_described(space)}
    settings["backend"] = keras.backend.backend()
    initial = None if init is None else weights.initial(init)
    if initial is not None:
        settings["initial_weights"] = weights.fingerprint(initial)
    architectures.from_dict(architecture.as_dict(), architecture.kind, recipe.ops)
    progress = progress or Silent()
    with conduct.reserve(out, "train", settings) as run:
        if run.finished and run.load_arrays(WEIGHTS) is not None:
            progress.complete()
            run.begin()
            facts = records.data(run)
            network = assembly.build_network(recipe, architecture, facts["shape"], len(facts["class_names"]), space)
        else:
            build = prepared.building(recipe, architecture, space, initial, init)
            network, trained, selection = _train(recipe, build, run, conduct, progress, data_options)
            run.save_arrays(WEIGHTS, trained, {"keys": "official PyTorch names and layouts", "selection": selection})
            run.mark_finished()
        run.write_json(architectures.file_name(architecture.kind), architecture.as_dict())
        with pictures.missing_on_a_full_disk():
            pictures.draw_training(run, architecture)
        _tell(findings.of_training(run))
        return cost.count(network.counted())


def _train(recipe, build, run, conduct, progress, data_options):
    """The network after its training, the weights that were selected, and how."""
    dataset = _checked(run, prepared.training_data(recipe, progress, data_options))
    progress.stage("building the network")
    made = prepared.training(recipe, build, dataset, conduct.remat, data_options)
    _begin(run, recipe, dataset, made, conduct, progress)
    with _memory_errors(recipe, conduct):
        trained, selection = run_training(
            made.model,
            run,
            recipe.epochs,
            data=made.data,
            drop_path=recipe.drop_path,
            weights=lambda: from_torch.state_dict(made.model.network),
            selected_on=made.held_out,
            selection=recipe.selection,
            **_options(recipe, conduct, progress),
        )
    return made.model.network, trained, selection


def _checked(run, dataset):
    """The dataset; raises RunError where the run began with another one."""
    if run.resumed and run.has(DATA):
        before = records.data(run)["fingerprint"]
        if before != dataset.fingerprint:
            raise RunError(
                "the run began with other data",
                where=str(run.path),
                seen=f"fingerprint {dataset.fingerprint}",
                allowed=before,
                next_step="choose another directory with --out, or begin anew with --overwrite",
            )
    return dataset


def _begin(run, recipe, dataset, made, conduct, progress):
    """Begins the run, now that all that can be wrong with recipe and data would have been found, and says on what."""
    if conduct.check_disk:
        refuse_full_disk(made.model, run.path)
    run.begin()
    line = prepared.in_words(dataset, made.uses, recipe.precision)
    progress.works_on(line)
    logger.info("%s", line)
    for note in made.notes:
        progress.note(note)
        logger.info("note: %s", note)
    facts = {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset.images),
        "uses": made.uses,
        "chance": made.chance,
        "shape": list(dataset.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "deviation": list(dataset.deviation),
        "notes": list(dataset.notes),
        "skipped_files": list(dataset.skipped_files),
    }
    run.write_json(DATA, facts)


@contextlib.contextmanager
def _memory_errors(recipe, conduct):
    """Turns a framework's error for want of memory into one that says what was tried and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = (
            f"out of memory: {printable(str(error).strip().splitlines()[0], 200)}" if str(error) else "out of memory"
        )
        tried, change = forecast.tried(recipe, conduct.remat), forecast.smaller(recipe, conduct.remat)
        raise ResourceError(problem, seen=tried, next_step=f"{change}; --dry-run tells what a step needs") from error


def _last_found(run):
    """The architecture of a finished search, from its last epoch if its file is gone."""
    if architectures.in_run(run) is None:
        epoch = run.read_json(pictures.last_epoch(run))
        kind = next((kind for kind in architectures.KINDS if kind in epoch), "genotype")
        strict_json.require(epoch, {kind: dict}, str(run.path / pictures.last_epoch(run)))
        run.write_json(architectures.file_name(kind), epoch[kind])
    return architectures.in_run(run)


def what_was_not_learned(out):
    """The sentences of `findings` on the finished run in the directory `out`, of a space that recipes know."""
    run = RunDirectory.read(out)
    if run.kind == "train":
        return findings.of_training(run)
    recipe = SearchRecipe.from_dict(records.settings(run), f"{run.path}/recipe.json")
    return findings.of_search(run, assembly.search_space(recipe))


def degenerate(recipe, out):
    """Why what the search in the run directory `out` found is degenerate, in a sentence; None if it is not."""
    run, space = RunDirectory.read(out, "search"), assembly.search_space(recipe)
    kinds = set(space.kinds_of(architectures.in_run(run)))
    if "conv" not in kinds:
        return f"no convolution, only {', '.join(sorted(kinds))}"
    decisions = space.decisions(records.alphas(run, pictures.last_epoch(run), space)).values()
    equal = [np.ptp(logits) < EQUAL_ALPHAS for made in decisions for logits, _ in made]
    return "all alphas are equal" if all(equal) else None
