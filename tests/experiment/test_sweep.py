"""A sweep from its rows to its tables, by the commands themselves; the full one is `make sweep-test`."""

import json
import os
import re
import shlex

import pytest
from support.command_line import sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("the finished runs are TensorFlow's", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.errors import RunError, UsageError
from sharpkeras.experiment import sweep as sweeping
from sharpkeras.runs import RunDirectory

SIZES = {"limit": 80, "batch_size": 16, "init_channels": 2, "num_cells": 2, "epochs": 1}
SHARED = {
    "search": {**SIZES, "num_nodes": 1, "space": "sep_conv_3x3,skip_connect"},
    "train": {**SIZES, "warmup_epochs": 0},
}
ROWS = [{"name": "found"}, {"architecture": "random"}]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of a search and a random architecture by the command, with its result."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "rows.json").write_text(json.dumps({**SHARED, "rows": ROWS}))
        result = sharpkeras("sweep", "rows.json", "--out", "sweep", "--jobs", "2")
    assert result.code == 0, result.err
    return folder, result


@pytest.mark.slow
def test_the_end_is_the_table_of_compare(swept, monkeypatch):
    folder, result = swept
    monkeypatch.chdir(folder)
    table = (folder / "sweep/compare.txt").read_text()
    runs = ["sweep/found/seed-0/search", "sweep/found/seed-0/train", "sweep/random/seed-0/train"]
    compared = sharpkeras("compare", *runs, "--force").out
    assert compared.partition("Next:")[0] in table and table in result.out
    report = json.loads((folder / "sweep/compare.json").read_text())
    assert [job["status"] for job in report["jobs"]] == ["finished", "finished"]
    assert [row["row"] for row in report["rows"]] == ["found", "random"]
    errors = [row["mean"]["value"] for row in report["rows"]]
    assert errors == [row["evaluations"][0]["error"] for row in report["comparison"]["trainings"]]
    last = result.out.strip().splitlines()[-1]
    assert shlex.split(last)[:3] == ["Next:", "sharpkeras", "export"]
    assert re.search(r"^sweep: 1/2 found seed 0 begins; log: sweep/found/seed-0/log.txt$", result.err, re.MULTILINE)
    assert re.search(r"^sweep: \w+ seed 0 done in \d+:\d\d; 1 left, about \d+:\d\d$", result.err, re.MULTILINE)


@pytest.mark.slow
def test_a_baseline_differs_in_its_architecture_alone(swept):
    found, random = (RunDirectory.read(swept[0] / f"sweep/{row}/seed-0/train").recipe for row in ("found", "random"))
    assert found.pop("genotype") != random.pop("genotype") and found == random


@pytest.mark.slow
def test_python_goes_on_with_it_and_begins_nothing_that_is_done(swept, monkeypatch):
    folder, _ = swept
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/*/*/*")}
    monkeypatch.setattr(sweeping.scheduling, "carry_out", None)  # nothing is to be carried out
    told = []
    report = sk.sweep({**SHARED, "rows": ROWS}, "sweep", tell=told.append)
    assert told == [report] and [job["seconds"] for job in report["jobs"]] == [None, None]
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/*/*/*")}
    assert sk.sweep("sweep/sweep.json", "sweep")["rows"] == report["rows"]
    with pytest.raises(RunError, match="another row found"):
        sk.sweep({"rows": ROWS}, "sweep")


def test_both_doors_have_the_same_words():
    with pytest.raises(UsageError, match="what is to be run"):
        sk.sweep()
    with pytest.raises(UsageError, match="goes with `recipes`"):
        sk.sweep({"rows": ROWS}, random=True)
    with pytest.raises(UsageError, match="unknown recipe"):
        sk.sweep(recipes=["digit"])
    with pytest.raises(UsageError, match="unknown place"):
        sk.sweep(recipes=["digits"], on="dask")
    with pytest.raises(UsageError, match="settings of Slurm"):
        sk.sweep(recipes=["digits"], slurm={"partition": "gpu"})
    with pytest.raises(UsageError, match="out of range"):
        sk.sweep(recipes=["digits"], jobs=0)
