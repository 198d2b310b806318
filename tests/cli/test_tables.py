"""Tables at every width: what they are about is never cut, and every command's table is one of these."""

import os
import re
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.command_line import sharpkeras

from sharpkeras.measure.latency.statistics import VERDICTS
from sharpkeras.paper import published
from sharpkeras.recipes import SEARCHES, TRAININGS
from sharpkeras_cli import options, streams, tables
from sharpkeras_cli.commands import benchmark, compare, cost, inspect, quickstart

WIDTHS = (40, 60, 80, 100, 120, 200)
LONG = f"runs/2024-07-01/a-search-with-a-name-as-long-as-people-give-them/{'x' * 80}/seed-00000000042"
LABELS = ["TEST-SELECTED", "OTHER IMAGES", "OTHER SELECTION", "SAME SEED"]
NUMBER = 123_456_789_012
UNSTABLE = "UNSTABLE"


# --- what each command prints at worst: function that prints it, and what must stand in it, whole ---


def estimate(value, n=3):
    return {"value": value, "half_width": 0.0123, "n": n, "total": n, "how": f"mean ± 95 % t-interval, n = {n}"}


def trainings():
    evaluations = [
        {"label": "TEST-SELECTED", "dataset": dataset, "error": 0.1234, "interval": (0.1111, 0.1357), "n": 10_000}
        for dataset in ("cifar10", "cifar10.1-v6:/data/of/somebody/with-a-long-name")
    ]
    row = {"architecture": "genotype 0123abcd", "seed": 4_294_967_295, "status": "finished"}
    row |= {"parameters": NUMBER, "addmults_paper": NUMBER + 1, "evaluations": evaluations, "labels": LABELS}
    rows = [{**row, "group": index, "name": f"{LONG}-{index}"} for index in range(1, 6)]
    rows.append({**rows[0], "name": "unfinished run", "evaluations": [], "status": "unfinished"})
    compare._print_trainings({"trainings": rows, "training_groups": [], "pairs": []})


def searches():
    epoch = {"epoch": 1000, **dict.fromkeys(compare.WATCH, 0.98765), "found_addmults": NUMBER * 1_000_000}
    row = {"space": "multichannel", "weighting": "max_w", "seed": 4_294_967_295, "status": "finished", "group": 1}
    row |= {"last": epoch, "worst": epoch, "labels": LABELS}
    rows = [{**row, "name": f"{LONG}-{index}"} for index in range(1, 13)]
    compare._print_searches({"searches": rows, "search_groups": []})


def timings():
    interval = [123_456.7, 234_567.8]
    row = {
        "batch_size": 65536,
        "images_per_second": NUMBER,
        "peak_memory_mib": 123456.7,
        "bytes": 2e9,
        "unstable": True,
    }
    row |= {name: 200.0 for name in ("p50_ms", "p90_ms", "p99_ms")}
    row |= {name: interval for name in ("p50_interval_ms", "p90_interval_ms", "p99_interval_ms")}
    rows = [row | {"name": name} for name in ("first.onnx", f"{LONG}.onnx", "my model.onnx")]
    pair = {"ratio": 0.987, "interval": [0.9761, 1.0234], "verdict": VERDICTS[0], "batch_size": 65536}
    pairs = [pair | {"model": row["name"]} for row in rows[1:]]
    tables.show(benchmark._records({"models": rows, "comparisons": pairs}))


def layers():
    row = {"layer": "SharpSepConv", "output_shape": (1024, 1024, 4096), "parameters": NUMBER}
    row |= {"addmults_paper": NUMBER + 1, "addmults_conv_dense": NUMBER + 2, "name": "stem.0.a_layer_with_a_long_name"}
    cost._print_layers([SimpleNamespace(**row)] * 2)


def forecast():
    numbers = {"parameters": NUMBER, "alphas": NUMBER, "addmults": NUMBER + 1, "available_memory_bytes": 10**14}
    numbers |= {"peak_memory_bytes": 123_456_789 * 10**7, "disk_bytes": 10**15, "fits": True, "steps": NUMBER}
    times = dict.fromkeys(("first_step_s", "step_s", "epoch_s", "evaluation_s", "total_s"), 7_407_407.4)
    options.tell_forecast(SimpleNamespace(**numbers, **times, epochs=NUMBER + 2), as_json=False)


def quickstart_end():
    pairs = [("dil_choke_conv_3x3", index // 2) for index in range(8)]
    report = {
        "genotype": {"normal": pairs, "reduce": pairs},
        "cost": {"parameters": NUMBER, "addmults_paper": NUMBER + 1, "addmults_conv_dense": NUMBER + 2},
        "evaluation": {"text": "TEST-SELECTED 1.39 % (0.45–3.22, n = 359)"},
        "largest_difference": 1.2e-6,
        "latency": {"unstable": True, "p50_ms": 0.123, "threads": 128, "device": "AMD EPYC 9B14 96-Core Processor"},
        "first_step_s": {"search": 12.3, "train": 45.6},
        "seconds": 1234567,
        "picture": "cells.png",
    }
    quickstart._print(report, None)


def inspected():
    facts = {"classes": [f"{LONG}/{index}" for index in range(3)], "parameters": NUMBER, "of": {LONG: LONG + "/x"}}
    report = SimpleNamespace(path=LONG, kind="a run", facts=facts, findings=[LONG], repaired=[], plan=[], next=None)
    inspect._show(report)


PRINTED = {
    trainings: [f"{LONG}-1", "genotype 0123abcd", "4294967295", f"{NUMBER:,}", f"{NUMBER + 1:,}", "12.34 %", *LABELS]
    + ["(11.11–13.57,", "n = 10000)", "cifar10.1-v6:/data/of/somebody/with-a-long-name", "unfinished run"],
    searches: [f"{LONG}-12", "max_w", "4294967295", *LABELS, "98.8", "(98.8)", "0.9877", f"{NUMBER}.00", "1000"],
    timings: [f"{LONG}.onnx", "my model.onnx", UNSTABLE, "65536", f"{NUMBER:,}", "123,457–234,568", "(0.976–1.02)"]
    + ["123457", "1907.35", "0.987"],
    layers: ["stem.0.a_layer_with_a_long_name", "SharpSepConv", "1024×1024×4096", f"{NUMBER:,}", f"{NUMBER + 2:,}"],
    forecast: [f"{NUMBER:,}", f"{NUMBER + 1:,}", f"{NUMBER + 2:,}", "123,456.8", "1,234,567.89", "100,000.00"],
    quickstart_end: ["dil_choke_conv_3x3(3)", f"{NUMBER:,}", f"{NUMBER + 2:,}", "TEST-SELECTED", UNSTABLE, "1.2e-06"]
    + ["(0.45–3.22,", "1234567", "12.3", "45.6", "0.123", "9B14"],
    inspected: [LONG, f"{LONG}/0", f"{LONG}/2", f"{NUMBER:,}", f"{LONG}/x"],
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("print_table", PRINTED, ids=lambda function: function.__name__)
def test_nothing_is_cut(print_table, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table()
    out = capsys.readouterr().out
    for text in PRINTED[print_table]:
        assert re.search(rf"(?<!\S){re.escape(text)}(?![^\s,;:)])", out), f"{text!r} is not whole in:\n{out}"
    assert "…" not in out


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal_but_for_a_long_word(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    for print_table in PRINTED.keys() - {inspected, quickstart_end}:  # these print lines too
        print_table()
    for line in capsys.readouterr().out.split("\n"):
        assert cell_len(line) <= width or len(line.split()) <= 2 or LONG in line, line


@pytest.mark.parametrize("said", ["", "0", "-5", "²", "８０", "1e3", " 80", "9" * 5000])
def test_columns_that_are_no_number_are_not_taken(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert tables.output_width() == 120 and tables.output_width(77) == 77
    with streams.printable():
        assert Console(stderr=True, force_terminal=False).width > 0  # as of a bar of progress


@pytest.mark.parametrize("width", WIDTHS)
def test_the_lists_and_tables_of_the_paper_are_whole_too(width, monkeypatch):
    monkeypatch.setitem(os.environ, "COLUMNS", str(width))
    out = sharpkeras("list", "recipes").out
    for row in (*SEARCHES.values(), *TRAININGS.values()):
        printed = published.printed(row)
        if printed:
            words = [row.architecture, f"{printed['params_m']} M", *options.errors_printed(printed)]
            assert all(word in out for word in words if word), (row, out)
    assert all(re.search(rf"(?<!\S){name}(?!\S)", out) for name in (*SEARCHES, *TRAININGS))


@pytest.mark.parametrize(("number", "name"), [("2", "table2_cifar10"), ("3", "table3_imagenet"), ("4", None)])
def test_each_row_of_a_table_of_the_paper_keeps_its_numbers(number, name, monkeypatch):
    from sharpkeras.experiment import paper_tables
    from sharpkeras.measure.cost import Cost

    monkeypatch.setattr(paper_tables, "_measured", lambda *_: Cost(4_973_728, 572_980_001, 550_000_002)._asdict())
    for width in WIDTHS:
        monkeypatch.setitem(os.environ, "COLUMNS", str(width))
        out = sharpkeras("table", number).out
        rows = published.table(int(number))
        for printed in ("4,973,728", "572,980,001", "550,000,002"):
            assert out.count(printed) == len(rows)
        assert all(f"{row['params_m']} M" in out for row in rows if row.get("params_m"))
        assert all(options.addmults_printed(row) in out for row in rows if options.addmults_printed(row))


# --- how ---

RECORDS = [{"run": "a", "error": "1.00\u00a0%"}, {"run": "b", "error": None}]


def test_a_table_of_three_forms():
    assert tables.render(RECORDS, title="Errors", right=("error",)).split("\n") == [
        "Errors",
        "┌─────┬────────┐",
        "│ run │  error │",
        "├─────┼────────┤",
        "│ a   │ 1.00 % │",
        "│ b   │      – │",
        "└─────┴────────┘",
    ]
    assert tables.render(RECORDS, width=12).split("\n") == [
        "run  error",
        "───  ──────",
        "a    1.00 %",
        "b    –",
    ]
    assert tables.render(RECORDS, width=10).split("\n") == [
        *(" run    a", " error", "    1.00 %"),
        *("", " run    b", " error  –"),
    ]


def test_a_standing_table_has_a_column_for_each_record():
    records = [{"": "one", "seed": 0}, {"": "two", "seed": 1}]
    assert tables.render(records, standing=True).split("\n")[1:4] == [
        "│      │ one │ two │",
        "├──────┼─────┼─────┤",
        "│ seed │ 0   │ 1   │",
    ]


def test_lines_break_between_words_and_not_within_what_is_whole():
    text = f"{tables.whole('SAME SEED')} {tables.whole('OTHER IMAGES')}"
    shown = tables.render([{"labels": text}], width=16)
    assert "SAME SEED" in shown and "OTHER IMAGES" in shown
    assert tables.render([{"path": "x" * 300}], width=20).count("x" * 300) == 1


def test_columns_of_wide_letters_line_up():
    lines = tables.render([{"run": "検索", "seed": 1}, {"run": "ab", "seed": 2}]).split("\n")
    assert len(set(map(cell_len, lines))) == 1


def test_what_controls_a_terminal_is_escaped():
    shown = tables.render([{"run": "a\x1b[31m\x07b"}])
    assert "\x1b" not in shown and "\x07" not in shown and r"a\x1b[31m\x07b" in shown
