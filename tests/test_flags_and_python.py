"""Flags and Python give the same recipe, the same run and, with flags for settings, the same messages."""

import contextlib
import functools
import json
import os
import sys

import pytest
from support import advice
from support.command_line import PRIMITIVES, sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("the finished runs are TensorFlow's", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.errors import SharpKerasError, UsageError
from sharpkeras.io import atomic_writes
from sharpkeras_cli import flags

TINY = {"limit": 80, "batch_size": 16, "init_channels": 2, "num_cells": 3, "epochs": 2}  # as in support.command_line


def typed_flags(settings):
    """The flags of some settings: `--epochs 3`, `--no-skip-none`; `--set NAME=VALUE` for what no flag says."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is None:
            words += ["--set", f"{name}=none"]
        else:
            words += [f"--{flag}", str(value)]
    return words


# --- the same recipe ---

SEARCHED = [
    ("digits", {}),
    ("sharpdarts", {"epochs": 3, "weighting": "max_w"}),
    ("darts-second-order", {"skip_none": False, "max_addmults": "600M", "seed": 7}),
    ("multichannel-max-w", {"space": "multichannel", "num_scales": 2, "learning_rate": 0.5}),
    ("digits", {"max_latency_ms": 2.5, "latency_table": "latencies.json", "cost_of": "sharpdarts"}),
    ("digits", {"limit": None, "penalty": "parameters"}),
]
TRAINED = [
    ("DARTS_V2", None, {}),
    ("sharpdarts", None, {"epochs": 9, "random_resized_crop": True, "learning_rate": 1}),
    ("sharpdarts", "darts-ssc-plain", {"mid_channels": 8}),
    ("search", None, {"dataset": "cifar10", "image_size": None}),
    ("search", "sharpdarts", {"ema": 0.9}),
    ("train", None, {"warmup_epochs": 1}),
]


@pytest.fixture
def place(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def asked_for(name, monkeypatch, call, home=None):
    """What the search or training of the library itself is called with, in place of being run."""
    module, seen = __import__(f"sharpkeras.experiment.{home or name}", fromlist=[name]), []
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda *arguments, **_: seen.append(arguments) or sys.exit(0))
        with contextlib.suppress(SystemExit):
            call()
    return seen[0]


@pytest.mark.parametrize(("recipe", "settings"), SEARCHED)
def test_a_search_has_the_same_recipe(recipe, settings, place, monkeypatch):
    typed = asked_for("search", monkeypatch, lambda: sharpkeras("search", recipe, *typed_flags(settings)))
    called = asked_for("search", monkeypatch, lambda: sk.search(recipe, **settings))
    assert typed[:3] == called[:3] and typed[0].training == called[0].training


@pytest.mark.parametrize(("architecture", "recipe", "settings"), TRAINED)
def test_a_training_has_the_same_recipe_and_architecture(architecture, recipe, settings, place, monkeypatch):
    words = ["--recipe", recipe] if recipe else []
    typed = asked_for("train", monkeypatch, lambda: sharpkeras("train", architecture, *words, *typed_flags(settings)))
    called = asked_for("train", monkeypatch, lambda: sk.train(architecture, recipe=recipe, **settings))
    assert typed[:4] == called[:4]


def test_how_a_run_is_carried_out_is_the_same(place, monkeypatch):
    words = ["--overwrite", "--deterministic", "--checkpoint-interval", "5", "--ignore-disk-check", "--skip-bad-images"]
    typed = asked_for("search", monkeypatch, lambda: sharpkeras("search", *words, "--out", "x"))
    options = sk.RunOptions(overwrite=True, deterministic=True, checkpoint_s=5, check_disk=False)
    called = asked_for(
        "search", monkeypatch, lambda: sk.search(out="x", options=options, data={"skip_bad_images": True})
    )
    assert typed[:3] == called[:3]
    assert {name for name, value in typed[4].items() if value} == {*called[4]} == {"skip_bad_images"}


def test_a_forecast_is_of_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, options = {"epochs": 9, "space": "darts"}, sk.RunOptions(remat=True)
    words = ["--remat", "--dry-run"]
    ask = functools.partial(asked_for, monkeypatch=monkeypatch, home="forecast")
    typed = ask("forecast_search", call=lambda: sharpkeras("search", "sharpdarts", *typed_flags(settings), *words))
    called = ask("forecast_search", call=lambda: sk.forecast("sharpdarts", options=options, **settings))
    assert typed[:2] == called[:2]
    typed = ask("forecast_training", call=lambda: sharpkeras("train", "sharpdarts", "--epochs", "9", *words))
    called = ask("forecast_training", call=lambda: sk.forecast(architecture="sharpdarts", options=options, epochs=9))
    assert typed[:3] == called[:3]
    with pytest.raises(UsageError, match="TrainRecipe"):
        sk.forecast(sk.SearchRecipe(), architecture="DARTS_V1")


# --- the same run ---


def same_runs(one, other):
    """Asserts that two run directories hold the same, but for times and places."""
    for name in ("recipe.json", "data.json", *(f"epochs/{epoch:04d}.json" for epoch in range(2))):
        if (one / name).exists() or (other / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for row in [row for run in rows for row in run]:
        del row["seconds"]
    assert rows[0] == rows[1]
    for path in one.glob("*.safetensors"):
        if path.name == "weights.safetensors":
            assert path.read_bytes() == (other / path.name).read_bytes()


def test_runs_and_reports_are_the_same(place, tmp_path):
    found = sk.search(out=tmp_path / "search", **TINY, num_nodes=2, space=PRIMITIVES)
    same_runs(place / "search", tmp_path / "search")
    assert found == sk.architecture("search")
    cost = sk.train("search", tmp_path / "train", **TINY, warmup_epochs=0)
    same_runs(place / "train", tmp_path / "train")
    assert cost == sk.cost("train") and sharpkeras("cost", "train", "--json").json == {
        "architecture": "train",
        **cost._asdict(),
    }
    report = sk.evaluate(tmp_path / "train")
    kept = atomic_writes.dump_file({"kind": "evaluation", **report, "run": "train"}, "evaluation")
    assert kept == (place / "train" / "evaluation.json").read_bytes()


def test_other_results_are_the_same(place, tmp_path):
    drawn = sk.sample(out=tmp_path / "a", space="darts", seed=3, count=2)
    typed = sharpkeras("sample", "--space", "darts", "--seed", 3, "--count", 2, "--out", tmp_path / "b", "--json").json
    assert [found.as_dict() for _, found in drawn] == [row["genotype"] for row in typed["genotypes"]]
    extracted = sk.extract("search", tmp_path / "a.json", max_addmults="1M", epoch=1)
    budget = ["--max-addmults", "1M", "--epoch", 1, "--out", tmp_path / "b.json"]
    typed = sharpkeras("extract", "search", *budget, "--json").json
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert extracted.cost._asdict().items() <= typed.items()
    assert sk.compare(["search", "train"]).items() <= sharpkeras("compare", "search", "train", "--json").json.items()
    sizes = {"network": "imagenet", "init_channels": 8, "num_cells": 4, "num_classes": 7}
    typed = sharpkeras(
        "cost", "DARTS_V2", "--for", "imagenet", *typed_flags({**sizes, "network": None})[2:], "--json"
    ).json
    assert sk.cost("DARTS_V2", **sizes)._asdict().items() <= typed.items()


# --- the same messages ---

REFUSED = {
    "recipe: out of range": (["search", "--set", "epochs=0"], lambda: sk.search(epochs=0)),
    "recipe: wrong type": (["search", "--set", "epochs=many"], lambda: sk.search(epochs="many")),
    "recipe: unknown setting": (["search", "--set", "epoch=3"], lambda: sk.search(epoch=3)),
    "recipe: two rules": (["search", "--warmup-epochs", "12"], lambda: sk.search(warmup_epochs=12)),
    "recipe: power": (["train", "DARTS_V2", "--power", "0"], lambda: sk.train("DARTS_V2", power=0)),
    "recipe: two budgets": (
        ["search", "--max-addmults", "1M", "--max-parameters", "1M"],
        lambda: sk.search(max_addmults="1M", max_parameters="1M"),
    ),
    "recipe: no table": (["search", "--max-latency-ms", "3"], lambda: sk.search(max_latency_ms=3)),
    "recipe: cost of nothing": (["search", "--cost-of", "x"], lambda: sk.search(cost_of="x")),
    "space": (["search", "--space", "sharpest"], lambda: sk.search(space="sharpest")),
    "primitive": (["search", "--space", "none,sep_conv"], lambda: sk.search(space="none,sep_conv")),
    "dataset": (["search", "--dataset", "digit"], lambda: sk.search(dataset="digit")),
    "folder": (["search", "--dataset", "folder:nowhere"], lambda: sk.search(dataset="folder:nowhere")),
    "too few images": (["search", "--limit", "20"], lambda: sk.search(limit=20)),
    "another run there": (["search", "--out", "search"], lambda: sk.search(out="search")),
    "no run to resume": (
        ["search", "--out", "new", "--resume"],
        lambda: sk.search(out="new", options=sk.RunOptions(must_exist=True)),
    ),
    "resume and overwrite": (
        ["search", "--resume", "--overwrite"],
        lambda: sk.search(options=sk.RunOptions(must_exist=True, overwrite=True)),
    ),
    "cutout": (["train", "search", "--cutout-px", "40"], lambda: sk.train("search", cutout_px=40)),
    "selection": (["train", "search", "--limit", "10"], lambda: sk.train("search", limit=10)),
    "accumulate": (
        ["train", "search", "--accumulate", "1000", "--epochs", "3"],
        lambda: sk.train("search", accumulate=1000, epochs=3),
    ),
    "architecture": (["train", "DARTS_V3"], lambda: sk.train("DARTS_V3")),
    "recipe without architecture": (["train", "digits"], lambda: sk.train("digits")),
    "initial weights": (["train", "search", "--init", "nothing"], lambda: sk.train("search", init="nothing")),
    "no run": (["evaluate", "nowhere"], lambda: sk.evaluate("nowhere")),
    "no training": (["evaluate", "search"], lambda: sk.evaluate("search")),
    "other classes": (["evaluate", "train", "--data", "cifar10.1:x"], lambda: sk.evaluate("train", "cifar10.1:x")),
    "no onnx file": (["export", "train", "--out", "x.txt"], lambda: sk.export("train", "x.txt")),
    "opset": (["export", "train", "--opset", "3"], lambda: sk.export("train", opset=3)),
    "file there": (["export", "train", "--out", "model.onnx"], lambda: sk.export("train", "model.onnx")),
    "int8 without images": (
        ["export", "DARTS_V2", "--quantize", "int8", "--num-cells", "2", "--init-channels", "4"],
        lambda: sk.export("DARTS_V2", precision="int8", num_cells=2, init_channels=4),
    ),
    "sizes of a run": (["export", "train", "--num-cells", "2"], lambda: sk.export("train", num_cells=2)),
    "strategy": (["extract", "search", "--strategy", "beam"], lambda: sk.extract("search", strategy="beam")),
    "budget": (["extract", "search", "--max-parameters", "1"], lambda: sk.extract("search", max_parameters=1)),
    "epoch": (["extract", "search", "--epoch", "9"], lambda: sk.extract("search", epoch=9)),
    "one file": (["sample", "--out", "x.json", "--count", "2"], lambda: sk.sample(out="x.json", count=2)),
    "same run": (["compare", "train", "train"], lambda: sk.compare(["train", "train"])),
    "picture": (["compare", "train", "--picture", "x.png"], lambda: sk.compare(["train"], picture="x.png")),
    "sizes of a training": (["cost", "train", "--num-cells", "2"], lambda: sk.cost("train", num_cells=2)),
    "no file": (["benchmark", "nothing.onnx"], lambda: sk.benchmark("nothing.onnx")),
    "percentile": (
        ["benchmark", "model.onnx", "--percentile", "99"],
        lambda: sk.benchmark("model.onnx", percentiles=[99]),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_in_the_same_words(name, place):
    words, call = REFUSED[name]
    with pytest.raises(SharpKerasError) as caught:
        call()
    error = caught.value
    assert not advice.FLAG.findall(advice.COMMAND.sub("", advice.OTHER_PROGRAM.sub("", str(error))))
    error.keep_to(flags.of_command(words[0]))
    error.render(functools.partial(flags.rendered, command=words[0]))
    typed = sharpkeras(*words)
    assert typed.code == error.exit_code, typed.err
    assert f"Error: {error}\n" in typed.err
