"""Pictures: they are written whole, and the layout under them has no overlaps."""

import importlib.resources
import itertools
import json
from types import SimpleNamespace

import networkx
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sharpkeras.view import cells, collapse, curves, hypercuboid, latency, layout
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


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in their order."""
    figures, write = [], curves.save
    for module in (curves, collapse, hypercuboid, latency):
        monkeypatch.setattr(module, "save", lambda figure, path: (figures.append(figure), write(figure, path)))
    return figures


def test_the_colours_of_alphas_tell_small_differences_from_large_ones(drawn, tmp_path):
    """By hand: log2(0.12 · 9) = 0.111, log2(0.5 · 9) = 2.17, and 0 is in the middle of the colours."""
    weights = np.full((2, 9), 1 / 9)
    weights[0] = [0.12, *[0.11] * 8]
    weights[1] = [0.5, *[0.0625] * 8]
    draw_alphas(np.log(weights)[None], PUBLISHED["primitives"]["sharp"][:9], tmp_path / "both.png")
    draw_alphas(np.log(weights[:1])[None], PUBLISHED["primitives"]["sharp"][:9], tmp_path / "small.png")
    both, small = (figure.axes[0].images[0] for figure in drawn)
    np.testing.assert_allclose(both.get_array()[:, 0], [np.log2(0.12 * 9), np.log2(0.5 * 9)], atol=1e-9)
    for image in (both, small):
        low, high = image.get_clim()
        assert low == -high
    assert both.get_clim()[1] == pytest.approx(np.log2(4.5))
    assert small.get_clim()[1] == 0.5  # so that 0.12 has a fifth of the colour, and neither none nor all of it
    grey, light, full = (small.to_rgba(value)[:3] for value in (0.0, np.log2(0.12 * 9), 0.5))
    assert 0.03 < np.abs(np.subtract(light, grey)).max() < 0.3 < np.abs(np.subtract(full, grey)).max()
    for figure in drawn:
        assert "log₂ (weight / uniform weight)" in [axes.get_ylabel() for axes in figure.axes]
        assert "0.120" in [text.get_text() for text in figure.axes[0].texts]


def test_weights_of_nothing_have_a_colour(drawn, tmp_path):
    weights = [np.array([[1.0, 0.0]]), np.array([[0.1, 0.2], [0.3, 0.4]])]
    hypercuboid.draw_weights(weights, CHOICES, tmp_path / "weights.png")
    low, high = drawn[0].axes[0].images[0].get_clim()
    assert (low, high) == (-2, 2)  # log2 of the 4 choices of the second position


def lines_of_a_legend(figure):
    (legend,) = figure.legends
    texts = [text.get_text().replace("\n", "") for text in legend.get_texts()]
    return dict(zip(texts, legend.get_lines(), strict=True))


@pytest.mark.parametrize("count", [2, 12, 70, 120])
def test_no_two_searches_share_a_look_or_a_label(drawn, tmp_path, count):
    rows = [{"epoch": epoch, "skip_share": 0.1 * epoch, "found_convs": epoch} for epoch in range(3)]
    names = [f"experiments/{index}/search" for index in range(count)]
    collapse.draw_collapse({name: rows for name in names}, tmp_path / "collapse.png")
    found = lines_of_a_legend(drawn[0])
    assert list(found) == names
    looks = [(line.get_color(), line.get_marker()) for line in found.values()]
    assert len(set(looks)) == count
    lines = drawn[0].axes[0].lines
    assert len(lines) == count
    for line, (colour, marker) in zip(lines, looks):
        assert line.get_color() == colour and line.get_marker() in (marker, ".")
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == count


def test_seeds_of_one_label_look_alike(drawn, tmp_path):
    rows = [{"epoch": 0, "skip_share": 0.1}]
    labels = {"a": "scalar", "b": "max_w", "c": "scalar"}
    collapse.draw_collapse(dict.fromkeys(labels, rows), tmp_path / "collapse.png", labels)
    assert list(lines_of_a_legend(drawn[0])) == ["scalar (2 runs)", "max_w"]
    first, second, third = (line.get_color() for line in drawn[0].axes[0].lines)
    assert first == third != second


def outside(figure):
    """The texts of a figure that leave it; not those of ticks, which may be where no tick is drawn."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    texts += [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    boxes = {text.get_text(): text.get_window_extent() for text in texts if text.get_text()}
    return [text for text, box in boxes.items() if figure.bbox.padded(1).count_contains(box.corners()) != 4]


ODD = ["_trial", "a$b$", r"$\nothing$", "x" * 250]


def test_names_of_all_kinds_are_whole_in_a_picture(drawn, tmp_path):
    rows = [{"epoch": 0, "skip_share": 0.1}]
    collapse.draw_collapse(dict.fromkeys(ODD, rows), tmp_path / "collapse.png", title=" ".join(ODD))
    shown = [text.replace(r"\$", "$").strip() for text in lines_of_a_legend(drawn[0])]
    assert shown == ODD
    for number, name in enumerate(ODD):
        curves.draw_alphas(np.zeros((1, 2, 2)), ("conv", "pool"), tmp_path / f"a{number}.png", f"{name}: epoch 1")
        cells.draw_genotype(GENOTYPES["DARTS_V2"], tmp_path / f"c{number}.png", title=name)
    for figure in drawn:
        assert outside(figure) == []


def test_the_primitive_of_somebody_fits_its_box(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(cells, "Figure", lambda **options: figures.append(Figure(**options)) or figures[-1])
    name = "my_separable_convolution_with_attention_7x7"
    cell = [(name, 0), ("none", 1)]
    genotype = SimpleNamespace(normal=cell, normal_concat=[2], reduce=cell, reduce_concat=[2])
    cells.draw_genotype(genotype, tmp_path / "cell.png")
    (figure,) = figures
    texts = [text for text in figure.axes[0].texts if text.get_text() == name]
    assert texts and all(text.get_window_extent().width <= cells.PILL[0] * figure.dpi for text in texts)


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
