"""Test errors: top-1 and top-5, the answers behind them, other data, and how the weights were selected."""

import dataclasses
import errno
import functools
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from support.command_line import files_below, make_images, sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("the finished runs are TensorFlow's", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.data import Dataset, augment, load
from sharpkeras.data.arrays import CIFAR10_CLASSES
from sharpkeras.errors import DataError, NumericalError, RunError
from sharpkeras.experiment import evaluate, paper_tables
from sharpkeras.io import atomic_writes
from sharpkeras.measure.error_rate import clopper_pearson
from sharpkeras.optimizers import SGD
from sharpkeras.paper import published
from sharpkeras.recipes import TrainRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.spaces import state_dict
from sharpkeras.spaces.network_spec import NetworkSpec
from sharpkeras.training.training_model import TrainingModel

HELD_OUT = {"by": "held_out", "epoch": 12, "epochs": 30, "accuracy": 0.99, "images": 143}
BY_TEST = {"by": "test", "epoch": 12, "epochs": 30, "accuracy": 0.99, "images": 359}
LABEL = "TEST-SELECTED"


@pytest.fixture
def train(finished, tmp_path, monkeypatch):
    """A finished training, and beside it test images of its classes under another name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "train", "train")
    for split in ("train", "test"):
        digits = load("digits", split, limit=40)
        for index, (image, label) in enumerate(zip(digits.images, digits.labels)):
            folder = Path("photos", split, digits.class_names[label])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f"{index:03}.png")
    return tmp_path / "train"


def select(run, selection):
    """Makes the weights of a run those of this selection."""
    arrays, meta = atomic_writes.load_arrays(run / "weights.safetensors")
    atomic_writes.save_arrays(run / "weights.safetensors", arrays, {**meta, "selection": selection})


def answers(run, suffix=""):
    report = json.loads((run / f"evaluation{suffix}.json").read_text())
    return report, *atomic_writes.load_arrays(run / f"predictions{suffix}.safetensors")


# --- errors and answers ---


def test_the_answers_are_those_behind_the_errors(train):
    report, arrays, meta = answers(train)
    test = load("digits", "test")
    assert arrays["labels"].dtype == np.int32 and arrays["classes"].shape == (359, 5)
    assert np.array_equal(arrays["labels"], test.labels)
    assert report["errors"] == np.sum(arrays["classes"][:, 0] != test.labels)
    assert report["top5"]["errors"] == np.sum((arrays["classes"] != test.labels[:, None]).all(axis=1))
    assert report["fingerprint"] == meta["fingerprint"] == test.fingerprint and meta["dataset"] == "digits"


def test_both_errors_come_with_their_interval(train):
    report, _, _ = answers(train)
    for rate in (report, report["top5"]):
        assert rate["n"] == 359 and rate["error"] == rate["errors"] / 359
        assert tuple(rate["interval"]) == clopper_pearson(rate["errors"], 359)
        assert "95 % interval" in rate["text"] and "n = 359" in rate["text"]
    out = sharpkeras("evaluate", "train").out
    assert f"digits, test: error {report['text']}\ndigits, test: top-5 error {report['top5']['text']}\n" in out


def test_the_classes_are_the_networks_best_ones(train):
    network, *_ = paper_tables.trained_network(train)
    facts = json.loads((train / "data.json").read_text())
    images = load("digits", "test").images[:40]
    logits = np.asarray(network(augment.normalize(images, facts["mean"], facts["deviation"]))["logits"])
    _, arrays, _ = answers(train)
    picked = np.take_along_axis(logits, arrays["classes"][:40], axis=1)
    assert picked == pytest.approx(np.sort(logits, axis=1)[:, :-6:-1], abs=1e-5)


class Shelf:
    """Images that are made when they are asked for, as those of a dataset on disk; notes how many at a time."""

    def __init__(self, n):
        self.n, self.most = n, 0
        self.shape = (n, 2, 2, 1)

    def __len__(self):
        return self.n

    def __getitem__(self, indices):
        self.most = max(self.most, len(indices))
        return np.asarray(indices).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 1))


def shelf(logits):
    """A model that answers image i by row i of `logits`, and the test images for it."""
    count, classes = logits.shape
    names = tuple(map(str, range(classes)))
    test = SimpleNamespace(images=Shelf(count), labels=np.arange(count) % classes, class_names=names)

    def answer(batches):
        return np.concatenate([logits[images[:valid, 0, 0, 0].astype(int)] for images, _, valid in batches])

    return SimpleNamespace(logits=answer), test


@pytest.mark.parametrize("classes", [2, 5, 6, 11])
def test_top_5_where_there_are_more_than_5_classes(classes):
    logits = np.random.default_rng(0).integers(0, 4, (50, classes)).astype("float32")  # with ties
    model, test = shelf(logits)
    errors, found, _ = evaluate._answers(model, test, batch_size=16)
    order = np.argsort(-logits, axis=1, kind="stable")
    assert np.array_equal(found, order[:, :5])
    expected = {k: sum(label not in row[:k] for label, row in zip(test.labels, order)) for k in (1, 5)}
    assert errors == (expected if classes > 5 else {1: expected[1]})


def test_images_on_disk_are_read_a_batch_at_a_time():
    model, test = shelf(np.eye(50, 10))
    evaluate._answers(model, test, batch_size=16)
    assert test.images.most == 16


def test_an_answer_that_is_no_number_is_no_answer():
    model, test = shelf(np.full((50, 10), np.nan, "float32"))
    with pytest.raises(NumericalError):
        evaluate._answers(model, test, batch_size=16)


# --- a run that cannot be written ---


def refusing(number):
    """As a file system that is read-only or full, or a folder without permission; nothing of it is there for root."""

    def refuse(path, flags):
        raise OSError(number, os.strerror(number), str(path))

    return refuse


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 5), (errno.EACCES, 5), (errno.ENOSPC, 7)])
def test_an_error_is_told_where_it_can_not_be_kept(train, monkeypatch, number, code):
    expected = sharpkeras("evaluate", "train").out
    before = files_below(train)
    monkeypatch.setattr(atomic_writes, "_anew", refusing(number))
    result = sharpkeras("evaluate", "train")
    assert result.code == code and "error" in result.out
    assert expected.startswith(result.out) and result.out + "Next: sharpkeras export train\n" == expected
    assert "the evaluation was not kept in the run" in result.err and "evaluate a copy" in result.err
    result = sharpkeras("evaluate", "train", "--json")
    assert result.code == code and result.json["n"] == json.loads(result.out)["n"] > 0
    assert json.loads(result.err.splitlines()[-1])["exit_code"] == code
    assert files_below(train) == before


def test_an_evaluation_makes_no_directory_anew(train):
    """One that is deleted, or becomes another run, while its network answers."""

    def evaluated(loss):
        with pytest.raises(RunError, match="was not kept in the run"):
            sk.evaluate("train", tell=lambda report: loss())

    facts = json.loads((train / "run.json").read_text())
    (train / "evaluation.json").unlink()
    evaluated(lambda: (train / "run.json").write_text(json.dumps({**facts, "created": "2020"})))
    assert not (train / "evaluation.json").exists()
    evaluated(lambda: shutil.rmtree("train"))
    assert not train.exists()


# --- other data ---


def test_other_data_stand_beside_the_own(train):
    before = {name: (train / name).read_bytes() for name in ("evaluation.json", "predictions.safetensors")}
    result = sharpkeras("evaluate", "train", "--data", "folder:photos", "--json")
    assert result.code == 0, result.err
    assert {name: (train / name).read_bytes() for name in before} == before
    (name,) = (path.stem for path in train.glob("evaluation-*.json"))
    assert re.fullmatch(r"evaluation-folder-photos-[0-9a-f]{8}", name)
    report, arrays, meta = answers(train, name.removeprefix("evaluation"))
    printed = {"kind": "evaluation", **result.json, "findings": report["findings"]}  # whose settings print as flags
    assert report == printed and report["n"] == len(arrays["labels"]) == 40
    assert [text.replace("`epochs`", "--epochs") for text in report["findings"]] != report["findings"]
    assert "--epochs" in result.json["findings"][0] and "`" not in result.json["findings"][0]
    assert report["fingerprint"] == meta["fingerprint"] != json.loads(before["evaluation.json"])["fingerprint"]


def test_the_own_data_by_name_are_the_own_data(train):
    assert sharpkeras("evaluate", "train", "--dataset", "digits").code == 0
    assert not list(train.glob("*-*.json"))


@pytest.mark.parametrize("spec", ["folder:../../etc", "cifar10.1:a b/v6", "folder:/" + "x" * 300, "folder:é\n*"])
def test_a_spec_becomes_a_file_name(spec):
    suffix = evaluate._suffix(spec, "digits")
    assert re.fullmatch(r"-[A-Za-z0-9][A-Za-z0-9.-]*-[0-9a-f]{8}", suffix) and len(suffix) < 60


def test_two_specs_never_share_a_file():
    specs = ["folder:a/b", "folder:a-b", "folder:a:b", "folder-a-b", "cifar10"]
    assert len({evaluate._suffix(spec, "digits") for spec in specs}) == len(specs)
    assert evaluate._suffix("cifar10", "digits") == "-cifar10" and evaluate._suffix("digits", "digits") == ""


def test_other_classes_are_refused(train):
    make_images(train.parent / "cats" / "train", {"cat": 2, "dog": 2})
    make_images(train.parent / "cats" / "test", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="classes are not those of the training"):
        sk.evaluate(train, "folder:cats")


def test_classes_in_another_form_of_unicode_are_the_same_classes():
    composed, decomposed = "é", "e\u0301"  # which come in another order: e and its accent before f, é behind z
    facts = {"class_names": [decomposed, "f"], "shape": [1, 1, 1]}
    images, labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.array([0, 0, 0, 1])
    test = Dataset("folder:x", images, labels, ("f", composed), (0.5,), (0.5,), True)
    trained = evaluate._as_trained(test, facts)
    assert trained.class_names == (decomposed, "f") and trained.labels.tolist() == [1, 1, 1, 0]
    assert trained.images is images and evaluate._as_trained(trained, facts) is trained
    with pytest.raises(DataError, match="classes are not those of the training"):
        evaluate._as_trained(dataclasses.replace(test, class_names=("f", "e")), facts)
    with pytest.raises(DataError, match="not of the training's size") as caught:
        evaluate._as_trained(test, {**facts, "shape": [2, 1, 1]})
    assert "--" not in caught.value.next_step


def untrained(path, dataset, size, names, **settings):
    """The run directory of a network with its first weights, without any training."""
    recipe = TrainRecipe(dataset=dataset, init_channels=2, num_cells=2, **settings)
    found = published.genotype("DARTS_V2")
    content = {"settings": recipe.as_dict(), "genotype": found.as_dict(), "backend": "tensorflow"}
    shape, channels = [size, size, 3], [0.5, 0.5, 0.5]
    facts = {"fingerprint": "0", "shape": shape, "class_names": names, "mean": channels, "deviation": channels}
    with RunDirectory.open(path, "train", content) as run:
        run.write_json("data.json", facts)
        network = NetworkSpec(recipe, shape, len(names)).build(found)
        run.save_arrays("weights.safetensors", state_dict.state_dict(network), {})
        run.mark_finished()


def test_cifar10_1_from_the_arrays_of_its_authors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("cifar10.1_v6_data.npy", generator.integers(0, 256, (2000, 32, 32, 3), np.uint8))
    np.save("cifar10.1_v6_labels.npy", np.arange(2000, dtype=np.int32) % 10)
    untrained("run", "cifar10", 32, list(CIFAR10_CLASSES), random_resized_crop=True)  # of which arrays have none
    result = sharpkeras("evaluate", "run", "--data", "cifar10.1:.")
    assert result.code == 0, result.err
    assert re.search(
        r"cifar10\.1:\., test: error \d+\.\d+ % \(95 % interval .*, n = 2000, Clopper–Pearson\)", result.out
    )
    assert "not the published bytes of CIFAR-10.1" in result.err


@pytest.mark.parametrize("crops", [False, True])
def test_a_fingerprint_is_of_the_images_on_disk_or_not(tmp_path, monkeypatch, crops):
    monkeypatch.chdir(tmp_path)
    for split, seed in (("train", 0), ("test", 1)):
        make_images(tmp_path / "photos" / split, {"cat": 3, "dog": 4}, seed=seed)
    sizes = {"image_size": 12, "random_resized_crop": crops}
    untrained("run", "folder:photos", 12, ["cat", "dog"], **sizes)
    report = sk.evaluate("run", batch_size=3)
    assert report["fingerprint"] == load("folder:photos", "test", image_size=12).fingerprint
    assert report["n"] == 7 and report["top5"] is None


# --- how the weights were selected ---


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (None, "last epoch; nothing was selected on these images"),
        ({"by": "last", "epoch": 29, "epochs": 30}, "epoch 30 of 30, the last; nothing was selected on these images"),
        (HELD_OUT, "epoch 13 of 30, the best on 143 held-out training images; nothing was selected on these images"),
    ],
)
def test_an_honest_selection_in_words(train, selection, words):
    arrays, _ = atomic_writes.load_arrays(train / "weights.safetensors")
    atomic_writes.save_arrays(train / "weights.safetensors", arrays, {"selection": selection} if selection else {})
    out = sharpkeras("evaluate", "train").out
    assert f"weights: {words}\n" in out and LABEL not in out
    report, _, meta = answers(train)
    assert report["selection"] == meta["selection"] == words and report["label"] is meta["label"] is None


def test_row_64_every_number_of_test_selected_weights_says_so(train):
    select(train, BY_TEST)
    out = sharpkeras("evaluate", "train").out
    numbers = [line for line in out.splitlines() if "%" in line or "epoch" in line]
    assert len(numbers) == 3 and all(LABEL in line for line in numbers)
    assert f"weights: {LABEL}: epoch 13 of 30, the best on these very images" in out
    report, _, meta = answers(train)
    assert report["label"] == meta["label"] == LABEL
    assert all(text.startswith(LABEL) for text in (report["text"], report["top5"]["text"], meta["selection"]))


def test_row_64_on_other_images_it_says_which_selected(train):
    select(train, BY_TEST)
    report = sharpkeras("evaluate", "train", "--data", "folder:photos", "--json").json
    words = f"{LABEL}: epoch 13 of 30, the best on the test images of digits; none of these selected"
    assert report["selection"] == words and report["text"].startswith(LABEL)


# --- the trained network as a Keras model ---


def test_a_loaded_run_answers_as_its_evaluation(train, tmp_path):
    model, test = sk.load(train), load("digits", "test")
    report, arrays, _ = answers(train)
    assert test.images.dtype == np.uint8 and model.class_names == list(test.class_names)
    logits = model.predict(test.images, batch_size=256, verbose=0)
    best = np.argsort(-logits, axis=1, kind="stable")
    assert np.array_equal(best[:, :5], arrays["classes"])
    assert (best[:, 0] != test.labels).sum() == report["errors"]
    network, *_ = paper_tables.trained_network(train)
    normalize = functools.partial(augment.normalize, mean=test.mean, std=test.std)
    evaluated = TrainingModel(network, SGD(0.0), normalize=normalize)
    batches = [(test.images[:64], test.labels[:64], 64)]
    np.testing.assert_array_equal(model.predict_on_batch(test.images[:64]), evaluated.logits(batches))
    assert model.network.count_params() == network.count_params()


def test_it_is_saved_loaded_and_trained_on(train, tmp_path):
    model, test = sk.load(train), load("digits", "test")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and loaded.class_names == model.class_names
    images = test.images[:40]
    np.testing.assert_array_equal(loaded.predict_on_batch(images), model.predict_on_batch(images))
    loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = loaded.evaluate(images, test.labels[:40], verbose=0)
    loaded.fit(images, test.labels[:40], epochs=3, verbose=0)
    assert loaded.evaluate(images, test.labels[:40], verbose=0) < before


def test_images_of_another_size_are_refused(train):
    with pytest.raises(DataError, match=r"not of the training's size"):
        sk.load(train)(np.zeros((2, 9, 8, 1), "uint8"))
