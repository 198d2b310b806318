"""A finished search without its minutes: a run directory with drawn alphas, as `search` would have left it."""

from sharpkeras import spaces
from sharpkeras.data import load
from sharpkeras.experiment import builders, search, search_budget
from sharpkeras.runs import RunDirectory, files


def make_found(path, recipe, spread=0.3, backend="tensorflow", accuracy=0.9, **metrics):
    """The run directory of a SearchRecipe after one epoch, its alphas drawn `spread` wide; returns the path."""
    recipe = recipe.priced() if recipe.cost != "none" else recipe
    dataset = load(recipe.dataset, "train", limit=recipe.limit, **builders.image_options(recipe))
    shape, classes = dataset.images.shape[1:], len(dataset.class_names)
    space = spaces.of_recipe(recipe)
    alphas = [a * spread / 1e-3 for a in space.init_alphas(recipe.seed)]
    budget = search_budget.Budget.of(recipe, space, shape, classes)
    architecture = budget.extract(alphas)
    rows = search._description(budget)(architecture, alphas)
    row = {"epoch": 0, "train_loss": 1.0, "train_accuracy": 0.9, "seconds": 1.0, "held_out_images": 400, **rows}
    row |= {"held_out_accuracy": accuracy, "skip_share": 0.1, "pool_share": 0.1, "none_share": 0.1}
    facts = {name: getattr(dataset, name) for name in ("fingerprint", "class_names", "mean")}
    facts["deviation"] = dataset.std
    with RunDirectory.open(path, "search", {"settings": recipe.as_dict(), "backend": backend}) as run:
        run.write_json("data.json", {**facts, "images": len(dataset.images), "shape": list(shape)})
        state = {"alphas": [a.tolist() for a in alphas], architecture.kind: architecture.as_dict()}
        (path / "epochs").mkdir()
        run.write_json("epochs/0000.json", state)
        run.write_metrics([row | metrics])
        run.write_json(files.architecture(architecture.kind), architecture.as_dict())
        run.mark_finished()
    return path
