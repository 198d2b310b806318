"""Which epoch's weights are the result of a training, which images decide that, and what a stop changes of it."""

import os

import numpy as np
import pytest

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these runs are TensorFlow's", allow_module_level=True)

import dataclasses

from support.tiny_recipes import GENOTYPE, TRAIN_RECIPE

import sharpkeras as sk
from sharpkeras.data import batches as streams
from sharpkeras.experiment import train as training
from sharpkeras.io import atomic_writes
from sharpkeras.runs import RunDirectory


def recipe(**settings):
    return dataclasses.replace(TRAIN_RECIPE, **{"epochs": 4, "warmup_epochs": 0, **settings})


def trained(out, **settings):
    """The weights of a training with how they were selected, its metrics, and the weights after each epoch."""
    after_epochs = []
    run_training = training.run_training

    def noted(model, run, epochs, *arguments, weights, **options):
        write = run.write_metrics

        def write_and_note(rows):
            if rows:
                with model.averaged_weights():
                    after_epochs.append({name: array.copy() for name, array in weights().items()})
            write(rows)

        run.write_metrics = write_and_note
        return run_training(model, run, epochs, *arguments, weights=weights, **options)

    training.run_training = noted
    try:
        sk.train(GENOTYPE, out, recipe=recipe(**settings))
    finally:
        training.run_training = run_training
    arrays, meta = atomic_writes.load_arrays(out / "weights.safetensors")
    return arrays, meta["selection"], RunDirectory.read(out).read_metrics(), after_epochs


def same(arrays, others):
    return arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_the_weights_are_those_of_the_best_epoch_on_images_held_out(tmp_path):
    arrays, selection, metrics, after_epochs = trained(tmp_path / "run", held_out=0.2)
    accuracies = [row["held_out_accuracy"] for row in metrics]
    best = max(range(4), key=lambda epoch: (accuracies[epoch], epoch))  # of equally good ones the latest
    assert selection == {
        "by": "held_out",
        "epoch": best,
        "epochs": 4,
        "accuracy": accuracies[best],
        "images": 16,
    }
    assert [same(arrays, weights) for weights in after_epochs] == [epoch == best for epoch in range(4)]


def test_what_selects_is_not_trained_on(tmp_path, monkeypatch):
    seen, asked = [], []
    batches, evaluation = streams.batches, streams.evaluation_batches
    monkeypatch.setattr(
        streams,
        "batches",
        lambda images, labels, indices, *a, **k: seen.extend(indices) or batches(images, labels, indices, *a, **k),
    )
    monkeypatch.setattr(
        streams,
        "evaluation_batches",
        lambda images, labels, size, indices=None: asked.extend(indices) or evaluation(images, labels, size, indices),
    )
    sk.train(GENOTYPE, tmp_path / "run", recipe=recipe(held_out=0.25))
    assert set(seen) | set(asked) == set(range(80)) and not set(seen) & set(asked) and len(set(asked)) == 20


def test_the_last_epoch_trains_on_all(tmp_path):
    arrays, selection, metrics, after_epochs = trained(tmp_path / "run", selection="last")
    assert selection == {"by": "last", "epoch": 3, "epochs": 4} and same(arrays, after_epochs[-1])
    assert metrics[0]["steps"] == 5 and "held_out_accuracy" not in metrics[0]


def test_the_papers_protocol_is_marked(tmp_path):
    _, selection, metrics, _ = trained(tmp_path / "run", selection="test")
    assert selection["by"] == "test" and selection["images"] == 359
    assert selection["accuracy"] == max(row["test_accuracy"] for row in metrics)


def test_a_moving_average_is_the_result(tmp_path):
    arrays, _, _, after_epochs = trained(tmp_path / "ema", selection="last", ema=0.9)
    plain, _, _, _ = trained(tmp_path / "plain", selection="last")
    assert same(arrays, after_epochs[-1]) and not same(arrays, plain)
    # Statistics of BatchNorm are those of the training, which the average does not touch.
    assert np.array_equal(arrays["stem.1.running_mean"], plain["stem.1.running_mean"])


def test_accumulated_steps_make_fewer_updates(tmp_path):
    _, _, metrics, _ = trained(tmp_path / "run", selection="last", accumulate=2, learning_rate=0.1, power=1.0)
    rates = [row["learning_rate"] for row in metrics]  # 5 steps an epoch, an update every second: 10 in all
    expected = [0.1 * 0.5 * (1 + np.cos(np.pi * updates / 10)) for updates in (0, 2, 5, 7)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
