"""File names of a run directory: their only home.

A space draws pictures of its own beside METRICS_PICTURE and COLLAPSE_PICTURE.
"""

RUN = "run.json"
RECIPE = "recipe.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
DIVERGED = "diverged.json"
LOG = "log.txt"
LOCK = "lock"
CHECKPOINTS, EPOCHS = "checkpoints", "epochs"  # folders
METRICS_PICTURE, COLLAPSE_PICTURE = "metrics.png", "collapse.png"

# Of a checkpoint, which is a folder in CHECKPOINTS and has a METRICS too.
ARRAYS, PROGRESS, MANIFEST = "arrays.safetensors", "progress.json", "manifest.json"

_EVALUATION, _PREDICTIONS = "evaluation", "predictions"
EVALUATIONS = f"{_EVALUATION}*.json"  # a pattern

SUFFIXES = (".json", ".jsonl", ".safetensors", ".png", ".txt")  # names of a run's files end so


def epoch(number: int) -> str:
    """The file of the alphas and the architecture after an epoch, which counts from 0."""
    return f"{EPOCHS}/{number:04d}.json"


def architecture(kind: str) -> str:
    """The file of an architecture of a kind, such as "genotype"."""
    return f"{kind}.json"


def evaluation(dataset: str = "") -> str:
    """The file of an evaluation's report.

    Args:
        dataset: what the name ends in for other test images than those of the training's own dataset.
    """
    return f"{_EVALUATION}{dataset}.json"


def predictions(dataset: str = "") -> str:
    """The file of an evaluation's answers to every image."""
    return f"{_PREDICTIONS}{dataset}.safetensors"


def predictions_of(evaluation: str) -> str:
    """The file of the answers that belong to the report in the file `evaluation`."""
    return predictions(evaluation.removeprefix(_EVALUATION).removesuffix(".json"))
