"""The rows of the paper as recipes: which settings they have, what stands beside them, and that each of them runs."""

import dataclasses
import json
import os

import numpy as np
import pytest
from support.command_line import sharpkeras

from sharpkeras.errors import ConfigError
from sharpkeras.io import atomic_writes
from sharpkeras.paper import published
from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe, TrainRecipe

ROWS = [
    (f"{kind}-{name}", row) for kind, rows in (("search", SEARCHES), ("train", TRAININGS)) for name, row in rows.items()
]
needs_tensorflow = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow", reason="these commands run on the default backend"
)


# --- the paper's regimen: caption of Table 2, §3.3, Fig. 5 ---


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "digits"])
def test_searches_have_the_papers_settings(name):
    recipe, is_cuboid = SEARCHES[name].settings, name.startswith("multichannel")
    sizes = (60, 32, 4, 4) if is_cuboid else (60, 16, 8, 4)
    assert (recipe.epochs, recipe.init_channels, recipe.num_cells, recipe.num_nodes) == sizes
    assert (recipe.num_scales, recipe.final_filters, recipe.cutout_px) == (4, 768, 16 if is_cuboid else 0)
    assert (recipe.learning_rate, recipe.min_learning_rate, recipe.momentum, recipe.l2) == (0.025, 1e-4, 0.9, 3e-4)
    assert (recipe.arch_learning_rate, recipe.arch_l2, recipe.train_portion, recipe.batch_size) == (3e-4, 1e-3, 0.5, 64)
    spaces = {"sharpdarts": "sharp", "multichannel": "multichannel"}
    assert recipe.space == spaces.get(name.partition("-")[0], "darts")
    assert recipe.ops == ("darts" if name.startswith("darts") else "sharp")
    assert recipe.weighting == ("max_w" if name.endswith("max-w") else "scalar")
    assert recipe.order == (2 if name.endswith("second-order") else 1)


PATHS = [name for name in TRAININGS if name.startswith("multichannel")]
CIFAR10 = [name for name, row in TRAININGS.items() if row.settings.dataset == "cifar10" and name not in PATHS]
IMAGENET = [name for name, row in TRAININGS.items() if row.settings.dataset == "imagenet"]


@pytest.mark.parametrize("name", CIFAR10)
def test_trainings_on_cifar10_have_the_papers_settings(name):
    recipe = TRAININGS[name].settings
    assert (recipe.learning_rate, recipe.min_learning_rate, recipe.power, recipe.warmup_epochs) == (0.025, 1e-8, 2, 5)
    assert (recipe.l2, recipe.drop_path, recipe.auxiliary_weight, recipe.clip_norm) == (3e-4, 0.2, 0.4, 5)
    assert (recipe.init_channels, recipe.num_cells, recipe.batch_size, recipe.cutout_px) == (36, 20, 64, 16)
    plain = name.endswith("plain")
    assert (recipe.epochs, recipe.autoaugment) == ((1000, "none") if plain else (2000, "cifar10"))


@pytest.mark.parametrize("name", PATHS)
def test_trainings_of_paths_have_the_published_settings(name):
    recipe = TRAININGS[name].settings
    assert (recipe.learning_rate, recipe.min_learning_rate, recipe.batch_size, recipe.epochs) == (0.1, 1e-8, 512, 2000)
    assert (recipe.autoaugment, recipe.cutout_px, recipe.final_filters) == ("cifar10", 16, 768)
    assert (recipe.auxiliary_weight, recipe.drop_path) == (0, 0)


@pytest.mark.parametrize("name", IMAGENET)
def test_trainings_on_imagenet_have_the_papers_settings(name):
    recipe = TRAININGS[name].settings
    assert (recipe.init_channels, recipe.num_cells, recipe.image_size, recipe.resize_size) == (48, 14, 224, 256)
    assert (recipe.learning_rate, recipe.min_learning_rate, recipe.batch_size, recipe.power) == (0.05, 0.00075, 224, 10)
    assert (recipe.autoaugment, recipe.cutout_px, recipe.random_resized_crop) == ("imagenet", 112, True)
    assert (recipe.label_smoothing, recipe.l2, recipe.warmup_epochs) == (0.1, 1e-4, 10)
    assert recipe.mid_channels == (int(name.rpartition("-")[2]) if name.startswith("sharpdarts") else None)


def test_every_row_that_the_paper_trained_is_a_recipe():
    trained = [row["name"] for row in published.table(2) if row.get("ssc")]
    assert [TRAININGS[name].printed[1] for name in CIFAR10] == trained
    assert [TRAININGS[name].printed[1] for name in IMAGENET] == [row["name"] for row in published.table(3)[-3:]]
    assert [TRAININGS[name].printed[1] for name in PATHS] == [row["name"] for row in published.table(4)]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_what_stands_beside_a_recipe_is_in_the_paper(name, row):
    assert row.architecture in (None, *published.names(), *published.path_names())
    entry = published.printed(row)
    assert (entry is None) == (row.printed is None)
    if entry:
        how = entry.get("reproduce", {})
        assert row.architecture == how.get("genotype", how.get("path", row.architecture))
        assert "val_err" in entry or "top1_err" in entry


# --- each of them runs ---


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_trial_is_small_and_keeps_the_rest(name, row):
    trial = row.settings.smoke()
    assert trial.dataset.startswith("generated:") and trial.epochs == 1 and trial.init_channels == 4
    changed = {"dataset", "limit", "init_channels", "num_cells", "num_nodes", "batch_size", "epochs", "warmup_epochs"}
    changed |= {"num_scales", "final_filters"} if isinstance(row.settings, SearchRecipe) else set()
    for field in dataclasses.fields(trial):
        assert field.name in changed or getattr(trial, field.name) == getattr(row.settings, field.name)


@needs_tensorflow
@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sharpkeras("search", name, "--smoke", "--num-nodes", "2")
    assert result.code == 0, result.err
    (row,) = [json.loads(line) for line in (tmp_path / "runs/smoke/search/metrics.jsonl").read_text().splitlines()]
    assert row["steps"] == 2 and np.isfinite(row["train_loss"])


@needs_tensorflow
@pytest.mark.parametrize("name", [name for name, row in TRAININGS.items() if row.architecture])
def test_every_training_runs_and_is_evaluated(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sharpkeras("train", name, "--smoke")
    assert result.code == 0, result.err
    run = tmp_path / "runs/smoke/train"
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert row["steps"] == 2 and np.isfinite(row["train_loss"]) and row["held_out_images"] >= 1
    arrays, meta = atomic_writes.load_arrays(run / "weights.safetensors")
    assert meta["selection"]["by"] == "held_out" and len(arrays) > 50
    report = sharpkeras("evaluate", "runs/smoke/train", "--json")
    assert report.code == 0, report.err
    assert report.json["dataset"].startswith("generated:") and 0 <= report.json["error"] <= 1


def test_a_recipe_without_an_architecture_asks_for_one():
    result = sharpkeras("train", "digits")
    assert result.code == 3 and "no architecture of its own" in result.err and "--recipe digits" in result.err


# --- rules ---


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 3, "warmup_epochs": 3},
        {"learning_rate": 0.1, "min_learning_rate": 0.2},
        {"power": 0.0},
        {"accumulate": 0},
        {"ema": 1.0},
        {"autoaugment": "svhn"},
        {"selection": "best"},
        {"precision": "float16"},
        {"held_out": 0.0},
    ],
)
def test_settings_that_contradict_each_other_or_their_range(settings):
    with pytest.raises(ConfigError):
        TrainRecipe(**settings)


def test_recipes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchRecipe().epochs = 3
