"""Bad input, row by row: one clear message and an exit code, nothing half written, nothing good lost.

The number in a test's name is that of its row in docs/bad_input.md; the last tests here compare the table with all
tests that name its rows. Rows on image files are tested in depth in tests/data/test_folder.py, those on genotypes in
tests/spaces/cell/test_genotype.py, on ONNX files in tests/measure/latency/test_benchmark.py; here each is met once
through the command line.
"""

import errno
import importlib.util
import json
import logging
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from support import bad_input
from support.command_line import PRIMITIVES, SEARCH, TRAIN, files_below, make_images, sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.backend import precision
from sharpkeras.engine import epochs, training_state
from sharpkeras.engine.epochs import NullProgress
from sharpkeras.errors import NumericalError, ResourceError
from sharpkeras.experiment import builders, export, forecast, run_options, setup
from sharpkeras.io import atomic_writes
from sharpkeras.measure.latency import benchmark
from sharpkeras.onnx_export import conversion, export_onnx
from sharpkeras.recipes import SearchRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.runs.checkpoints import Checkpoints
from sharpkeras.sweeping import pools

NEW = ("--out", "new")
SEARCH_AGAIN = (*SEARCH, "--out", "search")
CONFIG = ("search", *NEW, "--config")
TRAIN_NEW = ("train", "search", *NEW)
EVALUATE = ("evaluate", "train", "--dataset")
PAIRS = [["sep_conv_3x3", 0], ["skip_connect", 1]]
GENOTYPE = {"normal": PAIRS, "normal_concat": [2], "reduce": PAIRS, "reduce_concat": [2]}


def genotype(**changes):
    return json.dumps({**GENOTYPE, **changes})


FILES = {
    "typo.json": '{"learing_rate": 0.1}',
    "typo.toml": "learing_rate = 0.1",
    "type.json": '{"epochs": "three"}',
    "nan.json": '{"learning_rate": NaN}',
    "nan.toml": "learning_rate = nan",
    "infinity.json": '{"l2": Infinity}',
    "negative.json": '{"learning_rate": -0.1}',
    "list.json": "[1, 2]",
    "twice.json": '{"epochs": 1,\n "epochs": 2}',
    "twice.toml": "epochs = 1\nepochs = 2",
    "large.json": '{"space": "' + "x" * 2**20 + '"}',
    "large.toml": 'space = "' + "x" * 2**20 + '"',
    "deep.json": '{"space": ' + "[" * 2000 + "]" * 2000 + "}",
    "deep.toml": "space = " + "[" * 5000,
    "digits.json": '{"epochs": ' + "9" * 5000 + "}",
    "digits.toml": "epochs = " + "9" * 5000,
    "many.json": '{"epochs": ' + "9" * 90 + "}",
    "latin.json": b'{"space": "\xe9"}',
    "latin.toml": b'space = "\xe9"',
    "mark.json": '\ufeff{"learning_rate": -0.1}',
    "nul.json": '{"space":\0 "darts"}',
    "power.json": '{"power": 0}',
    "python.json": "Genotype(normal=[('sep_conv_3x3', 0)], normal_concat=[2])",
    "genotype.py": "__import__('os').system('touch new')",
    "pickle.json": pickle.dumps(GENOTYPE),
    "operation.json": genotype(normal=[["sep_conv_9x9", 0], ["skip_connect", 1]]),
    "source.json": genotype(reduce=[["sep_conv_3x3", 0], ["skip_connect", 2]]),
    "missing.json": '{"normal": [["sep_conv_3x3", 0], ["skip_connect", 1]], "normal_concat": [2]}',
    "node.json": genotype(normal=[["sep_conv_3x3", 0]]),
    "concat.json": genotype(normal_concat=[]),
    "path.json": genotype(name="../../x"),
    "long.json": genotype(name="x" * 10_000),
    "control.json": genotype(name="\x1b[31mred"),
    "graph.json": '{"schema_version": 1, "path": [[0, 1]], "name": "hypercuboid"}',
    "version.json": genotype(schema_version=7),
    "plain.txt": "hello",
}


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A working directory with finished runs and with files of all bad kinds."""
    monkeypatch.chdir(tmp_path)
    for name in ("search", "train"):
        shutil.copytree(finished / name, name)
    for name in ("model.onnx", "model.json"):
        shutil.copy(finished / name, name)
    for name, content in FILES.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("notes").mkdir()
    Path("notes", "thesis.txt").write_text("years of work")
    return tmp_path


def refused(code, parts, arguments):
    """Runs a command that must be refused; returns what it said."""
    before = files_below(Path.cwd())
    result = sharpkeras(*arguments)
    assert result.code == code, f"{result.code} and not {code}: {result.err}{result.out}"
    for part in parts:
        assert part in result.err, f"{part!r} is missing in: {result.err}"
    assert "Traceback" not in result.err and "bug of sharpkeras" not in result.err and not result.out
    assert files_below(Path.cwd()) == before
    return result.err


def rows(*table):
    """Parameters from (row and what is wrong, exit code, parts of the message, arguments, and a file's content)."""
    names = ("code", "parts", "arguments", "content")[: len(table[0]) - 1]
    return pytest.mark.parametrize(names, [pytest.param(*row[1:], id=f"row-{row[0]}") for row in table])


@rows(
    ("1-command", 2, ["serch", "Did you mean 'search'?"], ["serch"]),
    ("1-flag", 2, ["--epoch", "--epochs"], ["search", "--epoch", "3"]),
    ("2-missing", 2, ["no.json", "No such file"], [*CONFIG, "no.json"]),
    ("2-missing-toml", 2, ["no.toml", "No such file"], [*CONFIG, "no.toml"]),
    ("2-directory", 2, ["notes", "not a regular file"], [*CONFIG, "notes"]),
    ("3-json", 3, ["typo.json", "learing_rate", "did you mean learning_rate?"], [*CONFIG, "typo.json"]),
    ("3-toml", 3, ["typo.toml", "learing_rate", "did you mean learning_rate?"], [*CONFIG, "typo.toml"]),
    ("4-type", 3, ["type.json: epochs", "three", "finite int"], [*CONFIG, "type.json"]),
    ("4-nan", 3, ["nan.json", "not finite", "NaN"], [*CONFIG, "nan.json"]),
    ("4-nan-toml", 3, ["nan.toml: learning_rate", "nan", "finite float"], [*CONFIG, "nan.toml"]),
    ("4-nan-flag", 2, ["--learning-rate", "finite"], ["search", "--learning-rate", "nan"]),
    ("4-infinity", 3, ["infinity.json", "Infinity"], [*CONFIG, "infinity.json"]),
    ("4-negative", 3, ["negative.json: learning_rate", "-0.1", "at least 0"], [*CONFIG, "negative.json"]),
    ("4-list", 3, ["list.json", "expected an object"], [*CONFIG, "list.json"]),
    ("5", 3, ["twice.json, line 2, column 2", "first at line 1, column 2", "epochs"], [*CONFIG, "twice.json"]),
    ("5-toml", 3, ["twice.toml", "overwrite"], [*CONFIG, "twice.toml"]),
    ("6-large", 3, ["large.json", "1 MiB"], [*CONFIG, "large.json"]),
    ("6-large-toml", 3, ["large.toml", "16 KiB"], [*CONFIG, "large.toml"]),
    ("6-deep", 3, ["deep.json", "at most 16 levels"], [*CONFIG, "deep.json"]),
    ("6-deep-toml", 3, ["deep.toml", "nested too deeply"], [*CONFIG, "deep.toml"]),
    ("6-digits", 3, ["digits.json", "5000 characters", "at most 100"], [*CONFIG, "digits.json"]),
    ("6-digits-toml", 3, ["digits.toml", "digits"], [*CONFIG, "digits.toml"]),
    ("6-many", 3, ["many.json: epochs", "at most 1000000"], [*CONFIG, "many.json"]),
    ("7-latin", 3, ["latin.json", "not UTF-8", "0xe9"], [*CONFIG, "latin.json"]),
    ("7-latin-toml", 3, ["latin.toml", "0xe9"], [*CONFIG, "latin.toml"]),
    ("7-nul", 3, ["nul.json, line 1, column 10", "NUL"], [*CONFIG, "nul.json"]),
    ("7-mark", 3, ["byte order mark, which is ignored", "learning_rate"], [*CONFIG, "mark.json"]),
    ("14-flag", 2, ["--backend", "torch", "tensorflow"], ["search", "--backend", "torch"]),
    ("16-negative", 2, ["--seed", "-1"], ["search", "--seed", "-1"]),
    ("16-large", 2, ["--seed", "4294967295"], ["train", "search", "--seed", 2**32]),
    ("16-text", 2, ["--seed", "abc"], ["search", "--seed", "abc"]),
    ("18", 2, ["--space", "huge", "darts", "sharper", "table1"], ["search", *NEW, "--space", "huge"]),
    ("18-primitive", 3, ["sep_conv_9x9", "did you mean sep_conv"], ["search", "--space", "none,sep_conv_9x9"]),
    ("20-none", 2, ["--train-portion", "0.01"], ["search", "--train-portion", "0"]),
    ("20-all", 2, ["--train-portion", "0.99"], ["search", "--train-portion", "1"]),
    ("20-more", 2, ["--train-portion", "1.5"], ["search", "--train-portion", "1.5"]),
    ("20-half", 4, ["8 to train weights and 72", "--train-portion"], [*SEARCH, *NEW, "--train-portion", "0.1"]),
    ("21-epochs", 2, ["--epochs", "1<=x", "0"], ["search", "--epochs", "0"]),
    ("21-batch", 2, ["--batch-size", "0"], ["train", "search", "--batch-size", "0"]),
    ("21-negative", 2, ["--batch-size", "-5"], ["search", "--batch-size", "-5"]),
    ("27-search", 5, ["new", "drop --resume"], [*SEARCH, *NEW, "--resume"]),
    ("27-train", 5, ["new", "drop --resume"], [*TRAIN_NEW, "--resume"]),
    ("16-sample", 2, ["--seed", "-1"], ["sample", "--seed", "-1"]),
    ("18-sample", 2, ["--space", "huge", "sharper"], ["sample", "--space", "huge", "--out", "new"]),
    ("21-count", 2, ["--count", "0"], ["sample", "--count", "0"]),
    ("35-sample", 3, ["flood_conv_3x3", "op table 'darts'"], ["sample", "--ops", "darts", "--out", "new"]),
    ("67-sample", 5, ["typo.json", "exists already"], ["sample", "--out", "typo.json"]),
    ("67-sample-file", 5, ["typo.json", "no architecture"], ["sample", "--out", "typo.json", "--overwrite"]),
    ("67-sample-many", 2, ["--out", "a folder"], ["sample", "--out", "new.json", "--count", "2"]),
    ("67-sample-place", 5, ["plain.txt"], ["sample", "--out", "plain.txt"]),
    ("42-drop-path", 2, ["--drop-path", "1.5"], [*TRAIN_NEW, "--drop-path", "1.5"]),
    ("42-smoothing", 2, ["--label-smoothing", "-1"], [*TRAIN_NEW, "--label-smoothing", "-1"]),
    ("42-cutout", 2, ["--cutout-px", "64", "0 to 8"], [*TRAIN_NEW, "--cutout-px", "64"]),
    ("43-warmup", 3, ["warmup_epochs", "fewer than epochs, 2"], [*TRAIN_NEW, "--epochs", "2", "--warmup-epochs", "2"]),
    ("43-rates", 3, ["min_learning_rate", "at most learning_rate, 0.1"], [*TRAIN_NEW, "--min-learning-rate", "1"]),
    ("43-power", 3, ["power", "x > 0"], [*TRAIN_NEW, "--power", "0"]),
    ("43-power-config", 3, ["power", "x > 0"], [*TRAIN_NEW, "--config", "power.json"]),
)
def test_settings(place, code, parts, arguments):
    refused(code, parts, arguments)


@rows(
    ("9-file", 5, ["plain.txt", "no run of ours", "--out"], [*SEARCH, "--out", "plain.txt"]),
    ("9-directory", 5, ["notes", "no run of ours", "--overwrite removes only runs"], [*SEARCH, "--out", "notes"]),
    ("9-overwrite", 5, ["notes", "no run of ours"], [*SEARCH, "--out", "notes", "--overwrite"]),
    ("9-recipe", 5, ["search: holds a run with another recipe", "settings.seed"], [*SEARCH_AGAIN, "--seed", "1"]),
    ("9-kind", 5, ["holds a run of another kind", "train"], [*SEARCH, "--out", "train"]),
    ("10-not-a-directory", 5, ["plain.txt/new", "Not a directory"], [*SEARCH, "--out", "plain.txt/new"]),
    ("10-read-only", 5, ["/proc/new", "--out"], [*SEARCH, "--out", "/proc/new"]),
    ("13", 7, ["--device", "no GPU", "cpu:0", "--device cpu"], [*SEARCH, *NEW, "--device", "gpu"]),
    ("28-both", 2, ["--resume, --overwrite", "contradict"], [*SEARCH_AGAIN, "--resume", "--overwrite"]),
    (
        "28",
        5,
        ["settings.epochs", "9", "--device, --checkpoint-interval"],
        [*SEARCH_AGAIN, "--epochs", "9", "--resume"],
    ),
    ("57", 5, ["settings.batch_size", "16", "8"], [*TRAIN, "--batch-size", "8"]),
)
def test_places_and_devices(place, monkeypatch, code, parts, arguments):
    if "--device" in arguments:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        if any(device.startswith("gpu") for device in builders.keras.distribution.list_devices()):
            pytest.skip("there is a GPU")
    monkeypatch.setattr(setup, "load", lambda *_, **__: pytest.fail("data was loaded before"))
    refused(code, parts, arguments)


@rows(
    ("34-missing", 2, ["no.json", "No such file"], ["train", "no.json"]),
    ("34-python", 3, ["python.json, line 1", "not JSON", '{"normal": [["sep_conv'], ["train", "python.json"]),
    ("34-source", 3, ["genotype.py", "not JSON", "never Python source"], ["train", "genotype.py"]),
    ("34-pickle", 3, ["pickle.json", "not UTF-8", '{"normal":'], ["train", "pickle.json"]),
    ("35", 3, ["operation.json: normal[0][0]", "sep_conv_9x9", "did you mean sep_"], ["train", "operation.json"]),
    ("36-source", 3, ["source.json: reduce[1][1]", "0 to 1"], ["train", "source.json"]),
    ("36-missing", 3, ["missing.json", "missing reduce"], ["train", "missing.json"]),
    ("36-node", 3, ["node.json: normal", "2 pairs per node"], ["train", "node.json"]),
    ("36-concat", 3, ["concat.json: normal_concat", "non-empty"], ["train", "concat.json"]),
    ("37-path", 3, ["path.json: name", "../../x", "[A-Za-z0-9]"], ["train", "path.json"]),
    ("37-long", 3, ["long.json: name", "xxx…"], ["train", "long.json"]),
    ("37-control", 3, ["control.json: name", "\\x1b[31mred"], ["train", "control.json"]),
    ("38", 3, ["unknown architecture", "__import__('os')", "DARTS_V2"], ["train", "__import__('os')"]),
    ("39-space", 3, ["graph.json", "missing normal"], ["train", "graph.json"]),
    ("39-version", 3, ["version.json: schema_version", "7"], ["train", "version.json"]),
    ("39-ops", 3, ["choke_conv_3x3", "op table 'darts'"], ["train", "SHARP_DARTS", "--ops", "darts"]),
)
def test_genotypes(place, code, parts, arguments):
    refused(code, parts, [*arguments, *NEW])


def test_row_39_a_genotype_without_a_version_is_one(place):
    Path("bare.json").write_text(genotype())
    result = sharpkeras("cost", "bare.json", "--num-cells", "3", "--init-channels", "4", "--json")
    assert result.code == 0 and result.json["parameters"] > 0


# --- data ---


@pytest.fixture
def folders(place):
    """Folders of images, each wrong in its own way."""
    make_images(place / "good" / "train", {"cat": 20, "dog": 20}, size=(8, 8))
    make_images(place / "good" / "test", {"cat": 2, "dog": 2}, size=(8, 8))
    make_images(place / "one", {"cat": 40})
    make_images(place / "small", {"cat": 20, "dog": 20}, size=(3, 3))
    make_images(place / "few", {"cat": 4, "dog": 3})
    make_images(place / "differ" / "train", {"cat": 2, "dog": 2})
    make_images(place / "differ" / "test", {"cat": 2, "bird": 2})
    make_images(place / "broken" / "train", {"cat": 2, "dog": 20})
    make_images(place / "broken" / "test", {"cat": 2, "dog": 2})
    for name, content in (("half", b"\x89PNG\r\n\x1a\n12"), ("page", b"<html>"), ("none", b""), ("gif", b"GIF89a1234")):
        Path("broken", "train", "cat", f"{name}.jpg").write_bytes(content)
    for path in Path("broken", "test").rglob("*.png"):
        path.write_bytes(b"")
    Path("empty").mkdir()
    Path("hollow", "cat").mkdir(parents=True)
    make_images(place / "hollow", {"dog": 3})
    Path("hollow", "cat", "Thumbs.db").write_bytes(b"")
    Path("hollow", ".ipynb_checkpoints").mkdir()
    make_images(place / "bomb", {"cat": 2, "dog": 2})
    content = Path("bomb/cat/000.png").read_bytes()
    header = content[12:16] + (60_000).to_bytes(4, "big") * 2 + content[24:29]
    checksum = zlib.crc32(header).to_bytes(4, "big")
    Path("bomb/cat/000.png").write_bytes(content[:12] + header + checksum + content[33:])
    make_images(place / "pipe", {"dog": 3})
    Path("pipe", "cat").mkdir()
    os.mkfifo("pipe/cat/pipe.jpg")
    Path("pipe/cat/loop").symlink_to("..")
    Path("pipe/cat/out.png").symlink_to(place / "one" / "cat" / "000.png")
    return place


def on(folder, *more):
    return [*SEARCH, *NEW, *more, "--dataset", f"folder:{folder}"]


@rows(
    ("19-one-class", 4, ["one", "two classes", "cat: 32"], on("one")),
    ("19-few", 4, ["few", "5 images", "batch of 16", "cat: 3", "dog: 2"], on("few")),
    ("22", 4, ["total stride", "(3, 3, 3)", "at least 4"], on("small")),
    ("44-nothing", 4, ["empty", "no class folders", "PATH/train/CLASS/*.jpg"], on("empty")),
    ("44-files", 4, ["notes", "no class folders", "1 file", "PATH/train/CLASS/*.jpg"], on("notes")),
    ("44-missing", 4, ["nowhere", "no such folder"], on("nowhere")),
    ("45", 4, ["hollow", "no images in 1 class folder: cat", "hidden and system files: 2"], on("hollow")),
    ("46", 4, ["differ", "only in train/: dog", "only in test/: bird"], on("differ")),
    ("47", 4, ["4 of 26 files", "cat/page.jpg: HTML", "none.jpg: empty", "gif.jpg: a GIF", "--skip-"], on("broken")),
    ("48", 4, ["cat/000.png", "more pixels than the cap of 64,000,000"], on("bomb")),
    ("50", 4, ["folder: cat", "form a loop: 1", "lead out", "--follow-symlinks", "pipes"], on("pipe")),
    ("61", 4, ["classes are not those of the training", "cat", "'9'"], [*EVALUATE, "folder:good"]),
    ("63-none", 4, ["test", "no images"], [*EVALUATE, "folder:nobody"]),
    ("63-filtered", 4, ["cannot be read"], [*EVALUATE, "folder:broken", "--skip-bad-images"]),
    ("1-dataset", 2, ["unknown dataset", "mnist", "folder:PATH"], [*SEARCH, *NEW, "--dataset", "mnist"]),
)
def test_data(folders, code, parts, arguments):
    if "folder:nobody" in arguments:
        make_images(folders / "nobody" / "train", {"cat": 2, "dog": 2})
        for name in ("cat", "dog"):
            Path("nobody", "test", name).mkdir(parents=True)
    said = refused(code, parts, arguments)
    assert "0.00 %" not in said and "nan" not in said.lower()


def test_row_47_and_49_what_was_skipped_and_converted_is_on_record(folders):
    Image.new("CMYK", (12, 12), (9, 9, 9, 9)).save("broken/train/dog/cmyk.jpg")
    result = sharpkeras(*on("broken", "--skip-bad-images", "--batch-size", "8", "--epochs", "1"))
    assert result.code == 0, result.err
    assert "note: skipped 4 files" in result.err and "note: converted 1 CMYK image to RGB" in result.err
    facts = json.loads(Path("new/data.json").read_text())
    assert facts["skipped_files"] == [f"train/cat/{name}.jpg" for name in ("gif", "half", "none", "page")]
    assert any("CMYK" in note for note in facts["notes"])


def test_row_51_class_names_are_escaped_in_all_output(folders):
    make_images(folders / "evil" / "train", {"\x1b[31mred": 3, "a\nb": 3})
    said = refused(4, ["\\x1b[31mred", "a\\nb"], on("evil"))
    assert "\x1b" not in said


def test_row_52_cifar10_is_not_downloaded_unasked(place, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(place / "datasets"))
    refused(4, ["cifar10", "--download"], [*SEARCH, *NEW, "--dataset", "cifar10"])


def test_row_53_imagenet_is_made_from_files_that_the_user_gets(place, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(place / "datasets"))
    parts = ["imagenet2012 is not prepared", "ILSVRC2012_img_train.tar", "manual", "--dataset imagenet:DIR"]
    refused(4, parts, [*SEARCH, *NEW, "--dataset", "imagenet"])


def test_row_62_cifar10_1_of_another_version(place):
    np.save("cifar10.1_v6_data.npy", np.zeros((2000, 32, 32, 3), np.uint8))
    np.save("cifar10.1_v6_labels.npy", np.arange(2000) % 10)
    refused(4, ["CIFAR-10.1 v4 was asked for, and this is v6"], [*EVALUATE, "cifar10.1-v4:."])


# --- runs ---


def test_row_9_a_failed_overwrite_loses_nothing(place):
    refused(4, ["no such folder"], [*SEARCH, "--out", "search", "--overwrite", "--dataset", "folder:nowhere"])
    refused(2, ["--cutout-px"], [*TRAIN, "--overwrite", "--cutout-px", "64"])


def test_row_11_a_nearly_full_disk(place, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(epochs.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(7, ["new", "0.0 MB free", "3 checkpoints of", "--ignore-disk-check"], [*SEARCH, *NEW])
    refused(7, ["new", "--ignore-disk-check"], TRAIN_NEW)
    assert sharpkeras(*TRAIN, *NEW, "--epochs", "1", "--ignore-disk-check").code == 0


HOLD = """
import json, sys, time
from sharpkeras.runs import RunDirectory
with RunDirectory.reserve("search", "search", json.load(open("search/recipe.json"))):
    print("held", flush=True)
    time.sleep(600)
"""


def test_row_12_a_run_that_another_process_holds(place):
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        parts = [f"PID {holder.pid} on {socket.gethostname()} since 2", "in use"]
        refused(5, parts, [*SEARCH, "--out", "search"])
    finally:
        holder.kill()
        holder.communicate()
    assert sharpkeras(*SEARCH, "--out", "search").code == 0


IMPORTED = """
import sys
import tempfile
from sharpkeras_cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"keras", "tensorflow", "jax", "torch"} & sys.modules.keys()
    print("imported:", *heavy, file=sys.stderr)
"""


def test_row_14_an_unsupported_backend_before_any_heavy_import(place):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *SEARCH],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and "torch" in done.stderr and "allowed: tensorflow, jax" in done.stderr
    assert done.stderr.strip().endswith("imported:")


def test_row_14_export_takes_tensorflow_by_itself(place, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    result = sharpkeras("export", "train", "--out", "new.onnx")
    assert result.code == 0 and "export runs on TensorFlow" in result.err and Path("new.onnx").exists()


def test_row_17_a_run_in_another_thread_without_a_terminal(place):
    results = []
    thread = threading.Thread(target=lambda: results.append(sharpkeras(*SEARCH, *NEW, "--epochs", "1")))
    thread.start()
    thread.join()
    assert results[0].code == 0 and "epoch 1/1" in results[0].err and "\x1b" not in results[0].err


class Poison(NullProgress):
    """Makes a weight NaN after the first epoch."""

    def __init__(self, models):
        self.models = models

    def epoch(self, row):
        kernel = self.models[0].supernet.trainable_variables[0]
        kernel.assign(np.full(kernel.shape, np.nan))


def test_row_23_a_search_that_diverges_keeps_its_last_checkpoint(place, monkeypatch):
    models, make = [], builders.search_model
    monkeypatch.setattr(builders, "search_model", lambda *_: models.append(make(*_)) or models[0])
    recipe = SearchRecipe(limit=80, batch_size=16, init_channels=2, epochs=3, num_nodes=1, space=PRIMITIVES)
    options = run_options.RunOptions(checkpoint_s=0.0)
    with pytest.raises(NumericalError, match="weights became NaN or infinite in epoch 2, step 1"):
        sk.search(recipe, "new", options=options, progress=Poison(models))
    told = json.loads(Path("new/diverged.json").read_text())
    assert (told["epoch"], told["step"]) == (1, 0)
    assert (told["epochs_counted_from"], told["steps_counted_from"]) == (0, 0)
    assert told["checkpoint"] == "000000-000002" and "weights" in told["not_finite"]
    arrays, facts, rows = Checkpoints(Path("new/checkpoints")).load()
    assert facts["epoch"] == 0 and rows == [] and all(np.isfinite(array).all() for array in arrays.values())
    assert len(Path("new/metrics.jsonl").read_text().splitlines()) == 1


def test_row_23_through_the_command_line(place):
    result = sharpkeras(*SEARCH, *NEW, "--learning-rate", "1e30")
    assert result.code == 6 and "diverged.json" in result.err and "NaN" in result.err and not result.out
    assert json.loads(Path("new/diverged.json").read_text())["not_finite"]["train_loss"] in ("nan", "inf")


def test_row_24_a_degenerate_genotype(place):
    arguments = [*SEARCH, *NEW, "--space", "skip_connect,max_pool_3x3", "--epochs", "1"]
    result = sharpkeras(*arguments, "--json")
    assert result.code == 0 and "WARNING: degenerate architecture" in result.err
    assert "no convolution" in result.json["degenerate"]
    assert sharpkeras(*arguments, "--fail-on-degenerate").code == 6
    assert sharpkeras(*SEARCH, "--out", "search", "--json").json["degenerate"] is None


def test_row_24_alphas_that_never_moved(place):
    path = Path("search/epochs/0001.json")
    epoch = json.loads(path.read_text())
    path.write_text(json.dumps({**epoch, "alphas": np.zeros_like(epoch["alphas"]).tolist()}))
    assert sharpkeras(*SEARCH, "--out", "search", "--json").json["degenerate"] == "all alphas are equal"


@pytest.mark.parametrize("name", ["search", "train"])
def test_row_25_out_of_memory_at_the_first_step(place, monkeypatch, name):
    from tensorflow.errors import ResourceExhaustedError

    def step(data):
        raise ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16,8,8,6]")

    model = builders.SearchModel if name == "search" else builders.TrainingModel
    monkeypatch.setattr(model, "compiled_step", lambda self: step)
    monkeypatch.setattr(forecast, "refuse_too_large", lambda *_: None)
    arguments = [*SEARCH, *NEW] if name == "search" else [*TRAIN, *NEW]
    result = sharpkeras(*arguments)
    assert result.code == 7 and not result.out
    for part in ("out of memory", "shape[16,8,8,6]", "batch size 16, 2 channels, 3 cells", "--remat", "--batch-size"):
        assert part in result.err
    assert ("--accumulate" in result.err) == (name == "train")


@pytest.mark.parametrize("name", ["search", "train"])
def test_row_25_too_little_memory_is_known_before_the_first_step(place, monkeypatch, name):
    monkeypatch.setattr(forecast, "memory_left", lambda: 10**6)
    arguments = [*SEARCH, *NEW] if name == "search" else [*TRAIN, *NEW]
    result = sharpkeras(*arguments)
    assert result.code == 7 and not result.out and "first step done" not in result.err
    for part in ("more memory than there is", "batch size 16, 2 channels, 3 cells: an estimated 0.", "allowed: 0.0 GB"):
        assert part in result.err
    assert sharpkeras(*arguments, "--ignore-memory-check", "--epochs", "1", "--overwrite").code == 0
    told = sharpkeras(*arguments, "--dry-run", "--json").json
    assert told["fits"] is False and told["step_s"] is None and told["peak_memory_bytes"] > 10**6


def test_row_29_other_data_than_the_run_began_with(folders):
    search = on("good", "--epochs", "1")
    stop_before_the_end(search)
    Image.new("RGB", (8, 8)).save("good/train/cat/000.png")
    before = json.loads(Path("new/data.json").read_text())["fingerprint"]
    said = refused(5, ["began with other data", f"allowed: {before}", "seen:    fingerprint ", "--overwrite"], search)
    assert said.count(before) == 1


def stop_before_the_end(arguments):
    """Leaves a run that is not finished."""
    assert sharpkeras(*arguments).code == 0
    facts = json.loads(Path("new/run.json").read_text())
    Path("new/run.json").write_text(json.dumps({**facts, "finished": None}))


def test_row_30_a_damaged_checkpoint_falls_back_to_the_one_before(place):
    stop_before_the_end([*SEARCH, *NEW, "--checkpoint-interval", "0"])
    expected = Path("new/metrics.jsonl").read_text().splitlines()[0]
    newest = Path("new/checkpoints/000002-000000/arrays.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    result = sharpkeras(*SEARCH, *NEW)
    assert result.code == 0 and "going on from checkpoint 000001-000002" in result.err
    assert "checkpoint 000002-000000 is damaged (arrays.safetensors has " in result.err
    assert "goes on after epoch 1 of 2, step 2" in result.err
    assert Path("new/metrics.jsonl").read_text().splitlines()[0] == expected


def test_row_30_no_checkpoint_is_whole(place):
    stop_before_the_end([*SEARCH, *NEW])
    for path in Path("new/checkpoints").glob("*/manifest.json"):
        path.unlink()
    for _ in range(2):  # the first time puts them aside
        result = sharpkeras(*SEARCH, *NEW)
        assert result.code == 5 and "every checkpoint is damaged" in result.err and "--overwrite" in result.err


def test_row_31_a_run_of_a_newer_program(place):
    facts = json.loads(Path("search/run.json").read_text())
    Path("search/run.json").write_text(json.dumps({**facts, "schema_version": 9}))
    refused(5, ["newer version", "schema_version 9"], [*SEARCH, "--out", "search", "--resume"])


@pytest.mark.parametrize("lost", ["metrics.jsonl", "epochs/0000.json", "data.json"])
def test_row_32_what_can_not_be_made_again(place, lost):
    Path("train" if lost == "data.json" else "search", lost).unlink()
    result = sharpkeras(*(TRAIN if lost == "data.json" else SEARCH_AGAIN))
    assert result.code == 5 and Path(lost).stem in result.err


def test_row_33_another_version_is_told_or_refused(place):
    facts = json.loads(Path("search/run.json").read_text())
    Path("search/run.json").write_text(json.dumps({**facts, "versions": {**facts["versions"], "keras": "3.0.0"}}))
    result = sharpkeras(*SEARCH, "--out", "search", "--resume")
    assert result.code == 0 and "not bit-exact" in result.err and "keras 3.0.0 -> 3." in result.err
    result = sharpkeras(*SEARCH, "--out", "search", "--strict-resume")
    assert result.code == 5 and "keras 3.0.0 -> 3." in result.err


def no_room(*_):
    raise ResourceError("the disk is full")


def full(path, flags):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        (["compare", "search", "--picture", "new.png"], "its AddMults"),
        (["extract", "search", "--out", "new.json"], "AddMults (the paper's count)"),
        (["evaluate", "train"], "error"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_row_56_what_was_computed_is_told_though_the_disk_is_full(place, monkeypatch, arguments, figure):
    before = files_below(place)
    monkeypatch.setattr(atomic_writes, "_anew", full)
    result = sharpkeras(*arguments)
    assert result.code == 7 and figure in result.out and "the disk is full" in result.err and "Next:" not in result.out
    result = sharpkeras(*arguments, "--json")
    assert result.code == 7 and result.json and json.loads(result.err.splitlines()[-1])["exit_code"] == 7
    assert files_below(place) == before


@pytest.mark.parametrize("name", ["search", "train"])
def test_row_56_pictures_are_missing_and_drawn_later(place, monkeypatch, name):
    """All else stands in the run already, and the same command draws them."""
    Path(name, "metrics.png").unlink()
    command = SEARCH_AGAIN if name == "search" else TRAIN
    with monkeypatch.context() as patch:
        patch.setattr("sharpkeras.view.curves.draw_metrics", no_room)
        result = sharpkeras(*command)
    assert result.code == 0 and "pictures are missing (the disk is full)" in result.err
    assert "AddMults" in result.out or "normal" in result.out
    assert sharpkeras(*command).code == 0 and Path(name, "metrics.png").is_file()


# --- weights and evaluation ---


def change_weights(change):
    arrays, meta = atomic_writes.load_arrays(Path("train/weights.safetensors"))
    atomic_writes.save_arrays(Path("train/weights.safetensors"), change(arrays), meta)


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_row_40_weights_of_another_genotype(place, command):
    change_weights(lambda arrays: {name.replace("cells.1", "cells.7"): array for name, array in arrays.items()})
    refused(5, ["does not belong", "unused keys", "cells.7.", "unset variables", "cells.1."], [command, "train"])


@pytest.mark.parametrize("name", ["train", "train/weights.safetensors", "weights.h5"])
def test_row_40_initial_weights_of_another_genotype(place, name):
    arrays, _ = atomic_writes.load_arrays(Path("train/weights.safetensors"))
    with h5py.File("weights.h5", "w") as file:
        file.update(arrays)
    genotype = json.loads(Path("search/genotype.json").read_text())
    first = genotype["normal"][0]  # from one with weights to one without, or the other way round
    first[0] = "max_pool_3x3" if first[0] == "sep_conv_3x3" else "sep_conv_3x3"
    Path("other.json").write_text(json.dumps(genotype))
    command = ["train", "other.json", *TRAIN[2:-2], "--out", "new", "--init", name]
    refused(5, [name, "does not belong", "cells.0."], command)
    refused(5, ["arrays of another shape (", "stem.0.weight"], [*command[:1], "search", *command[2:-2], *WIDE])


WIDE = ["--init-channels", "4", "--init", "train"]


@rows(
    ("40-missing", 2, ["--init nowhere", "no such file"], ["--init", "nowhere"]),
    ("40-other", 2, ["typo.json", "is no file of weights"], ["--init", "typo.json"]),
    ("40-search", 5, ["search", "holds no train run"], ["--init", "search"]),
    ("40-safetensors", 5, ["empty.safetensors", "is damaged"], ["--init", "empty.safetensors"]),
    ("40-h5", 5, ["empty.h5"], ["--init", "empty.h5"]),
    ("40-keras", 9, ["model.keras"], ["--init", "model.keras"]),
)
def test_initial_weights_that_are_none(place, code, parts, arguments):
    for name in ("empty.safetensors", "empty.h5", "model.keras"):
        Path(name).write_bytes(b"")
    refused(code, parts, [*TRAIN[:-2], "--out", "new", *arguments])


def test_row_41_weights_that_are_not_finite(place):
    change_weights(lambda arrays: {**arrays, "classifier.bias": np.full_like(arrays["classifier.bias"], np.nan)})
    refused(5, ["non-finite in 1 arrays", "classifier.bias"], ["evaluate", "train"])


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "truncated"])
def test_row_58_weights_that_are_not_there(place, kind):
    weights = Path("train/weights.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    if kind == "directory":
        weights.mkdir()
    elif kind != "missing":
        weights.write_bytes(b"" if kind == "empty" else content[:1000])
    words = {"missing": "has no trained weights", "directory": "is a directory and not a regular file"}
    refused(5, ["train", words.get(kind, "is damaged")], ["evaluate", "train"])


@rows(
    ("58-run", 5, ["nowhere", "no run directory"], ["evaluate", "nowhere"]),
    ("58-search", 5, ["holds no train run", "a search run"], ["evaluate", "search"]),
    ("58-file", 5, ["model.onnx", "no run directory"], ["evaluate", "model.onnx"]),
    ("65-twice", 2, ["the same run twice", "train"], ["compare", "train", "./train"]),
    ("65-nowhere", 5, ["nowhere", "no run directory"], ["compare", "train", "nowhere"]),
    ("65-none", 2, ["RUN"], ["compare"]),
    ("65-picture", 2, ["--picture", "search run"], ["compare", "train", "--picture", "new.png"]),
    ("65-suffix", 2, ["--picture", ".png"], ["compare", "search", "--picture", "new.npz"]),
    ("66-low", 2, ["--opset", "5", "13 to 18"], ["export", "train", "--opset", "5", "--out", "new.onnx"]),
    ("66-high", 2, ["--opset", "999", "13 to 18"], ["export", "train", "--opset", "999", "--out", "new.onnx"]),
    ("67-exists", 5, ["model.onnx", "exists already", "--overwrite"], ["export", "train", "--out", "model.onnx"]),
    ("67-run", 5, ["train/recipe.json"], ["export", "train", "--out", "train/recipe.onnx", "--overwrite"]),
    ("67-suffix", 2, ["ends in .onnx"], ["export", "train", "--out", "train/weights.safetensors", "--overwrite"]),
    ("67-place", 5, ["plain.txt"], ["export", "train", "--out", "plain.txt/new.onnx"]),
    ("67-directory", 5, ["/proc"], ["export", "train", "--out", "/proc/new.onnx"]),
)
def test_evaluate_and_export(place, code, parts, arguments):
    refused(code, parts, arguments)


def test_row_64_how_the_weights_were_selected_is_always_said(finished):
    assert "nothing was selected on these images" in (finished / "evaluate.txt").read_text()


def test_row_65_other_test_images_need_force(place):
    shutil.copytree("train", "other")
    report = json.loads(Path("other/evaluation.json").read_text())
    Path("other/evaluation.json").write_text(json.dumps({**report, "fingerprint": "0" * 64}))
    refused(3, ["not comparable", "other was tested on other images", "--force"], ["compare", "train", "other"])
    result = sharpkeras("compare", "train", "other", "--force")
    assert result.code == 0 and "OTHER IMAGES" in result.out


def test_row_86_and_87_seeds_that_are_missing_and_a_single_one(place):
    recipe = json.loads(Path("train/recipe.json").read_text())
    recipe["settings"]["seed"] = 7
    with RunDirectory.open("crashed", "train", recipe) as run:
        run.write_json("diverged.json", {"epoch": 0})
    alone = sharpkeras("compare", "train").out
    assert "(single run)" in alone and "±" not in alone
    both = sharpkeras("compare", "train", "crashed").out
    assert "│ failed" in both and "(single run, n = 1 of 2)" in both


def test_row_69_an_altered_weight_is_noticed(place, monkeypatch):
    import onnx

    convert = conversion.convert

    def altered(*arguments):
        model = convert(*arguments)
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(largest).copy()
        values.flat[0] += 10
        largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
        return model

    monkeypatch.setattr(conversion, "convert", altered)
    before = files_below(place)
    result = sharpkeras("export", "train", "--out", "model.onnx", "--overwrite")
    assert result.code == 8 and "model.rejected.onnx" in result.err and "image" in result.err
    assert "a difference of" in result.err and not result.out
    after = files_below(place)
    assert set(after) - set(before) == {place / "model.rejected.onnx"} and before.items() <= after.items()


def test_row_54_and_68_half_precision_on_a_cpu_and_its_export(place):
    half = [*TRAIN[:-2], "--epochs", "1", "--precision", "mixed_bfloat16", "--out", "half"]
    result = sharpkeras(*half)
    assert result.code == 0 and "note: mixed_bfloat16 is slower than float32 on a CPU" in result.err
    result = sharpkeras("export", "half", "--out", "half.onnx", "--json")
    assert result.code == 0 and "note: trained in mixed_bfloat16; the file computes in float32" in result.err
    assert result.json["largest_difference"] < 1e-4 and result.json["selected"]["by"] == "held_out"


def test_row_55_a_loss_scale_that_never_fits(place, monkeypatch):
    monkeypatch.setattr(precision, "INITIAL_SCALE", 2.0**120)  # overflows whatever the loss
    monkeypatch.setattr(precision, "SMALLEST_SCALE", 2.0**120)
    monkeypatch.setattr(training_state, "MAX_SKIPPED", 6)
    result = sharpkeras(*TRAIN[:-2], "--precision", "mixed_float16", "--out", "half")
    assert result.code == 6 and "8 steps in a row" in result.err and "mixed_bfloat16" in result.err
    assert not Path("half", "weights.safetensors").exists()


@pytest.mark.parametrize("package", ["tf2onnx", "onnx", "tensorflow"])
def test_row_70_a_package_for_the_export_is_missing(place, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    refused(3, [package, "pip install"], ["export", "train", "--out", "new.onnx"])


def test_row_71_the_converter_fails(place, monkeypatch):
    from tf2onnx import tfonnx

    def process_tf_graph(*_, **__):
        logging.getLogger("tf2onnx").error("Tensorflow op [cells/1: Foo] is not supported")
        raise ValueError("no mapping for Foo")

    monkeypatch.setattr(tfonnx, "process_tf_graph", process_tf_graph)
    result = sharpkeras("export", "train", "--out", "new.onnx")
    assert result.code == 8 and not result.out and "cannot be converted" in result.err
    assert "cells/1: Foo" in result.err and "new.conversion.log" in result.err
    assert "no mapping for Foo" in Path("new.conversion.log").read_text()
    assert not Path("new.onnx").exists()


INT8 = ("export", "train", "--out", "new.onnx", "--quantize", "int8")


def test_row_72_too_few_images_to_calibrate_on(place):
    refused(4, ["--calibration-images", "at least 100"], [*INT8, "--calibration-images", "99"])
    refused(4, ["calibrated on images of training"], [*INT8, "--calibration-images", "0"])


def test_row_72_calibrated_on_test_images(place, monkeypatch):
    load = export.load
    monkeypatch.setattr(export, "load", lambda spec, split, **options: load(spec, "test", **options))
    refused(4, ["calibration images are test images"], INT8)


def test_row_73_int8_that_loses_too_much(place, monkeypatch):
    monkeypatch.setattr(export_onnx, "LEAST_OF_TOP_1", 1.5)  # a network that was trained for two epochs knows nothing
    result = sharpkeras(*INT8)
    assert result.code == 8 and "int8 loses too much" in result.err and not result.out
    assert result.err.count("interval") >= 2 and "new.rejected.onnx" in result.err


def raise_(error):
    raise error


FULL = ["the disk is full", "free some space"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_7_wherever_it_is_met(place, monkeypatch, number):
    """In the file itself; in a temporary one, of which an error has no name; and in the words of the converter."""
    full = OSError(number, os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: raise_(full))
        refused(7, [*FULL, "new.onnx"], ["export", "train", "--out", "new.onnx"])
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", lambda: raise_(full))
        refused(7, FULL, INT8)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "frozen_graph", lambda *_: raise_(ValueError("no mapping")))
        patch.setattr(Path, "write_text", lambda *_, **__: raise_(full))
        refused(7, FULL, ["export", "train", "--out", "new.onnx"])


# --- ONNX files of strangers ---


def tiny_onnx(path, domain="", location=None, shape=("batch", 8, 8, 1)):
    """A model of one node; with its one tensor in another file, or an operator of another domain, if asked."""
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    if location:
        tensor = TensorProto(name="one", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
    operator = "Add" if not domain else "Launch"
    node = helper.make_node(operator, ["images", "one"], ["logits"], domain=domain)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "logits")]
    graph = helper.make_graph([node], "tiny", values[:1], values[1:], [tensor])
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    Path(path).write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.fixture
def strangers(place):
    tiny_onnx("up.onnx", location="../../etc/passwd")
    tiny_onnx("absolute.onnx", location="/etc/passwd")
    tiny_onnx("link.onnx", location="link.bin")
    Path("link.bin").symlink_to("/etc/passwd")
    tiny_onnx("custom.onnx", domain="com.evil")
    tiny_onnx("unknown.onnx", shape=("batch", "height", "width", 3))
    tiny_onnx("fixed.onnx", shape=(4, 8, 8, 1))
    Path("cut.onnx").write_bytes(Path("model.onnx").read_bytes()[:-2000])
    Path("random.onnx").write_bytes(np.random.default_rng(0).bytes(5000))
    Path("zero.onnx").write_bytes(b"")
    Path("latin.onnx").write_bytes(Path("model.onnx").read_bytes().replace(b"\x06images", b"\x06im\xe4ges"))
    with open("huge.onnx", "wb") as file:
        file.truncate(3 * 2**30)
    return place


@rows(
    ("74-up", 9, ["up.onnx", "'one'", "another file", "../../etc/passwd"], ["up.onnx"]),
    ("74-absolute", 9, ["absolute.onnx", "/etc/passwd"], ["absolute.onnx"]),
    ("74-link", 9, ["link.onnx", "link.bin"], ["link.onnx"]),
    ("75-cut", 3, ["cut.onnx"], ["cut.onnx"]),
    ("75-random", 3, ["random.onnx", "not an ONNX file"], ["random.onnx"]),
    ("75-empty", 3, ["zero.onnx"], ["zero.onnx"]),
    ("75-huge", 3, ["huge.onnx", "2 GiB"], ["huge.onnx"]),
    ("75-latin", 3, ["latin.onnx", "no UTF-8"], ["latin.onnx"]),
    ("75-missing", 2, ["nowhere.onnx", "no such file"], ["nowhere.onnx"]),
    ("76", 9, ["custom.onnx", "'Launch'", "com.evil"], ["custom.onnx"]),
    ("77", 8, ["--providers", "CUDA", "CPUExecutionProvider"], ["model.onnx", "--providers", "CUDA", "--runs", "5"]),
    ("78", 2, ["p99 needs at least 1000 runs", "5"], ["model.onnx", "--runs", "5", "--percentile", "99"]),
    ("78-unknown", 2, ["--percentile", "33", "[50, 90, 95, 99]"], ["model.onnx", "--percentile", "33"]),
    ("81-unknown", 2, ["unknown.onnx", "not static", "'height', 'width', 3"], ["unknown.onnx"]),
    ("75-second", 3, ["cut.onnx"], ["model.onnx", "cut.onnx"]),  # before the first is timed
    ("81-batch", 2, ["fixed.onnx", "[4, 8, 8, 1]", "--batch-size 4"], ["fixed.onnx"]),
)
def test_benchmark(strangers, code, parts, arguments):
    refused(code, parts, ["benchmark", *arguments])


def test_inspect_of_names_that_are_no_utf_8(strangers):
    refused(3, ["latin.onnx", "no UTF-8"], ["inspect", "latin.onnx"])


def test_row_79_more_threads_than_cores(place):
    threads = benchmark.available_cores() + 1
    result = sharpkeras("benchmark", "model.onnx", "--runs", "5", "--threads", threads)
    assert result.code == 0 and f"note: {threads} threads on {threads - 1} available cores" in result.err
    assert f"{threads} threads" in result.out


def test_row_80_a_noisy_machine(place, monkeypatch):
    monkeypatch.setattr(benchmark, "busy_share", lambda: 0.9)
    result = sharpkeras("benchmark", "model.onnx", "--runs", "5")
    assert result.code == 0 and "UNSTABLE" in result.out
    result = sharpkeras("benchmark", "model.onnx", "--runs", "5", "--json", "--fail-on-noise")
    assert result.code == 8 and result.json["unstable"]
    assert "90%" in str(result.json["models"][0]["unstable_because"])


# --- sweeps ---

ROW = '{"rows": [{"recipe": "digits", "seeds": "0-1"}]}'
TWO_BAD_ROWS = '{"rows": [{"recipe": "digit"}, {"name": "../x"}]}'


@rows(
    ("88-none", 3, ["rows.json", "has no rows"], ["sweep", "rows.json"], "{}"),
    ("88-key", 3, ["rows[0]", "epochs"], ["sweep", "rows.json"], '{"rows": [{"epochs": 3}]}'),
    ("88-two", 3, ["2 things", "rows[0]: recipe", "rows[1]: name"], ["sweep", "rows.json"], TWO_BAD_ROWS),
    ("88-seeds", 3, ["seeds", "3-1"], ["sweep", "rows.json", "--seeds", "3-1"], ROW),
    ("88-setting", 3, ["rows[0]: train: epochs", "at least 1"], ["sweep", "rows.json", "--train", "epochs=0"], ROW),
    ("88-dataset", 2, ["unknown dataset", "mnits"], ["sweep", "rows.json", "--search", "dataset=mnits"], ROW),
    ("88-nothing", 2, ["--recipes"], ["sweep"], ROW),
    ("88-both", 2, ["--recipes"], ["sweep", "rows.json", "--recipes", "digits"], ROW),
    ("88-file", 2, ["nowhere.toml"], ["sweep", "nowhere.toml"], ROW),
    ("89-other", 5, ["notes", "no sweep of ours", "--out"], ["sweep", "rows.json", "--out", "notes"], ROW),
    ("89-run", 5, ["search", "no sweep of ours", "--out"], ["sweep", "rows.json", "--out", "search"], ROW),
    ("91-slurm", 7, ["sbatch", "--on local"], ["sweep", "rows.json", "--on", "slurm"], ROW),
    ("91-gpu", 7, ["no GPU", "--device cpu"], ["sweep", "rows.json", "--device", "gpu"], ROW),
)
def test_sweeps(place, monkeypatch, code, parts, arguments, content):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(pools, "require", lambda package: None)  # what is missing is Slurm itself
    monkeypatch.setattr(shutil, "which", lambda program: None)
    Path("rows.json").write_text(content)
    refused(code, parts, arguments)


@pytest.mark.parametrize("on", [pytest.param("ray", id="row-91-ray"), pytest.param("slurm", id="row-91-submitit")])
def test_a_place_for_jobs_whose_package_is_missing(place, on, monkeypatch):
    find_spec = importlib.util.find_spec
    missing = ("ray", "submitit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in missing else find_spec(name, *_))
    Path("rows.json").write_text(ROW)
    said = refused(3, ["is not installed", f'pip install "sharpkeras[{on}]"'], ["sweep", "rows.json", "--on", on])
    assert "--on" in said


def test_row_89_a_sweep_keeps_its_settings_and_takes_new_seeds(place):
    Path("rows.json").write_text(ROW)
    Path("sweep").mkdir()
    content = {"kind": "sweep", "schema_version": 1, "rows": [{"name": "digits", "search": {"epochs": 3}}]}
    Path("sweep/sweep.json").write_text(json.dumps(content))
    said = refused(5, ["another row digits", "search.epochs", "--out"], ["sweep", "rows.json", "--out", "sweep"])
    assert "new seeds are added" in said
    more = ["--seeds", "0-2", "--search", "epochs=3", "--dry-run", "--json"]
    result = sharpkeras("sweep", "rows.json", "--out", "sweep", *more)
    assert result.code == 0 and len(result.json["commands"]) == 9


def test_row_90_a_job_that_fails(place):
    nowhere = ["--search", "dataset=folder:nowhere", "--out", "sweep", "--json"]
    result = sharpkeras("sweep", "--recipes", "digits", *nowhere)
    assert result.code == 4 and "FAILED in search with exit code 4" in result.err
    assert re.search(r"^sweep: +Error: .*nowhere", result.err, re.MULTILINE) and "seed-0/log.txt" in result.err
    (job,) = result.json["jobs"]
    assert job["status"] == "failed" and job["exit_code"] == 4 and result.json["comparison"] is None


# --- the table of docs/bad_input.md ---


def test_rows_are_numbered_from_1():
    numbers = [number for number, _ in bad_input.table()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 87


def test_each_row_has_a_test_and_each_test_a_row():
    named = {row for case in bad_input.cases() for row in case.rows}
    assert named == {number for number, _ in bad_input.table()}


def test_exit_codes_are_those_of_the_table():
    """Both ways; 0 also ends what a test does right, such as the same command once its input is mended."""
    allowed, expected = dict(bad_input.table()), {}
    for case in bad_input.cases():
        of_rows = frozenset({0}).union(*(allowed[row] for row in case.rows))
        assert case.exit_codes <= of_rows, f"{case.place} expects {set(case.exit_codes)}, the table has {set(of_rows)}"
        for row in case.rows:
            expected.setdefault(row, {0}).update(case.exit_codes)
    untested = {row: codes - expected[row] for row, codes in allowed.items() if not codes <= expected[row]}
    assert not untested, f"exit codes that no test expects: {untested}"
