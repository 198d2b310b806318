"""`sharpkeras inspect`, and the refusal of strangers' model files: told what they are, never run, never followed.

The number in a test's name or id is that of its row in docs/bad_input.md.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from support.command_line import files_below, sharpkeras

from sharpkeras import inspection
from sharpkeras.errors import ConfigError, RunError, SafetyError
from sharpkeras.inspection import signatures, text_files
from sharpkeras.io import atomic_writes
from sharpkeras.runs import RunDirectory

CELL = [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 2], ["sep_conv_3x3", 0]]
GENOTYPE = {"normal": CELL, "normal_concat": [2, 3], "reduce": CELL, "reduce_concat": [2, 3]}
ROUTE = [{"filters": 32}, {"filters": 64, "primitive": "SharpSepConv"}]
ARRAYS = {"stem": np.ones((3, 4), "float32"), "step": np.array(7)}
EVALUATION = {"n": 100, "errors": 5, "error": 0.05, "interval": [0.01, 0.12]}


class Evil:
    """Makes a file called `ran` when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspected(*arguments, code=0):
    """The object that `inspect --json` prints, with what it has to leave alone left alone."""
    before = files_below(Path.cwd())
    result = sharpkeras("inspect", *arguments, "--json")
    assert result.code == code, result.err
    assert files_below(Path.cwd()) == before
    return result.json


def refused(code, parts, *arguments):
    result = sharpkeras(*arguments)
    assert result.code == code, f"{result.code}: {result.err}{result.out}"
    for part in parts:
        assert part in result.err, f"{part!r} is missing in: {result.err}"
    assert not result.out and "bug of sharpkeras" not in result.err and not Path("ran").exists()
    assert "\x1b" not in result.err


def zipped(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)


def keras_file(path, *layers, **more):
    """A `.keras` file of the form that Keras writes, with these layers in its configuration."""
    plain = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 2}, "registered_name": None}
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": [plain, *layers]}}
    zipped(path, config__json=json.dumps(config), metadata__json="{}", model__weights__h5=b"", **more)


# --- row 82: what it does not open, it names ---

TORCH = pickle.dumps(Evil())


@pytest.mark.parametrize(
    ("words", "content"),
    [
        pytest.param(words, content, id=f"row-82-{number}")
        for number, (words, content) in enumerate(
            [
                ("a Python pickle", pickle.dumps(Evil())),
                ("a Python pickle", pickle.dumps(Evil(), protocol=0)),
                ("a Python pickle", pickle.dumps({"normal": []}, protocol=0)),
                ("a gzip file", b"\x1f\x8b\x08\0"),
                ("a tar file", bytes(257) + b"ustar\0" + bytes(300)),
                ("ELF", b"\x7fELF\x02\x01\x01"),
                ("HTML or XML", b"\n<!DOCTYPE html><html>"),
                ("a GIF image", b"GIF89a"),
                ("a script", b"#!/bin/sh\ntouch ran\n"),
                ("an empty file", b""),
                ("unknown binary file that begins with 00 01 02", bytes(range(100))),
                ("text of an unknown form", b"hello"),
                ("text of an unknown form", "Gr\u00fc\u00dfe ".encode() * 100),
            ]
        )
    ],
)
@pytest.mark.parametrize("name", ["genotype.json", "weights"])
def test_what_is_not_opened_is_named(place, words, content, name):
    Path(name).write_bytes(content)
    if name.endswith(".json") and ("text" in words or "unknown" in words):
        words = "JSON"  # which it is not, though its name says so
    refused(3, [name, words], "inspect", name)


def test_row_82_other_zip_files_are_named(place):
    zipped("model.pt", **{"model/data__pkl": TORCH, "model/version": "3"})
    refused(3, ["a PyTorch file, a pickle"], "inspect", "model.pt")
    zipped("notes.zip", **{"notes__txt": "hello"})
    refused(3, ["a zip file of no kind"], "inspect", "notes.zip")


@pytest.mark.parametrize(
    ("name", "code"),
    [("missing", 2), ("pipe", 2), ("folder", 5), ("cut.png", 4), ("cut.onnx", 3), ("cut.h5", 5), ("cut.npy", 5)],
)
def test_what_is_not_there_or_broken(place, name, code):
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("cut.onnx").write_bytes(b"\x08\x07\x12")
    Path("cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n\0\0")
    np.save("cut.npy", np.ones(3))
    Path("cut.npy").write_bytes(Path("cut.npy").read_bytes().replace(b"}", b" "))
    refused(code, [name], "inspect", name)


def test_a_length_that_looks_like_a_pickle_or_a_gzip_file(place):
    """A safetensors file begins with the length of its header, any number at all."""
    for length in (0x0280, 0x8B1F):
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        Path("a").write_bytes(length.to_bytes(8, "little") + header.ljust(length) + bytes(4))
        assert signatures.detect(Path("a"))[0] == "safetensors" and inspected("a")["facts"]["count"] == 1


# --- row 83: what would fill the memory, or is pickled inside ---


def bomb(place):
    keras_file("a.keras", assets__bin=bytes(64 * 2**20))


def bomb_of_many(place):
    """Each member is harmless, all of them together are not."""
    zipped("a.npz", **{f"a{number}__npy": bytes(8 * 2**20) for number in range(9)})


def objects(place):
    np.savez("a.npz", plain=np.ones(3), objects=np.array([Evil()], dtype=object))


def objects_alone(place):
    np.save("a.npy", np.array([Evil()], dtype=object))


def lying(place):
    np.save("a.npy", np.ones(3))
    Path("a.npy").write_bytes(Path("a.npy").read_bytes().replace(b"(3,), }      ", b"(3000000,), }"))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        pytest.param(bomb, ["assets.bin would fill the memory", "67,108,864 bytes declared"], id="row-83-bomb"),
        pytest.param(bomb_of_many, ["what is in it would fill", "75,497,472"], id="row-83-many"),
        pytest.param(objects, ["objects.npy holds Python objects"], id="row-83-objects"),
        pytest.param(objects_alone, ["a.npy holds Python objects"], id="row-83-npy"),
        pytest.param(lying, ["declares more than it holds", "24,000,000"], id="row-83-lying"),
    ],
)
def test_bombs_and_objects(place, make, parts):
    make(place)
    (name,) = [path.name for path in place.iterdir()]
    refused(9, [name, *parts], "inspect", name)


# --- rows 59 and 60: models of strangers ---

LAMBDA = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__"}}}
TFSM = {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "somewhere"}}
MODULE = {"module": "os", "class_name": "system", "config": "touch ran"}
FUNCTION = {"module": "keras.utils", "class_name": "function", "config": "get_file"}
CUSTOM = {"module": None, "class_name": "Mine", "registered_name": "Mine"}


def escaped(*layers, **more):
    """The same, with a name that only a JSON reader sees."""
    keras_file("a.keras", LAMBDA)
    text = zipfile.ZipFile("a.keras").read("config.json").decode().replace("class_name", r"\u0063lass_name")
    zipped("a.keras", config__json=text.replace("Lambda", r"\u004cambda"))


def in_utf_16(*layers, **more):
    keras_file("a.keras", LAMBDA)
    zipped("a.keras", config__json=zipfile.ZipFile("a.keras").read("config.json").decode().encode("utf-16"))


@pytest.mark.parametrize(
    ("make", "part"),
    [
        pytest.param(lambda: keras_file("a.keras", LAMBDA), "Lambda", id="row-59-lambda"),
        pytest.param(lambda: keras_file("a.keras", TFSM), "TFSMLayer", id="row-59-saved-model"),
        pytest.param(lambda: keras_file("a.keras", MODULE), "the module os", id="row-59-module"),
        pytest.param(lambda: keras_file("a.keras", FUNCTION), "function, the module keras.utils", id="row-59-function"),
        pytest.param(lambda: keras_file("a.keras", CUSTOM), "the class Mine", id="row-59-custom"),
        pytest.param(escaped, "Lambda", id="row-59-escaped"),
        pytest.param(in_utf_16, "Lambda", id="row-59-utf-16"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "evaluate", "export"])
def test_keras_files_with_code(place, make, part, command):
    make()
    refused(9, ["a.keras", part, "weights"], command, "a.keras")


def test_row_59_a_plain_keras_file_is_told_but_never_loaded(place):
    keras_file("a.keras")
    report = inspected("a.keras")
    assert report["facts"]["classes"] == {"Sequential": 1, "Dense": 1} and "never loads" in report["findings"][0]
    for command in ("evaluate", "export"):
        refused(9, ["a whole Keras model", "genotype"], command, "a.keras")


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "renamed.h5"])
def test_pickles_are_refused_as_models(place, name):
    Path("model.pkl").write_bytes(TORCH)
    Path("renamed.h5").write_bytes(TORCH)
    zipped("model.pt", **{"model/data__pkl": TORCH})
    refused(9, [name, "could run code", "genotype"], "evaluate", name)


def write_h5(**members):
    """a.h5 with an array of plain numbers, and links or arrays by name."""
    with h5py.File("a.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones((3, 2), "float32")
        for name, member in members.items():
            file[name] = member


def external_storage():
    write_h5()
    with h5py.File("a.h5", "a") as file:
        file.create_dataset("outside", (4,), "u1", external=[("secret.bin", 0, 4)])


def virtual():
    """One that grows with its source, which HDF5 opens as soon as the shape is asked for."""
    write_h5()
    layout = h5py.VirtualLayout((3,), "float64", maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = h5py.VirtualSource("pipe", "x", shape=(3,), maxshape=(None,))[: h5py.h5s.UNLIMITED]
    with h5py.File("a.h5", "a") as file:
        file.create_virtual_dataset("virtual", layout)


def huge():
    write_h5()
    with h5py.File("a.h5", "a") as file:
        file.create_dataset("huge", (10**6, 10**6), "float32", chunks=(1, 1))


def many_names():
    """One array under so many names that reading each would fill the memory."""
    write_h5(large=np.ones(2**18, "float32"))
    with h5py.File("a.h5", "a") as file:
        for number in range(200):
            file[f"again{number:03}"] = file["large"]


def plug_in():
    write_h5()
    with h5py.File("a.h5", "a") as file:
        file.create_dataset("packed", data=np.ones(100), compression="lzf")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        pytest.param(lambda: write_h5(soft=h5py.SoftLink("/layers")), "soft is a soft link", id="row-60-soft"),
        pytest.param(
            lambda: write_h5(away=h5py.ExternalLink("pipe", "/x")), "away is a link to another", id="row-60-link"
        ),
        pytest.param(external_storage, "outside is an array whose numbers lie in another file", id="row-60-storage"),
        pytest.param(virtual, "virtual is a virtual dataset", id="row-60-virtual"),
        pytest.param(huge, "huge would fill the memory", id="row-60-bomb"),
        pytest.param(many_names, "would fill the memory", id="row-60-names"),
        pytest.param(plug_in, "packed is an array that needs a plug-in", id="row-60-plug-in"),
        pytest.param(lambda: write_h5(**{"\x1b[31m": h5py.SoftLink("/")}), r"\x1b[31m is a soft", id="row-60-escape"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "evaluate", "export"])
def test_hdf5_files_that_lead_out_of_themselves(place, make, part, command):
    os.mkfifo("pipe")  # whoever opens it waits forever
    make()
    refused(9, ["a.h5", part], command, "a.h5")
    with pytest.raises(SafetyError):
        inspection.read_h5("a.h5")


def test_plain_hdf5_files_are_read(place):
    write_h5()
    with h5py.File("a.h5", "a") as file:
        file["layers/self"] = file["layers"]  # a group in itself ends no walk
    inspection.refuse_foreign_model("a.h5")
    arrays = inspection.read_h5("a.h5")
    np.testing.assert_array_equal(arrays["layers/dense/vars/0"], np.ones((3, 2)))
    assert inspected("a.h5")["facts"]["arrays"] == {"layers/dense/vars/0": "float32 3×2"}
    write_h5(text="words", infinite=np.array([np.inf]))
    findings = inspected("a.h5")["findings"]
    assert findings == ["not finite in 1 of 2 arrays: infinite", "no plain numbers: text"]
    with pytest.raises(RunError, match="no plain numbers"):
        inspection.read_h5("a.h5")


def test_other_paths_are_no_models(place):
    Path("genotype.json").write_text(json.dumps(GENOTYPE))
    for path in ("missing", ".", "genotype.json"):
        inspection.refuse_foreign_model(path)


# --- row 84: valid, but degenerate ---


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        pytest.param(
            {"normal": [["skip_connect", 0], ["max_pool_3x3", 1]], "normal_concat": [2]},
            "the normal cell has no convolution, only pool, skip",
            id="row-84-no-convolution",
        ),
        pytest.param(
            {"reduce": [["none", 0], ["sep_conv_3x3", 1]], "reduce_concat": [2]},
            "reduce[0] is `none`",
            id="row-84-none",
        ),
        pytest.param({"normal_concat": [2]}, "nothing reads state 3 of the normal cell", id="row-84-unread"),
        pytest.param({"reduce_concat": [0, 1]}, "the reduce cell hands on its inputs alone", id="row-84-inputs"),
    ],
)
def test_degenerate_genotypes(place, changes, finding):
    Path("genotype.json").write_text(json.dumps({**GENOTYPE, **changes}))
    assert any(f"degenerate: {finding}" in found for found in inspected("genotype.json")["findings"])
    assert inspected("genotype.json", "--strict", code=3)["kind"] == "a genotype"
    assert f"found: degenerate: {finding}" in sharpkeras("inspect", "genotype.json").out


def test_row_84_a_good_genotype_is_sound(place):
    Path("genotype.json").write_text(json.dumps(GENOTYPE))
    assert inspected("genotype.json", "--strict")["sound"]
    result = sharpkeras("inspect", "genotype.json")
    assert "sound: nothing is wrong" in result.out and "Next: sharpkeras train genotype.json" in result.out


# --- row 85: run directories ---


def make_run(path, finished=True):
    with RunDirectory.open(path, "search", {"settings": {"epochs": 3}, "backend": "tensorflow"}) as run:
        rows = []
        for epoch in range(3):
            run.write_json(f"epochs/{epoch:04d}.json", {"alphas": [0.5], "genotype": GENOTYPE})
            rows.append({"epoch": epoch, "loss": 0.5})
            run.checkpoints.save(epoch + 1, 0, ARRAYS, {}, rows)
        run.write_metrics(rows)
        run.write_json("data.json", {"class_names": ["a", "b"], "fingerprint": "0"})
        run.write_json("genotype.json", GENOTYPE)
        if finished:
            run.mark_finished()
    return sorted(entry.name for entry in Path(path, "checkpoints").iterdir())


@pytest.fixture
def checkpoints(place):
    """The names of the checkpoints of a run in `run`."""
    return make_run("run")


def test_row_85_a_sound_run(checkpoints):
    report = inspected("run", "--strict")
    assert report["kind"] == "a search run" and report["plan"] == [] and report["sound"]
    assert report["facts"]["epochs done"] == 3 and report["facts"]["checkpoints"] == checkpoints
    assert report["next"] == ["train", "run"]
    before = files_below(Path("run"))
    assert sharpkeras("inspect", "run", "--repair").code == 0
    assert files_below(Path("run")) == before


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_row_85_what_a_kill_leaves_and_its_repair(checkpoints):
    run, newest = Path("run"), checkpoints[-1]
    Path("run/lock").write_text("PID 1 on elsewhere since 2020\n")
    Path("run/.genotype.json.part").write_text("{")
    Path("run/epochs/.0003.json.part").write_text("{")
    part = Path(f"run/checkpoints/.{newest}.part")
    part.mkdir()
    (part / "arrays.safetensors").write_bytes(b"half")
    with open("run/metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "lo')
    flip(run / "checkpoints" / newest / "arrays.safetensors")
    report = inspected("run")
    assert report["plan"] == [
        "empty lock",
        "remove .genotype.json.part",
        "remove epochs/.0003.json.part",
        f"remove checkpoints/.{newest}.part",
        "cut the last line off metrics.jsonl",
        f"put aside as damaged checkpoints/{newest}",
    ]
    assert len(report["findings"]) == 6 and "PID 1 on elsewhere" in report["findings"][0]
    assert report["next"] == ["inspect", "run", "--repair"] and not report["repaired"]
    assert sharpkeras("inspect", "run", "--strict").code == 3

    before = {path.relative_to(run): content for path, content in files_below(run).items()}
    result = sharpkeras("inspect", "run", "--repair", "--json")
    assert result.code == 0 and result.json["repaired"] == report["plan"] and result.json["plan"] == []
    expected = {path: content for path, content in before.items() if ".part" not in str(path)}
    damaged = {path: content for path, content in expected.items() if newest in path.parts}
    for path, content in damaged.items():
        del expected[path]
        expected[Path("checkpoints", f"{newest}.damaged", path.name)] = content
    expected |= {Path("lock"): b"", Path("metrics.jsonl"): before[Path("metrics.jsonl")].rpartition(b"\n")[0] + b"\n"}
    assert {path.relative_to(run): content for path, content in files_below(run).items()} == expected
    assert inspected("run")["findings"] == [
        f"checkpoints/{newest}.damaged was damaged and put aside; it can be removed"
    ]


def lines(*epochs):
    Path("run/metrics.jsonl").write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in epochs))


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda: lines(0, 2), 'metrics.jsonl: no row of "epoch": 1 (counted from 0)'),
        (lambda: lines(0, 10**40), f'metrics.jsonl: no row of "epoch": 1 to {10**40 - 1} (counted from 0)'),
        (lambda: lines(0, 1, 1), 'metrics.jsonl: "epoch": 1 stands behind "epoch": 1'),
        (lambda: Path("run/metrics.jsonl").write_text("{}\n"), "metrics.jsonl: is no row of metrics"),
        (lambda: Path("run/metrics.jsonl").write_text("\x1b{\n"), "metrics.jsonl: is not JSON"),
        (lambda: Path("run/metrics.jsonl").write_bytes(b"\xff\n"), "metrics.jsonl: is not UTF-8"),
        (lambda: Path("run/metrics.jsonl").unlink(), "metrics.jsonl is missing"),
        (lambda: Path("run/epochs/0001.json").unlink(), "missing: epochs/0001.json"),
        (lambda: Path("run/epochs/0001.json").write_text("{"), "epochs/0001.json: is not JSON"),
        (lambda: Path("run/recipe.json").write_text("{"), "recipe.json: is not JSON"),
        (lambda: Path("run/recipe.json").write_text("[]"), "recipe.json: wrong type"),
        (lambda: Path("run/recipe.json").write_text('{"settings": {"epochs": 0}}'), "recipe.json: out of range"),
        (lambda: Path("run/recipe.json").unlink(), "recipe.json is missing"),
        (lambda: Path("run/data.json").unlink(), "data.json is missing"),
        (lambda: Path("run/genotype.json").unlink(), "the same command makes it"),
        (lambda: Path("run/weights.safetensors").write_bytes(b"no"), "weights.safetensors: is damaged"),
        (lambda: Path("run/cells.png").symlink_to("elsewhere"), "cells.png is a link"),
        (lambda: os.mkfifo("run/cells.png"), "cells.png is a pipe"),
        (lambda: lines(0, 1), "metrics.jsonl has 2 epochs, checkpoint 000003-000000 has 3"),
    ],
)
def test_row_85_damage_without_a_repair(checkpoints, damage, finding):
    damage()
    report = inspected("run")
    assert any(finding in found for found in report["findings"]), report["findings"]
    assert report["plan"] == []


DIVERGED = {"epoch": 2, "step": 16, "not_finite": {"train_loss": "nan"}, "learning_rate": 0.1, "checkpoint": None}


def test_a_run_that_diverged_is_not_sound(place):
    """Epochs and steps are counted from 0 in the file and from 1 where a person reads them."""
    make_run("run", finished=False)
    Path("run/diverged.json").write_text(json.dumps(DIVERGED))
    report = inspected("run")
    assert report["findings"] == ["diverged: train_loss became NaN or infinite in epoch 3, step 17 (counted from 1)"]
    assert not report["sound"] and report["facts"]["state"] == "diverged" and "--learning-rate" in report["next"]
    assert sharpkeras("inspect", "run", "--strict").code == 3
    for content in ("{", "[]", '{"epoch": "x", "step": 1, "not_finite": {}}'):
        Path("run/diverged.json").write_text(content)
        report = inspected("run")
        assert report["facts"]["state"] == "diverged" and "diverged.json" in report["findings"][0]


def test_the_state_of_a_run_is_told(place):
    make_run("run", finished=False)
    report = inspected("run")
    assert report["facts"]["state"] == "interrupted" and report["sound"] and "goes on with it" in report["next"]
    recipe = json.loads(Path("run/recipe.json").read_text())
    with RunDirectory.open("run", "search", recipe) as run:
        assert inspected("run")["facts"]["state"] == "running"
        run.mark_finished()
    assert inspected("run")["facts"]["state"] == "finished"


def test_an_interrupted_run_without_checkpoints_begins_again(place):
    make_run("run", finished=False)
    shutil.rmtree("run/checkpoints")
    assert inspected("run")["sound"]
    Path("run/checkpoints").mkdir()
    assert inspected("run")["findings"] == ["checkpoints is empty: the run begins again at its first step"]


def test_evaluations_have_the_answers_to_their_images(checkpoints):
    Path("run/evaluation.json").write_text(json.dumps({**EVALUATION, "fingerprint": "1"}))
    assert inspected("run")["findings"] == ["predictions.safetensors is missing: sharpkeras evaluate makes it"]
    for fingerprint, findings in (("1", []), ("2", ["predictions.safetensors belongs to other data than"])):
        meta = {"fingerprint": fingerprint, "errors": EVALUATION["errors"]}
        atomic_writes.save_arrays(Path("run/predictions.safetensors"), ARRAYS, meta)
        found = inspected("run")["findings"]
        assert len(found) == len(findings) and all(part in text for part, text in zip(findings, found))


@pytest.mark.parametrize("name", ["arrays.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, os.remove, lambda path: path.write_bytes(path.read_bytes()[:-3])])
def test_row_85_damaged_checkpoints(checkpoints, name, damage):
    damage(Path("run/checkpoints", checkpoints[0], name))
    report = inspected("run")
    assert report["plan"] == [f"put aside as damaged checkpoints/{checkpoints[0]}"]
    assert report["facts"]["checkpoints"] == checkpoints[1:]
    assert inspected(f"run/checkpoints/{checkpoints[1]}")["sound"]


def test_row_85_nothing_is_repaired_while_a_process_holds_the_run(place):
    make_run("run", finished=False)
    recipe = json.loads(Path("run/recipe.json").read_text())
    with RunDirectory.reserve("run", "search", recipe):
        Path("run/.metrics.jsonl.part").write_text("")  # is being written
        report = inspected("run")
        assert f"PID {os.getpid()}" in report["facts"]["in use by"]
        assert report["findings"] == [] and report["plan"] == []
        refused(5, ["run", f"PID {os.getpid()}"], "inspect", "run", "--repair")
        assert Path("run/.metrics.jsonl.part").exists()
    assert sharpkeras("inspect", "run", "--repair").code == 0
    assert not Path("run/.metrics.jsonl.part").exists()


def test_a_strangers_run_leads_nowhere(checkpoints, tmp_path_factory):
    """Neither a look nor a repair touches what a link in the directory points to."""
    outside = tmp_path_factory.mktemp("outside")
    for name in ("precious", "thesis.txt"):
        (outside / name).mkdir() if name == "precious" else (outside / name).write_text("years of work")
    (outside / "precious" / "data").write_text("years of work")
    Path("run/.link.part").symlink_to(outside / "precious")
    Path("run/checkpoints", f"{checkpoints[0][:-1]}9").symlink_to(outside / "precious")
    Path("run/endless.json").symlink_to("/dev/zero")
    before = files_below(outside)
    report = inspected("run")
    assert report["plan"] == ["remove .link.part"] and "endless.json is a link" in str(report["findings"])
    assert sharpkeras("inspect", "run", "--repair").code == 0
    Path("run/.another.part").write_text("")
    Path("run/lock").unlink()
    Path("run/lock").symlink_to(outside / "thesis.txt")
    refused(9, ["lock", "is a link"], "inspect", "run", "--repair")
    assert files_below(outside) == before


def test_only_runs_are_repaired(place):
    Path("genotype.json").write_text(json.dumps(GENOTYPE))
    refused(2, ["--repair", "only run directories"], "inspect", "genotype.json", "--repair")
    Path("notes").mkdir()
    refused(5, ["notes", "no run directory"], "inspect", "notes", "--repair")
    assert list(Path("notes").iterdir()) == []


# --- what it knows ---

OBJECTS = {  # key of `text_files._telling()` → a sound file of that kind, and a fact that is told
    "settings": ({"settings": {"epochs": 3}, "backend": "jax"}, {"settings of": "search or train", "backend": "jax"}),
    "alphas": ({"alphas": [], "genotype": GENOTYPE}, {"architecture": "a genotype"}),
    "routes": ({"space": "multichannel", "routes": [ROUTE]}, {"space": "multichannel", "choices": 2}),
    "normal": (GENOTYPE, {"normal cell": "2 nodes, states 2, 3 together: max_pool_3x3, sep_conv_3x3, skip_connect"}),
    "program": ({"program": "sharpkeras", "kind": "search"}, {"kind": "search"}),
    "files": ({"schema_version": 1, "files": {}}, {"files": {}}),
    "table": (
        {"schema_version": 1, "device": "a clock", "table": {"x": {"ms": 0.5}}},
        {"parts": 1, "device": "a clock"},
    ),
    "interval": (EVALUATION, {"n": 100, "errors": 5}),
    "opset": ({"file": "a.onnx", "bytes": 3, "sha256": "0", "opset": 17}, {"file": "a.onnx", "opset": 17}),
    "class_names": ({"class_names": ["a"], "images": 7}, {"images": 7}),
    "not_finite": ({"epoch": 1, "not_finite": {"loss": "nan"}}, {"epoch": 1}),
}
UNSOUND = {"opset": "a.onnx is not there", "not_finite": "NaN"}  # what these kinds always say


@pytest.mark.parametrize("key", text_files._telling())
def test_json_by_the_key_that_tells(place, key):
    if key == "reduce":  # a genotype without its normal cells
        Path("a.json").write_text(json.dumps({"reduce": CELL}))
        return refused(3, ["missing normal"], "inspect", "a.json")
    content, facts = OBJECTS[key]
    Path("a.json").write_text(json.dumps(content))
    report = inspected("a.json")
    assert facts.items() <= report["facts"].items()
    assert [UNSOUND[key] in finding for finding in report["findings"]] == [True] * (key in UNSOUND)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.json", '{"settings": 3}', ["an object of settings"]),
        ("a.toml", "settings = 3", ["an object of settings"]),
        ("a.json", '{"learning_rate": 0.1, "learing_rate": 0.1}', ["did you mean learning_rate?"]),
        ("a.toml", "learning_rate = nan", ["learning_rate"]),
        ("a.toml", "learning_rate", ["is not TOML"]),
        ("a.json", "{}", ["nothing that sharpkeras reads"]),
        ("a.json", '{"\\u001b[31m": 1}', [r"\x1b[31m", "nothing that sharpkeras reads"]),
        ("a.json", '{"file": "../../x", "opset": 1}', ["no plain file name"]),
        ("a.json", '{"interval": 3}', ["is no evaluation"]),
        ("a.json", '{"table": {}}', ["no table of latencies"]),
        ("a.jsonl", '[{"epoch": 1}]\n', ["no row of metrics", "line 1"]),
        ("a.json", "[" * 5000, ["nested too deeply"]),
    ],
)
def test_texts_that_are_refused(place, name, content, parts):
    Path(name).write_text(content)
    refused(3, [name, *parts], "inspect", name)


def test_configs_and_metrics(place):
    Path("a.toml").write_text("max_addmults = 1000\nspace = 'darts'")
    assert inspected("a.toml")["facts"]["settings of"] == "search"
    Path("a.json").write_text('{"drop_path": 0.1}')
    assert inspected("a.json")["facts"]["settings of"] == "train"
    Path("a.jsonl").write_text('{"epoch": 0}\n{"epoch": 1, "lo')
    report = inspected("a.jsonl")
    assert report["facts"] == {"epochs": 1, "last": {"epoch": 0, "epochs_counted_from": 0}}
    assert report["findings"] == ["the last line is cut off"]


def test_numbers_of_an_evaluation_belong_together(place):
    for name, value in (("n", 0), ("errors", 6), ("error", 0.06), ("interval", [0.06, 0.12])):
        Path("a.json").write_text(json.dumps({**EVALUATION, name: value}))
        assert inspected("a.json")["findings"] == ["errors, n, error and interval do not agree"]


def test_arrays(place):
    atomic_writes.save_arrays(Path("ours.safetensors"), ARRAYS, {"epoch": 3})
    report = inspected("ours.safetensors")
    assert report["sound"] and report["facts"]["metadata"] == {"epoch": 3}
    assert report["facts"]["arrays"] == {"step": "I64", "stem": "F32 3×4"} and report["facts"]["numbers"] == 13
    flip(Path("ours.safetensors"))
    refused(5, ["ours.safetensors", "is damaged"], "inspect", "ours.safetensors")
    safetensors.numpy.save_file(ARRAYS, "deep.safetensors", {atomic_writes.ENTRY: "[" * 10**5})
    refused(5, ["deep.safetensors", "is damaged"], "inspect", "deep.safetensors")
    foreign = {"a\x1b[31m": np.array([1, np.nan]), "b": np.ones(2)}
    safetensors.numpy.save_file(foreign, "theirs.safetensors")
    result = sharpkeras("inspect", "theirs.safetensors")
    assert result.code == 0 and "none in the file" in result.out and "\x1b" not in result.out
    assert r"found: not finite in 1 of 2 arrays: a\x1b[31m" in result.out
    np.savez("a.npz", **ARRAYS)
    assert inspected("a.npz")["facts"]["arrays"] == {"stem": "float32 3×4", "step": "int64"}
    Path("a.npz").write_bytes(Path("a.npz").read_bytes()[:-30])
    refused(5, ["a.npz", "is damaged"], "inspect", "a.npz")


def test_images_by_their_headers(place):
    Image.new("L", (30, 20)).save("a.jpg")
    assert (
        inspected("a.jpg")["facts"]["size"] == "30 × 20 pixels" and inspected("a.jpg")["facts"]["pixels"] == "grayscale"
    )
    Image.new("1", (9000, 9000)).save("large.png")
    refused(4, ["large.png", "64,000,000"], "inspect", "large.png")


def tiny_onnx(domain=""):
    onnx = pytest.importorskip("onnx")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 8]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", "x", "y", domain=domain)], "tiny", *[[v] for v in value]
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), "a.onnx")


def test_onnx_is_checked_as_before_a_benchmark(place):
    tiny_onnx()
    report = inspected("a.onnx")
    assert report["facts"]["inputs"] == ["x batch×8"] and report["facts"]["nodes"] == 1
    tiny_onnx("com.example")
    refused(9, ["a.onnx", "custom library"], "inspect", "a.onnx")


# --- without Keras ---

IMPORTED = """
import sys
from sharpkeras_cli.main import main
for path in sys.argv[1:]:
    try:
        main(["inspect", path])
    except SystemExit as ending:
        assert ending.code in (0, 3, 5, 9), (path, ending.code)
print("imported:", *({"keras", "tensorflow", "jax", "torch"} & sys.modules.keys()))
"""


def test_row_82_nothing_of_this_imports_keras(checkpoints):
    for key, (content, _) in OBJECTS.items():
        Path(f"{key}.json").write_text(json.dumps(content))
    Path("a.toml").write_text("epochs = 3")
    Path("unknown").write_bytes(bytes(range(100)))
    atomic_writes.save_arrays(Path("a.safetensors"), ARRAYS, {})
    np.savez("a.npz", **ARRAYS)
    Image.new("L", (30, 20)).save("a.png")
    keras_file("b.keras", LAMBDA)
    keras_file("a.keras")
    write_h5()
    tiny_onnx()
    command = [sys.executable, "-c", IMPORTED, *map(str, sorted(Path.cwd().iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": ") > 40 and "a search run" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow", reason="exports on TensorFlow")
def test_what_commands_leave_is_sound(finished, monkeypatch):
    monkeypatch.chdir(finished)
    for name in ("search", "train", "model.onnx", "model.json", "train/weights.safetensors", "train/evaluation.json"):
        assert inspected(name, "--strict")["sound"], name


@pytest.mark.parametrize("kind", sorted(text_files._key_of_kind()))
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, kind):
    (tmp_path / "a.json").write_text(json.dumps({"kind": kind, "epochs": 3}))
    with pytest.raises(ConfigError, match=f"is no {kind}, though it says so"):
        text_files.inspect_json(tmp_path / "a.json")


def test_the_kind_of_a_file_goes_before_its_keys(tmp_path):
    report = {"n": 4, "errors": 1, "error": 0.25, "interval": [0.1, 0.6], "settings": {}}
    (tmp_path / "a.json").write_text(json.dumps({"kind": "evaluation", **report}))
    assert text_files.inspect_json(tmp_path / "a.json").kind == "an evaluation"
