import numpy as np
import pytest

from sharpkeras.errors import DataError, NumericalError, UsageError
from sharpkeras.measure.error_rate import ErrorRate, clopper_pearson, top_k_errors


def test_interval_quoted_for_cifar_10_1():
    """90 % accuracy on 2000 images: [88.6 %, 91.3 %]."""
    low, high = clopper_pearson(200, 2000)
    assert (round(100 * (1 - high), 1), round(100 * (1 - low), 1)) == (88.6, 91.3)


@pytest.mark.parametrize(("errors", "n"), [(1, 10), (8, 360), (59, 60)])
def test_interval_ends_are_where_the_binomial_tails_hold_half_the_rest(errors, n):
    from scipy.stats import binom

    low, high = clopper_pearson(errors, n, confidence=0.9)
    assert binom.sf(errors - 1, n, low) == pytest.approx(0.05)
    assert binom.cdf(errors, n, high) == pytest.approx(0.05)


def test_interval_without_errors_and_with_errors_alone():
    """Closed form: 0 of n ends at 1 - 0.025^(1/n)."""
    assert clopper_pearson(0, 100) == (0.0, pytest.approx(1 - 0.025 ** (1 / 100)))
    assert clopper_pearson(100, 100) == (pytest.approx(0.025 ** (1 / 100)), 1.0)


def test_error_rate_in_words():
    assert str(ErrorRate(8, 360)) == "2.22 % (95 % interval 0.96–4.33, n = 360, Clopper–Pearson)"
    rate = ErrorRate(8, 360, confidence=0.99)
    assert rate.low < 0.0096 < rate.error < 0.0433 < rate.high
    assert "99 % interval" in str(rate)


@pytest.mark.parametrize(("errors", "n"), [(0, 0), (0, -1), (3, 2), (-1, 2)])
def test_no_rate_of_nothing(errors, n):
    with pytest.raises(DataError):
        ErrorRate(errors, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_confidence_is_a_probability(confidence):
    with pytest.raises(UsageError):
        ErrorRate(1, 10, confidence)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_against_sorting(k):
    generator = np.random.default_rng(0)
    logits = generator.integers(0, 4, size=(200, 7)).astype("float32")  # many ties
    labels = generator.integers(0, 7, size=200)
    largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    expected = sum(label not in row for label, row in zip(labels, largest))
    assert 0 < top_k_errors(logits, labels, k) == expected


def test_a_constant_network_is_no_better_than_guessing():
    labels = np.arange(10)
    assert top_k_errors(np.zeros((10, 10)), labels, 1) == 9
    assert top_k_errors(np.zeros((10, 10)), labels, 10) == 0


def test_nan_is_never_right():
    with pytest.raises(NumericalError):
        top_k_errors([[np.nan, 1.0]], [0], 1)


@pytest.mark.parametrize(
    ("logits", "labels", "k", "error"),
    [
        (np.zeros((2, 3)), [0, 3], 1, DataError),
        (np.zeros((2, 3)), [0, -1], 1, DataError),
        (np.zeros((2, 3)), [0, 1, 2], 1, DataError),
        (np.zeros((2, 3)), np.eye(3)[:2], 1, DataError),
        (np.zeros((2, 3)), [0.0, 1.0], 1, DataError),
        (np.zeros((2, 3)), [0, 1], 0, UsageError),
        (np.zeros((2, 3)), [0, 1], 4, UsageError),
    ],
)
def test_what_does_not_fit(logits, labels, k, error):
    with pytest.raises(error):
        top_k_errors(logits, labels, k)
