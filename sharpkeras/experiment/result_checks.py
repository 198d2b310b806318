"""What a finished run has not learned, in words: a result that is none must not look like one."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sharpkeras import spaces
from sharpkeras.experiment import plots
from sharpkeras.measure.error_rate import clopper_pearson
from sharpkeras.recipes import SearchRecipe
from sharpkeras.runs import RunDirectory, architectures, contents, files
from sharpkeras.searching import collapse
from sharpkeras.spaces import SearchSpace

MORE = "more `epochs` or images, or another `learning_rate`"
EQUAL_ALPHAS = 1e-6  # logits that differ by less were never learned


def of_search(run: RunDirectory, space: SearchSpace) -> list[str]:
    """The findings on a finished search, sentences; none where it has learned something."""
    decisions = space.decisions(contents.alphas(run, plots.last_epoch(run), space))
    rows = _rows(run)
    accuracy = at_chance("held-out accuracy", *_answers(rows[-1:], "held_out"), contents.chance(run))
    return [text for text in (collapse.unlearned(decisions), accuracy, never_fell(rows), never_moved(rows)) if text]


def of_training(run: RunDirectory) -> list[str]:
    """The findings on a finished training: the best of its epochs on what selected it, and its loss."""
    rows, texts = _rows(run), []
    for name, words in (("held_out", "held-out accuracy"), ("test", "test accuracy, TEST-SELECTED,")):
        texts.append(at_chance(f"best {words}", *_answers(rows, name), contents.chance(run)))
    return [text for text in (*texts, never_fell(rows), never_moved(rows)) if text]


def at_chance(what: str, right: int, n: int, chance: float) -> str | None:
    """The sentence to say where an accuracy of `right` among `n` images is not surely above chance; None otherwise.

    Args:
        what: which accuracy, in words.
        right, n: counts; 0 images say nothing.
        chance: the share of the commonest class, which is what an answer without a look at the image can reach.
    """
    if not n:
        return None
    low, high = clopper_pearson(right, n)
    if low > chance:
        return None
    interval = f"95 % interval {100 * low:.1f}–{100 * high:.1f}"
    told = f"the {what} cannot be told from chance: {100 * right / n:.1f} % of {n:,} images ({interval})"
    return f"{told}, {100 * chance:.1f} % is what one answer for all gives; {MORE}"


def never_fell(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The sentence to say where no epoch's loss was below the first one's; None otherwise, and of a single epoch."""
    losses = [row["train_loss"] for row in rows if row.get("train_loss") is not None]
    if len(losses) < 2 or min(losses[1:]) < losses[0]:
        return None
    told = f"the loss never fell: {losses[0]:.3f} in epoch 1, at best {min(losses[1:]):.3f} after it"
    return f"{told}; more `epochs`, or another `learning_rate`"


def never_moved(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The sentence to say where float16 has skipped every step, as the first ones often are; None otherwise."""
    steps = sum(row.get("steps", 0) for row in rows)
    if not steps or sum(row.get("skipped", 0) for row in rows) < steps:
        return None
    told = f"float16 has skipped all {steps:,} steps, whose gradients were not finite: the weights never moved"
    return f"{told}; more `epochs`, until its loss scale fits, or `precision=mixed_bfloat16`"


def _rows(run: RunDirectory) -> list[dict[str, Any]]:
    evaluated = ("held_out_accuracy", "held_out_images", "test_accuracy", "test_images")
    return contents.numbers(run, ("train_loss", "steps", "skipped", *evaluated))


def _answers(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[int, int]:
    """(right answers, images) of the best of the epochs that were evaluated on the images of that name."""
    counts = [(row.get(f"{name}_accuracy"), row.get(f"{name}_images")) for row in rows]
    told = [(share, int(images)) for share, images in counts if share is not None and images and 0 <= share <= 1]
    right = [(round(share * images), images) for share, images in told if images > 0]
    return max(right, default=(0, 0))


def what_was_not_learned(out: str | os.PathLike[str]) -> list[str]:
    """What the finished run in the directory `out` has not learned, sentences; of a space that recipes know."""
    run = RunDirectory.read(out)
    if run.kind == "train":
        return of_training(run)
    recipe = SearchRecipe.from_dict(contents.settings(run), str(run.path / files.RECIPE))
    return of_search(run, spaces.of_recipe(recipe))


def degenerate(recipe: SearchRecipe, out: str | os.PathLike[str]) -> str | None:
    """Why what the search in the run directory `out` found is degenerate, in a sentence; None if it is not."""
    run, space = RunDirectory.read(out, "search"), spaces.of_recipe(recipe)
    kinds = set(space.kinds_of(architectures.in_run(run)))
    if "conv" not in kinds:
        return f"no convolution, only {', '.join(sorted(kinds))}"
    decisions = space.decisions(contents.alphas(run, plots.last_epoch(run), space)).values()
    equal = [np.ptp(logits) < EQUAL_ALPHAS for made in decisions for logits, _ in made]
    return "all alphas are equal" if all(equal) else None
