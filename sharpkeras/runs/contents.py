"""What a run has left beside its architecture, checked when it is read: a stranger may have written it."""

import numpy as np

from sharpkeras.errors import RunError
from sharpkeras.io import json_files

DATA = "data.json"
IMAGES_FORM = {"fingerprint": str, "shape": [int], "class_names": [str]}
LARGEST_SIDE = 65_536
NOTHING = type(None)
EVALUATION_FORM = {
    "dataset": str,
    "fingerprint": str,
    "n": int,
    "errors": int,
    "error": float,
    "interval": [float],
    "text": str,
    "top5": (dict, NOTHING),
    "label": (str, NOTHING),
    "selected": {"by": str},
    "selection": str,
}
AGAIN = "take another copy of the run, or make it anew with the command that wrote it, and `overwrite`"


def settings(run):
    """The settings in a run's recipe; raises ConfigError where it has none, or no number as its seed."""
    form = {"settings": {"seed": int}}
    return json_files.require(run.recipe, form, str(run.path / "recipe.json"))["settings"]


def images(run):
    """What a run keeps of its images: fingerprint, shape, class names; raises ConfigError or RunError where damaged."""
    where = str(run.path / DATA)
    facts = json_files.require(run.read_json(DATA), IMAGES_FORM, where)
    shape, classes = facts["shape"], facts["class_names"]
    if len(shape) != 3 or not all(1 <= side <= LARGEST_SIDE for side in shape):
        raise RunError("has no images of such a shape", where=f"{where}: shape", seen=shape, next_step=AGAIN)
    if len(classes) < 2:
        raise RunError("has too few classes", where=f"{where}: class_names", seen=classes, next_step=AGAIN)
    return facts


def data(run):
    """The same with the statistics that images are normalised by."""
    where = str(run.path / DATA)
    facts = json_files.require(images(run), {"mean": [float], "deviation": [float]}, where)
    deviation = facts["deviation"]
    if not len(facts["mean"]) == len(deviation) == facts["shape"][-1] or not all(number > 0 for number in deviation):
        seen = {name: facts[name] for name in ("mean", "deviation")}
        raise RunError("has statistics of other images", where=where, seen=seen, next_step=AGAIN)
    return facts


def number_of_images(run):
    """How many images a run was given, to train on and to hold out; None where it does not say."""
    number = images(run).get("images")
    return number if type(number) is int and number > 0 else None


def chance(run):
    """The share of right answers that the same answer to every image gives, where a run is evaluated in training.

    That of the commonest class, where the run has kept it; else that of classes of one size.
    """
    facts = images(run)
    share = facts.get("chance")
    return share if type(share) is float and 0 < share <= 1 else 1 / len(facts["class_names"])


def alphas(run, name, space):
    """The alphas in the file `name` of a search, which are those of the space; raises RunError where they are not."""
    where, expected = str(run.path / name), [np.shape(a) for a in space.init_alphas(0)]
    content = json_files.require(run.read_json(name), {"alphas": list}, where)
    try:
        found = [np.asarray(a, "float64") for a in content["alphas"]]
    except (TypeError, ValueError):  # no numbers, or rows of several lengths
        found = []
    shapes = [a.shape for a in found]
    if shapes != expected:
        problem = "has alphas of another space"
        raise RunError(problem, where=f"{where}: alphas", seen=shapes, allowed=expected, next_step=AGAIN)
    return found


def numbers(run, names):
    """The rows of a run's metrics; raises ConfigError where one of these has anything but a number."""
    rows = run.read_metrics()
    for number, row in enumerate(rows, 1):
        form = {name: (float, NOTHING) for name in names if name in row}
        json_files.require(row, form, f"{run.path / 'metrics.jsonl'}, line {number}")
    return rows


def evaluation(run, name):
    """A report of `evaluate` in a run; raises ConfigError where it is none."""
    return json_files.require(run.read_json(name), EVALUATION_FORM, str(run.path / name))


def answers(run, name):
    """What `evaluate` keeps of every image: labels (N,), classes (N, K) and facts; None where it kept nothing.

    Raises:
        RunError: the file is damaged, or holds other arrays.
    """
    loaded = run.load_arrays(name)
    if loaded is None:
        return None
    arrays, meta = loaded
    shapes = {name: array.shape for name, array in arrays.items()}
    labels, classes = shapes.get("labels", ()), shapes.get("classes", ())
    if len(labels) != 1 or len(classes) != 2 or labels[0] != classes[0] or not classes[1]:
        allowed, where = "labels (N,) and classes (N, K)", str(run.path / f"{name}.safetensors")
        raise RunError("holds no answers to images", where=where, seen=shapes, allowed=allowed, next_step=AGAIN)
    return arrays["labels"], arrays["classes"], meta
