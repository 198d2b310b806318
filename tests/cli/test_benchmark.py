"""`sharpkeras benchmark`: several files beside each other, for people and as JSON."""

import pytest
from support.command_line import sharpkeras

from sharpkeras.measure.latency.statistics import VERDICTS
from sharpkeras_cli import tables
from sharpkeras_cli.commands.benchmark import _records

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


pytestmark = pytest.mark.usefixtures("two_processes")


@pytest.fixture
def two(tmp_path, monkeypatch):
    """`fast.onnx` and `slow.onnx` in the working directory: one matrix product, and four hundred of them."""
    monkeypatch.chdir(tmp_path)
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    weights = onnx.helper.make_tensor("weights", kind, [64, 64], [1 / 64] * 64**2)
    for name, count in (("fast", 1), ("slow", 400)):
        names = ["images", *(f"n{i}" for i in range(1, count)), "logits"]
        nodes = [onnx.helper.make_node("MatMul", [a, "weights"], [b]) for a, b in zip(names, names[1:])]
        ends = [value("images", kind, ("batch", 64))], [value("logits", kind, ("batch", 64))]
        graph = onnx.helper.make_graph(nodes, name, *ends, [weights])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())


QUICK = ("--runs", 60, "--threads", 1)


def test_two_files_are_compared(two):
    result = sharpkeras("benchmark", "fast.onnx", "slow.onnx", *QUICK, "--batch-size", 64)
    assert result.code == 0, result.err
    assert "time in that" in result.out and sum(verdict in result.out for verdict in VERDICTS.values()) == 1
    assert "1 threads, 60 runs of each, in turns" in result.out
    assert "CPUExecutionProvider" in result.out


def test_json_of_several_files_and_batch_sizes(two):
    sizes = ("--batch-size", 64, "--batch-size", 8, "--batch-size", 8)
    report = sharpkeras("benchmark", "slow.onnx", "fast.onnx", *QUICK, *sizes, "--json").json
    keys = [("slow.onnx", 64), ("fast.onnx", 64), ("slow.onnx", 8), ("fast.onnx", 8)]
    assert [(row["name"], row["batch_size"]) for row in report["models"]] == keys
    assert [(pair["model"], pair["to"], pair["batch_size"]) for pair in report["comparisons"]] == [
        ("fast.onnx", "slow.onnx", 64),
        ("fast.onnx", "slow.onnx", 8),
    ]
    for pair in report["comparisons"]:
        (low, high), ratio = pair["interval"], pair["ratio"]
        assert low <= ratio <= high and pair["verdict"] == VERDICTS[(low > 1) - (high < 1)]
    for row in report["models"]:
        assert row["bytes"] and row["peak_memory_mib"] > 0 and row["engine"] == "ONNX Runtime"
        assert row["providers"] == ["CPUExecutionProvider"] and row["input_shape"] == [row["batch_size"], 64]


def test_the_next_command_tells_more(two):
    command = ("fast.onnx", "slow.onnx", "--threads", 1, "--batch-size", 8)
    out = sharpkeras("benchmark", *command, "--runs", 60).out
    assert out.endswith("Next: sharpkeras benchmark fast.onnx slow.onnx --runs 1000 --batch-size 8 --threads 1\n")
    out = sharpkeras("benchmark", "fast.onnx", "--runs", 1000, "--threads", 1).out
    assert "p99" in out and out.endswith("Next: sharpkeras inspect fast.onnx\n")
    assert sharpkeras("inspect", "fast.onnx").code == 0


def test_more_memory_by_an_option(two):
    refused = sharpkeras("benchmark", "fast.onnx", *QUICK, "--batch-size", 4096, "--max-memory", 0.001)
    assert refused.code == 7 and "0.001 GiB" in refused.err and "--max-memory" in refused.err
    assert sharpkeras("benchmark", "fast.onnx", *QUICK, "--batch-size", 4096, "--max-memory", 0.5).code == 0


def test_the_99th_percentile_comes_with_a_thousand_runs(two):
    report = sharpkeras("benchmark", "fast.onnx", "--runs", 1000, "--threads", 1, "--json").json
    assert "p99_ms" in report["models"][0] and not report["comparisons"]
    assert "p99" in sharpkeras("benchmark", "fast.onnx", "--runs", 1000, "--threads", 1).out
    assert "p99" not in sharpkeras("benchmark", "fast.onnx", "--runs", 999, "--threads", 1).out


def test_a_name_is_no_markup(two, tmp_path):
    (tmp_path / "[bold]a.onnx").write_bytes((tmp_path / "fast.onnx").read_bytes())
    result = sharpkeras("benchmark", "[bold]a.onnx", "fast.onnx", *QUICK)
    assert "[bold]a" in result.out


def test_80_columns_hold_the_table():
    interval = [123.4, 234.5]
    row = {"batch_size": 65536, "images_per_second": 98765.0, "peak_memory_mib": 12345.6, "bytes": 2e9}
    row |= {"p50_ms": 200.0, "p50_interval_ms": interval, "p90_ms": 200.0, "p90_interval_ms": interval}
    rows = [
        row | {"name": name, "unstable": True} for name in ("first.onnx", "exported/a-network-with-a-long-name.onnx")
    ]
    pair = {"ratio": 0.987, "interval": [0.9761, 1.0234], "verdict": VERDICTS[0]}
    pair |= {"model": rows[1]["name"], "batch_size": row["batch_size"]}
    text = tables.render(_records({"models": rows, "comparisons": [pair]}), width=80)
    assert all(len(line) <= 80 for line in text.split("\n")) and "exported/a-network-with-a-long-name.onnx" in text
    for figure in ("98,765", "12346", "1907.35", "123–234", "0.987", "(0.976–1.02)", "no difference", "shown"):
        assert figure in text, figure
