"""Random genotypes: valid, uniform, and the same ones everywhere."""

import collections
import itertools
import json

import pytest
from scipy.stats import chisquare
from support.command_line import sharpkeras

from sharpkeras.primitives import OPS, PRIMITIVES
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.cell.space import CellSpace

PINNED_NORMAL = (("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 1), ("max_pool_3x3", 2))
PINNED_REDUCE = (("avg_pool_3x3", 0), ("dil_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 1))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("num_nodes", [1, 4, 7])
def test_every_sample_is_a_genotype(ops, num_nodes):
    lists = [names for names in PRIMITIVES.values() if all(name in OPS[ops] for name in names)]
    assert lists
    for names, seed in itertools.product(lists, range(50)):
        space = CellSpace(names, ops, num_nodes=num_nodes, num_concatenated=(num_nodes + 1) // 2)
        sampled = space.sample(seed, f"random-{seed}")
        assert genotypes.Genotype.from_dict(json.loads(sampled.as_json()), ops=ops) == sampled
        assert sampled.normal_concat == sampled.reduce_concat == tuple(range(2 + num_nodes // 2, 2 + num_nodes))
        for pairs in (sampled.normal, sampled.reduce):
            assert len(pairs) == 2 * num_nodes
            assert all(one[1] != two[1] for one, two in zip(pairs[::2], pairs[1::2]))
            assert {name for name, _ in pairs} <= {*names} - {"none"}


def test_sources_and_primitives_are_uniform_and_independent():
    space = CellSpace(PRIMITIVES["darts"], num_nodes=3, num_concatenated=3)
    sources, primitives, neighbours = (collections.Counter() for _ in range(3))
    for seed in range(3000):
        sampled = space.sample(seed)
        for pairs in (sampled.normal, sampled.reduce):
            sources.update([tuple(source for _, source in pairs[4:])])
            primitives.update(name for name, _ in pairs)
            neighbours.update([(pairs[0][0], pairs[1][0])])
        neighbours.update([(sampled.normal[0][0], sampled.reduce[0][0])])
    assert (len(sources), len(primitives), len(neighbours)) == (6, 7, 49)
    for counts in (sources, primitives, neighbours):
        assert chisquare(list(counts.values())).pvalue > 0.001


def test_a_seed_is_a_genotype_on_every_machine():
    space = CellSpace(PRIMITIVES["darts"], num_nodes=2, num_concatenated=2)
    assert space.sample(3) == space.sample(3) != space.sample(4)
    sampled = space.sample(0)
    assert (sampled.normal, sampled.reduce) == (PINNED_NORMAL, PINNED_REDUCE)


# --- the command ---


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["sample", "--space", "darts", "--ops", "darts", "--num-nodes", "2", "--seed", "5", "--count", "2"]
    result = sharpkeras(*typed, "--out", "drawn")
    assert result.code == 0, result.err
    written = [genotypes.load(tmp_path / "drawn" / f"random-darts-{seed}.json", "darts") for seed in (5, 6)]
    space = CellSpace(PRIMITIVES["darts"], "darts", num_nodes=2, num_concatenated=2)
    assert written == [space.sample(seed, f"random-darts-{seed}") for seed in (5, 6)]
    assert all(genotype.as_json() in result.out for genotype in written)
    assert result.out.endswith("Next: sharpkeras train drawn/random-darts-5.json --ops darts\n")

    again = sharpkeras(*typed, "--out", "drawn", "--overwrite", "--json")
    assert [row["genotype"] for row in again.json["genotypes"]] == [genotype.as_dict() for genotype in written]


def test_a_file_of_its_own(tmp_path):
    file = tmp_path / "mine.json"
    assert sharpkeras("sample", "--space", "skip_connect,sep_conv_3x3", "--out", file).code == 0
    assert genotypes.load(file).name == "random-0"


def test_nothing_is_written_when_one_of_several_is_there(tmp_path):
    (tmp_path / "random-sharp-1.json").write_text("{}")
    result = sharpkeras("sample", "--count", "2", "--out", tmp_path)
    assert result.code == 5 and "exists already" in result.err and "--overwrite" in result.err
    result = sharpkeras("sample", "--count", "2", "--out", tmp_path, "--overwrite")
    assert result.code == 5 and "is no architecture" in result.err
    assert (tmp_path / "random-sharp-1.json").read_text() == "{}"
    assert not (tmp_path / "random-sharp-0.json").exists()
