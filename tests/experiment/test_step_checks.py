"""Runs whose settings leave the weights where they were: refused or told before they begin."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from support.command_line import make_images, sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

from sharpkeras.errors import ConfigError, DataError
from sharpkeras.experiment import builders, step_checks
from sharpkeras.optimizers import SGD
from sharpkeras.recipes import SearchRecipe, TrainRecipe

TINY = ["--init-channels", "2", "--num-cells", "2", "--batch-size", "8", "--epochs", "2", "--warmup-epochs", "0"]
GENOTYPE = {"normal": [["skip_connect", 0], ["skip_connect", 1]], "normal_concat": [2]}
GENOTYPE |= {"reduce": [["max_pool_3x3", 0], ["max_pool_3x3", 1]], "reduce_concat": [2]}
TRAIN = ["train", "genotype.json", *TINY, "--out", "new"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("genotype.json").write_text(json.dumps(GENOTYPE))
    for split in ("train", "test"):
        make_images(tmp_path / "photos" / split, {"cat": 10, "dog": 10}, size=(8, 8))
    return tmp_path


# --- accumulated gradients ---


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_more_steps_to_an_update_than_there_are(dry):
    """40 images, of which 36 are trained on by eights: 4 steps in each of 2 epochs."""
    result = sharpkeras(*TRAIN, "--limit", "40", "--accumulate", "9", *dry)
    assert result.code == 3, result.err
    for part in ("accumulate", "before its first update", "9, and 8 steps in all: 2 epochs of 4", "1 to 8", "--epochs"):
        assert part in result.err
    assert not Path("new").exists()


def test_as_many_as_there_are_make_one():
    recipe = TrainRecipe(epochs=2, warmup_epochs=0, accumulate=8)
    assert step_checks.check(recipe, steps=4) == []
    with pytest.raises(ConfigError, match="8, and 7 steps in all"):
        step_checks.check(TrainRecipe(epochs=7, warmup_epochs=0, accumulate=8), steps=1)


@pytest.mark.parametrize(
    ("accumulate", "epochs", "steps", "told"),
    [
        (1, 3, 7, None),
        (7, 3, 7, None),
        (3, 3, 7, None),  # 21 steps: what an epoch leaves over goes into the next one
        (4, 3, 7, "the last step makes no update"),
        (5, 1, 8, "the last 3 of all 8 steps make no update"),
    ],
)
def test_what_the_end_of_a_run_loses_is_told(accumulate, epochs, steps, told):
    notes = step_checks.check(TrainRecipe(epochs=epochs, warmup_epochs=0, accumulate=accumulate), steps)
    assert [told in note for note in notes] == ([True] if told else [])


def test_gradients_left_over_go_into_the_first_update_of_the_next_epoch():
    """Against SGD by hand: two epochs of three steps, two steps to an update: three updates."""
    weight, gradients = keras.Variable(np.zeros(1, "float32")), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    sgd = SGD(0.5, momentum=0.0, l2=0.0, global_clipnorm=None, gradient_accumulation_steps=2)
    sgd.build([weight])
    for epoch in range(2):
        for gradient in gradients[3 * epoch : 3 * epoch + 3]:
            sgd.apply([np.array([gradient], "float32")], [weight])
    assert float(weight.numpy()[0]) == -0.5 * (1.5 + 6.0 + 24.0)


# --- siblings ---


def test_a_batch_larger_than_what_is_held_out_leaves():
    """20 images, of which 10 % are held out, make no batch of 19."""
    data = ["--dataset", "folder:photos", "--cutout-px", "0"]
    result = sharpkeras(*TRAIN, *data, "--batch-size", "19")
    assert result.code == 4 and "--held-out" in result.err and "batch of 19" in result.err, result.err
    assert not Path("new").exists()
    with pytest.raises(DataError):
        step_checks.check(TrainRecipe(selection="last"), steps=0)


def test_a_rate_of_nothing_is_told():
    assert step_checks.rates(TrainRecipe(learning_rate=0.0, min_learning_rate=0.0)) == [
        "learning_rate is 0: no step changes the weights"
    ]
    assert step_checks.rates(SearchRecipe(arch_learning_rate=0.0)) == [
        "arch_learning_rate is 0: no step changes the alphas"
    ]
    assert step_checks.rates(TrainRecipe()) == step_checks.rates(SearchRecipe()) == []


@pytest.mark.parametrize("epochs", [1, 2, 3, 50])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_no_warm_up_leaves_a_run_without_a_rate(epochs, steps, accumulate):
    """However few its updates are, and however many of them warm up."""
    for warmup in range(epochs):
        recipe = TrainRecipe(epochs=epochs, warmup_epochs=warmup, min_learning_rate=0.0, accumulate=accumulate)
        sgd = builders._sgd(recipe, steps / accumulate)
        rates = np.asarray(sgd._learning_rate(np.arange(max(1, epochs * steps // accumulate))))
        assert rates.max() > 0 and rates[0] > 0


def test_a_moving_average_that_has_hardly_moved_is_told():
    """After n updates it still has ema^(n - 1) of the first weights: 0.99^9 = 91 %, 0.9^9 = 39 %."""
    notes = step_checks.check(TrainRecipe(epochs=10, warmup_epochs=0, ema=0.99), steps=1)
    assert len(notes) == 1 and "91% of the moving average" in notes[0] and "10 updates" in notes[0]
    assert step_checks.check(TrainRecipe(epochs=10, warmup_epochs=0, ema=0.9), steps=1) == []
    average = 1.0
    for _ in range(9):
        average = 0.99 * average  # of weights that are 1 after the first update and 0 after it
    assert round(average, 2) == 0.91


def test_what_a_run_works_on_is_the_first_that_it_says_and_in_its_log():
    result = sharpkeras(*TRAIN, "--limit", "40", "--learning-rate", "0", "--min-learning-rate", "0")
    assert result.code == 0, result.err
    line = "digits: 36 images to train on, 4 images held out; 10 classes, 8×8×1; tensorflow on cpu:0, float32"
    assert f"train: {line}\n" in result.err and "note: learning_rate is 0" in result.err
    log = Path("new/log.txt").read_text()
    assert line in log and "learning_rate is 0" in log
    evaluated = sharpkeras("evaluate", "new")
    assert "digits: 359 images of the test split; 10 classes, 8×8×1; tensorflow on cpu:0" in evaluated.err
