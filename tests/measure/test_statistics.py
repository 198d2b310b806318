"""Several runs in one number, and McNemar's test: against sums of one's own and published examples."""

import itertools
from math import comb, sqrt

import numpy as np
import pytest

from sharpkeras.errors import DataError, NumericalError, UsageError
from sharpkeras.measure.statistics import mcnemar, mean_interval, median_half_range


def test_the_papers_way_of_writing():
    estimate = median_half_range([0.0235, 0.0223, 0.0229])
    assert (estimate.value, estimate.n, estimate.of) == (0.0229, 3, 3)
    assert estimate.spread == pytest.approx(0.0006)
    assert str(estimate) == "2.29 ± 0.06 % (median ± range/2, n = 3 runs)"


def test_the_median_of_an_even_number_and_its_range():
    estimate = median_half_range([0.4, 0.1, 0.3, 0.2])
    assert estimate.value == pytest.approx(0.25) and estimate.spread == pytest.approx(0.15)


def test_interval_of_the_data_that_student_published():
    """Additional sleep under two drugs, the differences (Student 1908); R's t.test gives 0.7001142 to 2.4598858."""
    estimate = mean_interval([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    ends = estimate.value - estimate.spread, estimate.value + estimate.spread
    assert ends == pytest.approx((0.7001142, 2.4598858), abs=1e-7)


def test_interval_of_two_runs_in_closed_form():
    """With one degree of freedom t is Cauchy: its 97.5 % point is tan(0.475 π)."""
    estimate = mean_interval([0.02, 0.03])
    assert estimate.spread == pytest.approx(np.tan(0.475 * np.pi) * 0.01 / sqrt(2) / sqrt(2))
    assert str(estimate) == "2.50 ± 6.35 % (mean ± 95 % t-interval, n = 2 runs)"
    assert "90 % t-interval" in str(mean_interval([0.02, 0.03], confidence=0.9))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator, covered = np.random.default_rng(0), 0
    for values in generator.normal(3.0, 1.0, (2000, 4)):
        estimate = mean_interval(values, confidence=0.9)
        covered += abs(estimate.value - 3.0) < estimate.spread
    assert 0.88 < covered / 2000 < 0.92


@pytest.mark.parametrize("function", [median_half_range, mean_interval])
def test_a_single_run_has_no_deviation(function):
    estimate = function([0.0229])
    assert estimate.spread is None and str(estimate) == "2.29 % (single run)"
    assert str(function([None, 0.0229, None])) == "2.29 % (single run, n = 1 of 3)"


@pytest.mark.parametrize("function", [median_half_range, mean_interval])
def test_runs_without_a_value_are_counted(function):
    estimate = function([0.02, None, 0.03, 0.04, 0.05])
    assert (estimate.n, estimate.of) == (4, 5) and "n = 4 of 5 runs" in str(estimate)
    assert estimate.value == function([0.02, 0.03, 0.04, 0.05]).value


def test_other_quantities_than_errors():
    estimate = mean_interval([1e6, 3e6, 2e6])
    assert estimate.number(1e-6, 1, " M") == "2.0 ± 2.5 M"


@pytest.mark.parametrize("function", [median_half_range, mean_interval])
def test_no_number_of_nothing(function):
    for values in ([], [None, None]):
        with pytest.raises(DataError, match="no run has a value"):
            function(values)
    with pytest.raises(NumericalError):
        function([0.1, float("nan")])


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_probability(confidence):
    with pytest.raises(UsageError):
        mean_interval([0.1, 0.2], confidence)


# --- McNemar ---


def answers(both, first_only, second_only, neither):
    """Two networks' answers to images of which so many are right in both, in one and in none of them."""
    first = [True] * both + [True] * first_only + [False] * second_only + [False] * neither
    second = [True] * both + [False] * first_only + [True] * second_only + [False] * neither
    order = np.random.default_rng(0).permutation(len(first))
    return np.array(first)[order], np.array(second)[order]


def summed(first_only, second_only):
    """Twice the smaller tail of a fair coin, at most 1."""
    n, smaller = first_only + second_only, min(first_only, second_only)
    return min(1.0, 2 * sum(comb(n, k) for k in range(smaller + 1)) / 2**n)


@pytest.mark.parametrize(("first_only", "second_only"), [*itertools.product(range(0, 13, 2), range(1, 14, 3))])
def test_mcnemar_against_the_sum_of_the_binomial(first_only, second_only):
    test = mcnemar(*answers(5, first_only, second_only, 3))
    assert test[:3] == (first_only, second_only, 8 + first_only + second_only)
    assert test.p == pytest.approx(summed(first_only, second_only))


@pytest.mark.parametrize(
    ("table", "p"),
    [
        # Fagerland, Lydersen and Laake 2013: airway hyper-responsiveness before and after a transplantation
        ((1, 1, 7, 12), 0.0703),
        # statsmodels' test of its own against R's exact McNemar test
        ((101, 121, 59, 33), 4.434e-06),
    ],
)
def test_mcnemar_against_published_examples(table, p):
    assert mcnemar(*answers(*table)).p == pytest.approx(p, rel=1e-3)


def test_mcnemar_without_a_difference():
    test = mcnemar([True, False], [True, False])
    assert (test.p, test.first_only, test.second_only) == (1.0, 0, 0)


def test_mcnemar_in_words():
    words = "p = 0.0703 (exact McNemar, n = 21 images, right in the first alone: 1, in the second alone: 7)"
    assert str(mcnemar(*answers(1, 1, 7, 12))) == words


@pytest.mark.parametrize(("first", "second"), [([True], [True, False]), ([], []), ([[True]], [[True]])])
def test_mcnemar_needs_the_same_images(first, second):
    with pytest.raises(DataError):
        mcnemar(first, second)
