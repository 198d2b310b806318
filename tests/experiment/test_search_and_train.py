"""The whole path on tiny data: what each step leaves, that a stopped run goes on, and what a search may see."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command_line import PRIMITIVES, SEARCH, TRAIN, make_images, sharpkeras
from support.tiny_recipes import SEARCH_RECIPE

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these runs are TensorFlow's; JAX has its own process below", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.data import load
from sharpkeras.experiment import builders, setup
from sharpkeras.io import atomic_writes
from sharpkeras.recipes import SearchRecipe
from sharpkeras.spaces.cell import genotype as genotypes

PICTURES = {"cells.png", "metrics.png"}
LEFT_BY_BOTH = {"run.json", "recipe.json", "data.json", "metrics.jsonl", "genotype.json", "checkpoints", "log.txt"}


# --- what a run leaves ---


def test_a_search_leaves_its_files(finished):
    run = finished / "search"
    alphas = {"alphas_normal.png", "alphas_reduce.png", "collapse.png"}
    assert LEFT_BY_BOTH | PICTURES | alphas <= {path.name for path in run.iterdir()}
    assert all((run / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES | alphas)

    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["backend"] == "tensorflow" and recipe["settings"]["space"] == PRIMITIVES
    assert SearchRecipe.from_dict(recipe["settings"]).epochs == 2

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1] and rows[0]["steps"] == 2
    assert {"train_loss", "validation_loss", "held_out_accuracy", "learning_rate", "seconds"} <= rows[0].keys()
    assert rows[0]["held_out_images"] == 40

    epochs = [json.loads(path.read_text()) for path in sorted((run / "epochs").iterdir())]
    assert [np.shape(epoch["alphas"]) for epoch in epochs] == [(2, 5, 4), (2, 5, 4)]
    assert epochs[0]["alphas"] != epochs[1]["alphas"]
    assert {"kind": "genotype", **epochs[1]["genotype"]} == json.loads((run / "genotype.json").read_text())
    assert recipe["kind"] == "recipe" and epochs[0]["kind"] == "epoch"
    genotypes.load(run / "genotype.json")


def test_a_training_leaves_its_files(finished):
    run = finished / "train"
    assert LEFT_BY_BOTH | PICTURES | {"weights.safetensors", "evaluation.json"} <= {path.name for path in run.iterdir()}
    arrays, _ = atomic_writes.load_arrays(run / "weights.safetensors")
    assert arrays["classifier.weight"].shape[0] == 10 and "stem.0.weight" in arrays
    facts = json.loads((run / "data.json").read_text())
    assert (
        facts["kind"] == "data"
        and facts["images"] == 80
        and facts["shape"] == [8, 8, 1]
        and facts["class_names"] == list("0123456789")
    )


def test_an_evaluation_says_on_what(finished):
    report = json.loads((finished / "train" / "evaluation.json").read_text())
    assert report["kind"] == "evaluation"
    assert report["n"] == 359 and report["error"] == report["errors"] / 359
    assert report["interval"][0] < report["error"] < report["interval"][1]
    assert report["dataset"] == "digits" and report["split"] == "test" and "nothing was selected" in report["selection"]


def test_an_export_stands_beside_its_report(finished):
    report = json.loads((finished / "model.json").read_text())
    assert (finished / "model.onnx").stat().st_size == report["bytes"]
    assert report["compared_on"] == ["noise", "constant", "real"] and report["largest_difference"] < 1e-4
    genotype = json.loads((finished / "search" / "genotype.json").read_text())
    assert {"kind": "genotype", **report["genotype"]} == genotype and report["kind"] == "export"
    assert report["cost"]["parameters"] > 0 and len(report["preprocessing"]["mean"]) == 1


# --- again, and after a stop ---


@pytest.mark.parametrize(
    ("name", "command", "missing"),
    [
        ("search", [*SEARCH, "--out", "search"], "genotype.json"),
        ("search", [*SEARCH, "--out", "search"], "cells.png"),
        ("train", TRAIN, "genotype.json"),
        ("train", TRAIN, "weights.safetensors"),
    ],
)
def test_a_finished_run_is_complete_and_mended(finished, tmp_path, monkeypatch, name, command, missing):
    monkeypatch.chdir(tmp_path)
    for run in ("search", "train"):
        shutil.copytree(finished / run, run)
    lost, metrics = Path(name, missing).read_bytes(), Path(name, "metrics.jsonl").read_text()
    Path(name, missing).unlink()
    result = sharpkeras(*command)
    assert result.code == 0, result.err
    assert "epoch 1" not in result.err
    assert f"{name}: already complete" in result.err or missing == "weights.safetensors"
    assert Path(name, "metrics.jsonl").read_text() == metrics
    assert Path(name, missing).read_bytes() == lost or missing.endswith("png")


def test_a_training_begins_with_the_weights_of_another(finished, tmp_path, monkeypatch):
    """With a learning rate of nothing they come out as they went in; other weights make it another run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "search", "search")
    shutil.copytree(finished / "train", "train")
    arrays, _ = atomic_writes.load_arrays(Path("train/weights.safetensors"))
    command = [*TRAIN[:-2], "--epochs", "1", "--learning-rate", "0", "--min-learning-rate", "0", "--out", "new"]
    assert sharpkeras(*command, "--init", "train").code == 0
    begun, _ = atomic_writes.load_arrays(Path("new/weights.safetensors"))
    trained = [name for name in arrays if "running_" not in name]
    assert all(np.array_equal(begun[name], arrays[name]) for name in trained)
    atomic_writes.save_arrays(Path("other.safetensors"), {**arrays, trained[0]: arrays[trained[0]] + 1}, {})
    for other in ([], ["--init", "other.safetensors"]):
        result = sharpkeras(*command, *other)
        assert result.code == 5 and "initial_weights" in result.err
    assert sharpkeras(*command, "--init", "train/weights.safetensors").code == 0


@pytest.mark.parametrize("command", [[*SEARCH, "--out", "new"], [*TRAIN[:-2], "--out", "new"]], ids=["search", "train"])
def test_a_forecast_writes_nothing(finished, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "search", "search")
    result = sharpkeras(*command, "--dry-run")
    assert result.code == 0 and "nothing was written" in result.out and "memory of a step" in result.out
    assert sorted(path.name for path in Path().iterdir()) == ["search"]


def test_a_run_that_computes_activations_again_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sharpkeras(*SEARCH, "--out", "new", "--epochs", "1", "--remat").code == 0
    assert json.loads(Path("new/run.json").read_text())["conditions"]["remat"] is True
    assert "not bit-exact" in sharpkeras(*SEARCH, "--out", "new", "--epochs", "1").err


# --- what a search may see ---


class Recorder:
    """A step that computes nothing and keeps its data."""

    def __init__(self):
        self.batches = []

    def __call__(self, data):
        self.batches.append(data)
        return dict.fromkeys(("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"), 0.5)

    def peak_bytes(self, data):
        return 0

    def sync(self):
        pass


def test_a_search_sees_two_halves_of_the_training_images_and_no_test_image(tmp_path, monkeypatch):
    def load_training(spec, split, **options):
        assert split == "train", "a search asked for test images"
        return load(spec, split, **options)

    recorder = Recorder()
    monkeypatch.setattr(setup, "load", load_training)
    monkeypatch.setattr(builders.SearchModel, "compiled_step", lambda model: recorder)
    sk.search(SEARCH_RECIPE, tmp_path / "run")
    assert len(recorder.batches) == 6  # 3 epochs of 2 steps

    def seen(part):
        return [{image.tobytes() for image in batch[part][0]} for batch in recorder.batches]

    weights, alphas = seen(0), seen(1)
    assert set.union(*weights).isdisjoint(set.union(*alphas))
    assert alphas[0] != alphas[1] and len({frozenset(batch) for batch in alphas}) == 6
    assert len(set.union(*alphas)) > 35  # of 40: the stream goes through all of its half
    training = {image.tobytes() for image in load("digits", "train").images}
    assert set.union(*weights, *alphas) <= training


@pytest.fixture
def photos(tmp_path):
    """12x12 RGB images of two classes; the test images cannot be read, which a search must not notice."""
    make_images(tmp_path / "photos" / "train", {"cat": 24, "dog": 24})
    for name in ("cat", "dog"):
        (tmp_path / "photos" / "test" / name).mkdir(parents=True)
        (tmp_path / "photos" / "test" / name / "0.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_a_search_on_class_folders(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sharpkeras(*SEARCH, "--dataset", f"folder:{photos}", "--out", "search", "--limit", "40")
    assert result.code == 0, result.err
    assert "took 40 of 48 images" in result.err
    # 36 of them are trained on, which are fewer than the recipe's batch of 64.
    order = "--limit 40 --batch-size 16"
    assert f"Next: sharpkeras train search --dataset folder:{photos} {order}\n" in result.out
    facts = json.loads(Path("search/data.json").read_text())
    assert facts["shape"] == [12, 12, 3] and facts["class_names"] == ["cat", "dog"] and facts["images"] == 40
    assert facts["mean"] != facts["deviation"] and len(facts["mean"]) == 3


# --- the other backend, and real images ---

ON_JAX = """
import sys
from sharpkeras_cli.main import main

def run(line):
    try:
        main(line.split())
    except SystemExit as ending:
        assert ending.code == 0, f"{line}: {ending.code}"

photos = sys.argv[1]
sizes = "--backend jax --epochs 1 --batch-size 8 --init-channels 2 --num-cells 2"
for dataset in ("digits", f"folder:{photos}"):
    out = dataset[:6]
    data = f"--dataset {dataset} --limit 24"
    run(f"search {sizes} {data} --num-nodes 1 --space skip_connect,sep_conv_3x3 --out {out}-search")
    run(f"train {out}-search {sizes} {data} --warmup-epochs 0 --out {out}-train")
    run(f"evaluate {out}-train --backend jax")
cuboid = "--num-scales 2 --final-filters 8 --cutout-px 0 --dataset digits --limit 24 --max-addmults 1M"
run(f"search multichannel-max-w {sizes} {cuboid} --num-cells 1 --out cuboid")
run("extract cuboid --max-addmults 2M --out larger.json")
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
"""


def test_jax_searches_trains_and_evaluates_without_tensorflow(tmp_path):
    pytest.importorskip("jax")
    make_images(tmp_path / "photos" / "train", {"cat": 12, "dog": 12})
    make_images(tmp_path / "photos" / "test", {"cat": 3, "dog": 3}, seed=1)
    # Much to compile and little to compute.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX, "photos"],
        cwd=tmp_path,
        env={**environment, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "n = 359" in done.stdout and "n = 6" in done.stdout
    for name in ("digits-search", "cuboid"):
        assert json.loads((tmp_path / name / "recipe.json").read_text())["backend"] == "jax"


def test_real_photographs_from_search_to_test_error(tmp_path, monkeypatch):
    source = os.environ.get("SHARPKERAS_CIFAR10_DIR")
    if not source:
        pytest.skip("SHARPKERAS_CIFAR10_DIR is not set")
    for split, count in (("train", 30), ("test", 5)):
        for folder in Path(source, split).iterdir():
            (tmp_path / "photos" / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, tmp_path / "photos" / split / folder.name)
    monkeypatch.chdir(tmp_path)
    data = ["--dataset", "folder:photos", "--limit", "300", "--crop-padding-px", "4"]
    for command in ([*SEARCH, *data, "--out", "search"], [*TRAIN, *data], ["evaluate", "train", "--json"]):
        result = sharpkeras(*command)
        assert result.code == 0, result.err
    assert result.json["n"] == 50 and result.json["interval"][1] > 0
    assert json.loads(Path("train/data.json").read_text())["shape"] == [32, 32, 3]
