"""The collapse watch: shares of winners and entropy by hand, and when it warns."""

import math

import numpy as np
import pytest

from sharpkeras.searching import collapse

KINDS = ("none", "pool", "skip", "conv")


def alphas(*winners):
    """One row of logits per edge, won by the primitive of that index."""
    return np.array([np.eye(4)[winner] for winner in winners])


def decisions(normal, reduce, kinds=KINDS):
    """What two cells had to decide, as a space says it."""
    return {name: [(edge, kinds) for edge in cell] for name, cell in (("normal", normal), ("reduce", reduce))}


def test_shares_are_those_of_the_winners_of_both_cells():
    row = collapse.watch(decisions(alphas(0, 1, 2), alphas(3, 3, 2, 1, 1)))
    assert (row["none_share"], row["pool_share"], row["skip_share"]) == (1 / 8, 3 / 8, 2 / 8)


def test_kinds_and_not_names_are_counted():
    row = collapse.watch(decisions(alphas(0), alphas(1), ("pool", "pool", "conv", "conv")))
    assert row["pool_share"] == 1.0 and row["skip_share"] == row["none_share"] == 0.0


def test_entropy_is_that_of_the_softmax_edge_by_edge():
    uniform, sure = np.zeros((2, 4)), np.array([[0.0, 50.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    row = collapse.watch(decisions(uniform, sure))
    assert row["entropy_normal"] == pytest.approx(math.log(4))
    assert row["entropy_reduce"] == pytest.approx(math.log(4) / 2, abs=1e-9)


def test_entropy_against_its_definition():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.mean([-sum(w * math.log(w) for w in edge) for edge in weights])
    assert collapse.watch(decisions(logits, logits))["entropy_normal"] == pytest.approx(expected)


def test_it_warns_at_three_quarters_and_says_what_won():
    few, many = (decisions(alphas(1, 2), alphas(*reduce)) for reduce in ((3, 3), (2, 3)))
    assert collapse.warning(collapse.watch(few), few) is None
    warning = collapse.warning(collapse.watch(many), many)
    assert "75% of the edges" in warning and "skip 50%" in warning and "pool 25%" in warning


def test_alphas_that_never_learned_are_called_chance():
    begin = [1e-3 * np.random.default_rng(seed).normal(size=(14, 8)) for seed in range(2)]
    kinds = ("conv",) * 8
    for times in (1, 20):  # twenty times as far apart, the largest weights are still 0.129 where equal ones are 0.125
        assert "chance" in collapse.unlearned(decisions(*(times * cell for cell in begin), kinds))
    assert collapse.unlearned(decisions(*(100 * cell for cell in begin), kinds)) is None


def test_positions_of_different_sizes_are_decisions_too():
    grids = {"grids": [(np.array([0.0, 0.0]), ("conv", "pool")), (np.array([9.0, 0, 0, 0]), ("pool", "conv") * 2)]}
    row = collapse.watch(grids)
    assert row["pool_share"] == 0.5
    sure = -sum(w * math.log(w) for w in np.exp([9.0, 0, 0, 0]) / np.exp([9.0, 0, 0, 0]).sum())
    assert row["entropy_grids"] == pytest.approx((math.log(2) + sure) / 2)
