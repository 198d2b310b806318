"""Pictures: they are written whole, and the layout under them has no overlaps."""

import importlib.resources
import itertools
import json
from types import SimpleNamespace

import networkx
import numpy as np
import pytest
from PIL import Image

from sharpkeras.view import cells, hypercuboid, layout
from sharpkeras.view.curves import draw_alphas, draw_metrics, draw_schedule, edge_names

PUBLISHED = json.loads((importlib.resources.files("sharpkeras") / "paper" / "genotypes.json").read_text())
GENOTYPES = {name: SimpleNamespace(**cell) for name, cell in PUBLISHED["cell_genotypes"].items()}
CELLS = {
    f"{name}-{kind}": (getattr(genotype, kind), getattr(genotype, f"{kind}_concat"))
    for name, genotype in GENOTYPES.items()
    for kind in ("normal", "reduce")
}


def colours(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size, image.convert("RGB").getcolors(2**24)


@pytest.mark.parametrize("name", GENOTYPES)
def test_published_genotypes(name, tmp_path):
    cells.draw_genotype(GENOTYPES[name], tmp_path / "cell.png", title=name)
    (width, height), found = colours(tmp_path / "cell.png")
    assert 500 < width < 2000 and 400 < height < 2000  # the cells stand one above the other
    drawn = {primitive for primitive, _ in GENOTYPES[name].normal + GENOTYPES[name].reduce}
    by_colour = {colour: count for count, colour in found}
    for primitive in drawn:
        colour = cells.PRIMITIVE_COLOURS.get(primitive, cells.OTHER_COLOUR)
        assert by_colour.get(tuple(bytes.fromhex(colour[1:])), 0) > 500, primitive


@pytest.mark.parametrize(("operations", "concat"), CELLS.values(), ids=CELLS)
def test_boxes_and_lines_of_a_column_do_not_overlap(operations, concat):
    cell = cells._arrange(operations, concat)
    pill_count = sum(len(pills) for pills in cell.pills.values())
    assert pill_count == len(operations)
    for column in set(cell.column.values()):
        heights = sorted(cell.y[node] for node in cell.y if cell.column[node] == column)
        assert all(upper - lower > cells.WAYPOINT_HEIGHT - 1e-9 for lower, upper in itertools.pairwise(heights))
        nodes = sorted(cell.y[node] for node in cell.pills if cell.column[node] == column)
        assert all(upper - lower > 2 * cells.PILL_STEP for lower, upper in itertools.pairwise(nodes))


@pytest.mark.parametrize(("operations", "concat"), CELLS.values(), ids=CELLS)
def test_every_operation_has_its_own_line(operations, concat):
    cell = cells._arrange(operations, concat)
    lines = cells._lines(cell, lambda node: (cell.left[cell.column[node]], cell.y[node]))
    assert sorted(source for source, _ in lines) == sorted([source for _, source in operations] + list(concat))
    assert len({points[-1] for _, points in lines}) == len(lines)


def test_lines_go_forward_one_column_at_a_time():
    graph = networkx.DiGraph([("a", "b"), ("b", "c"), ("a", "c"), ("c", "out"), ("a", "out")])
    column = layout.columns(graph, last="out")
    assert column == {"a": 0, "b": 1, "c": 2, "out": 3}
    proper, column, ways = layout.with_waypoints(graph, column)
    assert ways["a", "out"] == [("via", "a", 1), ("via", "a", 2)] and ways["a", "c"] == [("via", "a", 1)]
    assert all(column[target] - column[source] == 1 for source, target in proper.edges)


def test_crossings_are_undone():
    graph = networkx.DiGraph([(f"left{i}", f"right{(i * 2) % 5}") for i in range(5)])
    column = {node: int(node.startswith("right")) for node in graph}
    y = layout.heights(graph, column, dict.fromkeys(graph, 1.0))
    assert layout._cost(graph, column, y) == pytest.approx((0, 0))


def test_an_unknown_primitive_an_unused_input_and_an_input_in_the_output(tmp_path):
    cell = [("my_conv_9x9", 0), ("none", 0), ("my_conv_9x9", 2), ("skip_connect", 0)]
    genotype = SimpleNamespace(normal=cell, normal_concat=[0, 3], reduce=cell, reduce_concat=[3])
    cells.draw_genotype(genotype, tmp_path / "below" / "cell.png")
    assert colours(tmp_path / "below" / "cell.png")


def test_the_picture_is_the_same_each_time(tmp_path):
    for name in ("one.png", "two.png"):
        cells.draw_genotype(GENOTYPES["SHARP_DARTS"], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_edge_names():
    assert edge_names(5) == ["$c_{k-2}$ → 0", "$c_{k-1}$ → 0", "$c_{k-2}$ → 1", "$c_{k-1}$ → 1", "0 → 1"]


@pytest.mark.parametrize("num_epochs", [1, 40])
def test_alphas(num_epochs, tmp_path):
    alphas = np.random.default_rng(0).standard_normal((num_epochs, 14, 8)).astype("float32")
    draw_alphas(alphas * 500, PUBLISHED["primitives"]["darts"], tmp_path / "alphas.png", "normal cell")
    assert len(colours(tmp_path / "alphas.png")[1]) > 50


@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_metrics(num_rows, tmp_path):
    rows = [{"epoch": e, "train_loss": 1 / (e + 1), "validation_accuracy": e / 9} for e in range(num_rows)]
    draw_metrics([*rows, {"epoch": num_rows, "train_loss": 0.1, "note": "text"}], tmp_path / "metrics.png")
    assert len(colours(tmp_path / "metrics.png")[1]) > 20


def test_schedule(tmp_path):
    draw_schedule(10, np.geomspace(0.1, 1e-8, 100), tmp_path / "schedule.png")
    assert len(colours(tmp_path / "schedule.png")[1]) > 20


# --- hypercuboids ---

CHOICES = [(("filters", 2), ("kind", "conv")), (("filters", 4), ("kind", "pool"))]
LATTICE = ([[(8, 8, 3)], [(8, 8, 2), (8, 8, 4)], [(4, 4, 2), (4, 4, 4)]], [np.array([[0, 1]]), np.array([[0, 1]] * 2)])
WEIGHTS = [np.array([[0.2, 0.8]]), np.array([[0.1, 0.2], [0.3, 0.4]])]


@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weights", "no weights"])
def test_a_path_lies_on_its_hypercuboid(weights, tmp_path):
    routes = [[(0, 1), (1, 0)]]
    hypercuboid.draw_path(routes, LATTICE, CHOICES, weights, tmp_path / "path.png", title="a path")
    _, with_path = colours(tmp_path / "path.png")
    hypercuboid.draw_path([], LATTICE, CHOICES, weights, tmp_path / "none.png", title="a path")
    _, without = colours(tmp_path / "none.png")
    red = tuple(bytes.fromhex(cells.LINE_COLOURS[1][1:]))
    counts = [{colour: count for count, colour in found}.get(red, 0) for found in (with_path, without)]
    assert counts[0] > 500 and counts[1] == 0


def test_each_route_has_its_own_colour(tmp_path):
    routes = [[(0, 1), (1, 0)], [(0, 0), (0, 1)]]
    hypercuboid.draw_path(routes, LATTICE, CHOICES, WEIGHTS, tmp_path / "path.png")
    by_colour = {colour: count for count, colour in colours(tmp_path / "path.png")[1]}
    for colour in cells.LINE_COLOURS[1:3]:
        assert by_colour.get(tuple(bytes.fromhex(colour[1:])), 0) > 500


def test_weights_of_choices_are_drawn_beside_uniform_ones(tmp_path):
    hypercuboid.draw_weights(WEIGHTS, CHOICES, tmp_path / "weights.png", title="weights")
    hypercuboid.draw_weights([np.full(w.shape, 1 / w.size) for w in WEIGHTS], CHOICES, tmp_path / "uniform.png")
    assert (tmp_path / "weights.png").read_bytes() != (tmp_path / "uniform.png").read_bytes()


def test_latency_against_addmults(tmp_path):
    from sharpkeras.view.latency import draw_latency

    rows = [
        {"name": f"N{index}", "size": "cifar10", "batch_size": batch, "addmults_paper": 10**8 * (1 + index)}
        | {
            "p50_ms": 2.0 * (1 + index) * batch,
            "p50_interval_ms": [1.9 * (1 + index) * batch, 2.2 * (1 + index) * batch],
        }
        for batch in (1, 8)
        for index in range(9)
    ]
    draw_latency(rows, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height
    draw_latency(rows[:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
