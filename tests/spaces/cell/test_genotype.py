"""Genotypes as files that strangers write, and their extraction from alphas."""

import json
import pickle
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpkeras.errors import ConfigError
from sharpkeras.paper import published
from sharpkeras.primitives import OPS, PRIMITIVES
from sharpkeras.spaces.architecture import NAME_PATTERN
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.space import CellSpace

PAPER = json.loads(resources.files("sharpkeras").joinpath("paper/genotypes.json").read_text("utf-8"))
SEARCHED = PAPER["searched_weights"]


def fields(**changes):
    """A good genotype of two nodes as a JSON object, with some fields changed."""
    good = {
        "normal": [["sep_conv_3x3", 0], ["skip_connect", 1], ["none", 2], ["dil_conv_5x5", 0]],
        "normal_concat": [2, 3],
        "reduce": [["max_pool_3x3", 0], ["avg_pool_3x3", 1], ["conv_7x1_1x7", 1], ["sep_conv_7x7", 2]],
        "reduce_concat": [3],
    }
    return {**good, **changes}


def refused(value, **arguments):
    with pytest.raises(ConfigError) as caught:
        genotypes.Genotype.from_dict(value, "file.json", **arguments)
    assert caught.value.exit_code == 3 and caught.value.allowed
    return caught.value


# --- reading ---


def test_a_bare_object_is_version_1():
    genotype = genotypes.Genotype.from_dict(fields())
    assert genotype == genotypes.Genotype.from_dict(fields(schema_version=1))
    assert genotype.normal[1] == ("skip_connect", 1) and genotype.name is None
    assert genotype.cell(reduction=True) == (
        ((("max_pool_3x3", 0), ("avg_pool_3x3", 1)), (("conv_7x1_1x7", 1), ("sep_conv_7x7", 2))),
        (3,),
    )


@pytest.mark.parametrize("value", ([], "normal", None, 3, [["sep_conv_3x3", 0]]))
def test_only_objects_are_genotypes(value):
    assert "normal_concat" in refused(value).allowed


@pytest.mark.parametrize(
    "content",
    (
        b"DARTS = Genotype(normal=[('sep_conv_3x3', 0)], normal_concat=range(2, 6))",
        pickle.dumps({"normal": []}),
        b"",
        b"{'normal': []}",
        b'{"normal": [], "normal": []}',
    ),
    ids=("python", "pickle", "empty", "quotes", "twice"),
)
def test_a_file_is_json_or_refused(tmp_path, content):
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        genotypes.load(path)
    assert caught.value.exit_code == 3 and str(path) in caught.value.where and caught.value.allowed


def test_an_unknown_primitive_is_named_with_its_nearest_and_its_place():
    error = refused(fields(reduce=[["sep_conv_9x9", 0], ["none", 1]], reduce_concat=[2]))
    assert error.where == "file.json: reduce[0][0]" and error.seen == "sep_conv_9x9"
    assert "sep_conv_" in error.next_step and "dil_choke_conv_3x3" in error.allowed


def test_primitives_belong_to_an_op_table():
    choke = fields(normal=[["choke_conv_3x3", 0], ["nor_conv_3x3", 1]], normal_concat=[2])
    assert genotypes.Genotype.from_dict(choke).normal[0][0] == "choke_conv_3x3"  # each is known in some table
    assert refused(choke, ops="darts").seen == "choke_conv_3x3"
    assert refused(choke, ops="sharp").seen == "nor_conv_3x3"


@pytest.mark.parametrize(
    "changes, where",
    (
        ({"normal": [["none", 0], ["none", 2]], "normal_concat": [2]}, "normal[1][1]"),
        ({"normal": [["none", 0], ["none", -1]], "normal_concat": [2]}, "normal[1][1]"),
        ({"reduce": [["none", 0], ["none", 1], ["none", 3], ["none", 0]]}, "reduce[2][1]"),
        ({"normal": [["none", 0], ["none", 1], ["none", 0]]}, "normal"),
        ({"normal": []}, "normal"),
        ({"normal": [["none", 0], ["none", 1]] * 33}, "normal"),
        ({"normal": "none"}, "normal"),
        ({"normal": [["none", 0], ["none", True]]}, "normal[1]"),
        ({"normal": [["none", 0], ["none", 1.0]]}, "normal[1]"),
        ({"normal": [["none", 0], [7, 1]]}, "normal[1]"),
        ({"normal": [["none", 0], ["none", 1, 2]]}, "normal[1]"),
        ({"normal": [["none", 0], "none"]}, "normal[1]"),
        ({"normal_concat": []}, "normal_concat"),
        ({"normal_concat": [4]}, "normal_concat"),
        ({"reduce_concat": [2, 2]}, "reduce_concat"),
        ({"reduce_concat": [True]}, "reduce_concat"),
        ({"reduce_concat": 2}, "reduce_concat"),
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": "1"}, "schema_version"),
        ({"name": "../../x"}, "name"),
        ({"name": "a" * 10_000}, "name"),
        ({"name": "a\x1b[31mb"}, "name"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
    ),
)
def test_a_broken_rule_is_named_with_its_place(changes, where):
    error = refused(fields(**changes))
    assert error.where == f"file.json: {where}"
    assert str(error).isprintable() or "\n" in str(error)
    assert "\x1b" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("name", genotypes.FIELDS)
def test_a_missing_field_is_named(name):
    value = fields()
    del value[name]
    assert f"missing {name}" in str(refused(value))


def test_an_unknown_field_is_named():
    assert "normal_concatt" in str(refused(fields(normal_concatt=[2])))
    # what another space writes
    assert "missing normal" in str(refused({"schema_version": 1, "path": ["Source", "Conv3x3_0"]}))


# --- there and back ---


@st.composite
def random_genotypes(draw):
    table = draw(st.sampled_from(sorted(OPS)))

    def cell():
        nodes = draw(st.integers(1, 6))
        names = st.sampled_from(sorted(OPS[table]))
        pairs = tuple(draw(st.tuples(names, st.integers(0, 1 + node))) for node in range(nodes) for _ in range(2))
        return pairs, tuple(draw(st.lists(st.integers(0, 1 + nodes), min_size=1, unique=True)))

    name = draw(st.none() | st.from_regex(NAME_PATTERN, fullmatch=True))
    return Genotype(*cell(), *cell(), name), table


@settings(max_examples=60, deadline=None)
@given(random_genotypes())
def test_a_genotype_survives_its_json(pair):
    genotype, table = pair
    assert genotypes.Genotype.from_dict(json.loads(genotype.as_json()), ops=table) == genotype
    assert genotypes.Genotype.from_dict(genotype.as_dict()) == genotype
    hash(genotype)


def test_a_file_is_readable_and_reads_back(tmp_path):
    genotype = published.genotype("SHARP_DARTS")
    path = tmp_path / "genotype.json"
    path.write_text(genotype.as_json(), encoding="utf-8")
    assert genotypes.load(path) == genotype and genotypes.load(path, ops="sharp") == genotype
    assert len(path.read_text().splitlines()) == 9  # one line per field, so that a difference can be read


def test_published_genotypes_are_all_there():
    assert list(published.names()) == list(PAPER["cell_genotypes"])
    assert {"DARTS_V1", "DARTS_V2", "SHARPSEPCONV_DARTS", "SHARP_DARTS", "NASNet-A", "AmoebaNet-A"} <= set(
        published.names()
    )
    for name, cell in PAPER["cell_genotypes"].items():
        genotype = published.genotype(name)
        assert genotype.name == name and [list(pair) for pair in genotype.normal] == cell["normal"]


def test_an_unknown_published_name_runs_nothing():
    with pytest.raises(ConfigError) as caught:
        published.genotype("__import__('os').abort()")
    assert "unknown architecture" in str(caught.value) and "SHARP_DARTS" in caught.value.allowed
    with pytest.raises(ConfigError, match="did you mean SHARP_DARTS"):
        published.genotype("sharp_dart")


def test_published_primitive_lists_are_ours():
    assert {name: list(PRIMITIVES[name]) for name in PAPER["primitives"]} == PAPER["primitives"]


# --- extraction ---


def brute_force(weights, names, num_nodes, skip_none):
    """The official `genotype()` in loops: rank a node's edges by their strongest primitive, then name it."""
    usable = [p for p, name in enumerate(names) if not (skip_none and name == "none")]
    pairs, first = [], 0
    for node in range(num_nodes):
        best = []
        for source in range(2 + node):
            strongest = usable[0]
            for p in usable:
                if weights[first + source][p] > weights[first + source][strongest]:
                    strongest = p
            best.append((weights[first + source][strongest], source, strongest))
        for _ in range(2):
            winner = best[0]
            for candidate in best:
                if candidate[0] > winner[0]:
                    winner = candidate
            best.remove(winner)
            pairs.append((names[winner[2]], winner[1]))
        first += 2 + node
    return tuple(pairs)


@pytest.mark.parametrize("skip_none", (True, False))
@pytest.mark.parametrize("ties", (False, True))
@pytest.mark.parametrize("names", PRIMITIVES)
def test_extraction_is_the_brute_force(names, ties, skip_none):
    rng, primitives = np.random.default_rng(1), PRIMITIVES[names]
    for num_nodes, num_concatenated in ((4, 4), (5, 3), (1, 1)):
        space = CellSpace(primitives, num_nodes=num_nodes, num_concatenated=num_concatenated)
        shape = (2, space.num_edges, len(primitives))
        # Every row holds the same numbers in the case of ties, so that edges tie exactly after the softmax too.
        alphas = np.stack([rng.permutation(len(primitives)) % 3 for _ in range(shape[0] * shape[1])]).reshape(shape)
        alphas = alphas.astype("float64") if ties else rng.normal(size=shape)
        if ties:
            alphas = np.sort(alphas, -1)[..., rng.permutation(len(primitives))]
        weights = np.exp(alphas - alphas.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        found = space.extract(alphas, skip_none, name="found")
        assert found.normal == brute_force(weights[0], primitives, num_nodes, skip_none)
        assert found.reduce == brute_force(weights[1], primitives, num_nodes, skip_none)
        assert (
            found.normal_concat == found.reduce_concat == tuple(range(2 + num_nodes - num_concatenated, 2 + num_nodes))
        )
        assert genotypes.Genotype.from_dict(found.as_dict()) == found


@pytest.mark.parametrize("skip_none, suffix", ((True, "skip_none"), (False, "no_hack")))
@pytest.mark.parametrize("search", ("SHARPER_SCALAR", "SHARPER_MAX_W"))
def test_searched_weights_give_their_published_genotypes(search, skip_none, suffix):
    weights = SEARCHED[f"{search}_WEIGHTS"]
    alphas = [np.log(weights[kind]) for kind in ("normal", "reduce")]
    found = CellSpace(PRIMITIVES["sharper"]).extract(alphas, skip_none)
    expected = SEARCHED[f"{search}_genotype_{suffix}"]
    assert [list(pair) for pair in found.normal] == expected["normal"]
    assert [list(pair) for pair in found.reduce] == expected["reduce"]
    if skip_none:
        named = published.genotype(search)
        assert (found.normal, found.reduce) == (named.normal, named.reduce)
