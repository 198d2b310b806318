"""A run that learned nothing says so: alphas as they began, an accuracy at chance, a loss that never fell."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from support.command_line import make_images, sharpkeras
from support.found import make_found

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.experiment import result_checks
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import architectures
from sharpkeras.searching import collapse
from sharpkeras_cli import flags

BEGAN, CHANCE = "alphas are almost what they were at the beginning", "cannot be told from chance"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos" / "train", {name: 12 for name in ("ant", "bee", "cat", "dog")}, size=(8, 8))
    return tmp_path


def decisions(*weights):
    """One choice for each row of softmax weights."""
    return {"normal": [(np.log(row), ("conv",) * len(row)) for row in weights]}


# --- the alphas ---


def test_weights_of_eleven_to_twelve_hundredths_are_those_of_the_beginning():
    """The case that people met: nine primitives, of which equal ones have 0.111 each."""
    weights = softmax(np.random.default_rng(0).normal(scale=0.015, size=(28, 9)), axis=-1)
    assert {round(weight, 2) for weight in weights.ravel()} == {0.11, 0.12}
    shown = collapse.unlearned(decisions(*weights))
    assert BEGAN in shown and "`epochs`" in shown and "`arch_learning_rate`" in shown
    assert len(shown) <= 300  # what the command line shows of a warning


def test_the_largest_weight_is_relative_to_that_of_equal_ones_in_the_mean_over_the_choices():
    """(0.6 · 2 + 0.25 · 4) / 2 = 1.1, and 0.52 · 2 = 1.04."""
    assert collapse.unlearned(decisions([0.6, 0.4], [0.25, 0.25, 0.25, 0.25])) is None
    assert "1.040 times" in collapse.unlearned(decisions([0.52, 0.48]))


# What the search of the digits had after its last epoch, seed 0, TensorFlow: largest weights of its 28 choices.
DEMO = (1.127, 1.013, 1.319)  # mean, smallest and largest, times 1/9


def test_the_demo_is_no_search_that_learned_nothing():
    rows = []
    for largest in np.linspace(DEMO[0] - 0.1, DEMO[0] + 0.1, 28):
        rows.append([largest / 9, *[(1 - largest / 9) / 8] * 8])
    assert np.mean([9 * row[0] for row in rows]) == pytest.approx(DEMO[0])
    assert collapse.unlearned(decisions(*rows)) is None


# --- the accuracy ---


@pytest.mark.parametrize(
    ("right", "n", "chance"), [(41, 180, 0.25), (6, 6, 0.5), (2, 2, 0.5), (0, 8, 0.1), (60, 180, 0.25)]
)
def test_chance_is_within_the_interval_or_above_it(right, n, chance):
    """Against SciPy's exact test: Clopper and Pearson's interval is made of its one-sided halves."""
    surely_above = binomtest(right, n, chance, alternative="greater").pvalue < 0.025
    sentence = result_checks.at_chance("held-out accuracy", right, n, chance)
    assert (sentence is None) == surely_above
    assert sentence is None or CHANCE in sentence and f"{100 * right / n:.1f} % of {n} images" in sentence


def test_no_images_say_nothing():
    for chance in (0.5, 1.0):  # the second where a single image was held out
        assert result_checks.at_chance("accuracy", 0, 0, chance) is None


# --- the loss ---


@pytest.mark.parametrize(
    ("losses", "fell"), [([2.3, 2.4, 2.31], False), ([2.3, 2.4, 2.2], True), ([2.3], True), ([], True)]
)
def test_a_loss_that_never_fell(losses, fell):
    rows = [{"train_loss": loss} for loss in losses]
    assert (result_checks.never_fell(rows) is None) == fell
    assert fell or "2.300 in epoch 1, at best 2.310" in result_checks.never_fell(rows)


@pytest.mark.parametrize(
    ("epochs", "moved"),
    [
        ([], True),
        ([{"steps": 3}], True),
        ([{"steps": 3, "skipped": 3}, {"steps": 3, "skipped": 2}], True),
        ([{"steps": 3, "skipped": 3}, {"steps": 2, "skipped": 2}], False),
    ],
)
def test_weights_that_float16_never_moved(epochs, moved):
    assert (result_checks.never_moved(epochs) is None) == moved
    assert moved or "all 5 steps" in result_checks.never_moved(epochs)


# --- by command ---


@pytest.mark.parametrize(
    ("spread", "accuracy", "expected"),
    [(0.3, 0.9, []), (0.02, 0.9, [BEGAN]), (0.3, 0.23, [CHANCE]), (0.02, 0.23, [BEGAN, CHANCE])],
)
def test_a_search_says_both_at_its_end_and_when_it_is_complete(place, spread, accuracy, expected):
    """22.7 % where four classes are equally likely, in words and in JSON."""
    data = {"dataset": "folder:photos", "num_nodes": 2, "space": "darts", "batch_size": 8, "epochs": 1, "limit": 40}
    make_found(place / "search", SearchRecipe(**data), spread, accuracy=accuracy)
    flags = [word for name, value in data.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = sharpkeras("search", *flags, "--out", "search", "--json")
    assert result.code == 0, result.err
    found = result.json["findings"]
    assert len(found) == len(expected) and all(part in text for part, text in zip(expected, found))
    assert all(f"warning: {text}\n" in result.err for text in found)
    assert result.json["degenerate"] is None


def test_a_training_that_learned_nothing_says_so_and_its_evaluation_too(place):
    """Without a learning rate the loss cannot fall and the network cannot know anything."""
    make_images(place / "photos" / "test", {name: 10 for name in ("ant", "bee", "cat", "dog")}, size=(8, 8))
    make_found(place / "search", SearchRecipe(dataset="folder:photos", num_nodes=1, space="darts", batch_size=8))
    still = ["--learning-rate", "0", "--min-learning-rate", "0", "--epochs", "2", "--warmup-epochs", "0"]
    tiny = ["--init-channels", "2", "--num-cells", "2", "--crop-padding-px", "0"]
    result = sharpkeras("train", "search", *still, *tiny, "--out", "train", "--json")
    assert result.code == 0, result.err
    assert any("held-out accuracy" in text and CHANCE in text for text in result.json["findings"])
    log = flags.rendered(Path("train/log.txt").read_text(), "train")  # which has settings where the command has flags
    assert all(text in log for text in result.json["findings"])
    evaluated = sharpkeras("evaluate", "train", "--json")
    assert CHANCE in evaluated.json["findings"][0] and "25.0 % is what one answer for all gives" in evaluated.err


def test_chance_is_the_share_of_the_commonest_class(place):
    """Ninety of a hundred images are cats: who always says cat is right on nine of ten, and has learned nothing."""
    for split in ("train", "test"):  # a folder without the latter would lose every fifth image to it
        make_images(place / "pets" / split, {"cat": 90, "dog": 10}, size=(8, 8))
    make_found(place / "found", SearchRecipe(dataset="folder:pets", num_nodes=1, space="darts", batch_size=8))
    recipe = TrainRecipe(dataset="folder:pets", init_channels=2, num_cells=2, epochs=1, warmup_epochs=0, batch_size=8)
    sk.train(architectures.architecture("found"), place / "train", recipe=recipe)
    facts = json.loads(Path("train/data.json").read_text())
    assert facts["uses"] == {"to train on": 90, "held out": 10} and facts["chance"] >= 0.7
