"""Statistics of several runs, and McNemar's test between two networks; each with its estimator and its n.

The paper prints "median ± range/2" (caption of Table 2), which says nothing of the mean; both are here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpkeras.errors import DataError, NumericalError, UsageError


@dataclass(frozen=True)
class Estimate:
    """Estimate from several runs.

    Args:
        value: the median or the mean.
        spread: what stands behind the ±; None for a single run, which has none.
        estimator: how the two were made, such as "median ± range/2".
        n: how many runs have a value.
        of: how many runs there should be.
    """

    value: float
    spread: float | None
    estimator: str
    n: int
    of: int

    @property
    def how(self) -> str:
        """The estimator and the number of runs in words."""
        missing = f" of {self.of}" if self.of > self.n else ""
        if self.n == 1:
            return f"single run, n = 1{missing}" if missing else "single run"
        return f"{self.estimator}, n = {self.n}{missing} runs"

    def number(self, scale: float = 100, digits: int = 2, unit: str = " %") -> str:
        """The value with its spread; without further arguments a fraction in percent."""
        spread = "" if self.spread is None else f" ± {scale * self.spread:.{digits}f}"
        return f"{scale * self.value:.{digits}f}{spread}{unit}"

    def __str__(self) -> str:
        return f"{self.number()} ({self.how})"


def median_half_range(values: Sequence[float | None]) -> Estimate:
    """Median ± half the range, as in Table 2 of the paper.

    Args:
        values: one for each run; None for a run that failed or is missing, which is counted and named all the same.

    Returns:
        An Estimate; without a spread for a single run.

    Raises:
        DataError: if no run has a value.
        NumericalError: if one is not finite.

    >>> print(median_half_range([0.0193, 0.0198, 0.0207]))
    1.98 ± 0.07 % (median ± range/2, n = 3 runs)
    """
    found, of = _found(values)
    spread = float(np.ptp(found)) / 2 if len(found) > 1 else None
    return Estimate(float(np.median(found)), spread, "median ± range/2", len(found), of)


def mean_interval(values: Sequence[float | None], confidence: float = 0.95) -> Estimate:
    """The mean with Student's t-interval.

    Args:
        values: one for each run; None for one that failed, which is left out and counted in `of`.
        confidence: how often the interval shall cover the mean of all runs that could be made, in (0, 1).

    Returns:
        An Estimate; without an interval for a single run.

    Raises:
        DataError, NumericalError: as in `median_half_range`.
        UsageError: if the confidence lies outside (0, 1).
    """
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise UsageError("the confidence is no probability", seen=confidence, allowed="between 0 and 1, such as 0.95")
    (found, of), spread = _found(values), None
    if len(found) > 1:
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        spread = float(t.ppf((1 + confidence) / 2, len(found) - 1) * error)
    estimator = f"mean ± {100 * confidence:g} % t-interval"
    return Estimate(float(np.mean(found)), spread, estimator, len(found), of)


class McNemar(NamedTuple):
    """The exact test of McNemar; its text names all that went into it.

    Args:
        first_only: images that the first network alone has right.
        second_only: images that the second network alone has right.
        n: all images.
        p: how often two equally good networks differ by as much or more, both sides together.
    """

    first_only: int
    second_only: int
    n: int
    p: float

    def __str__(self) -> str:
        return (
            f"p = {self.p:.3g} (exact McNemar, n = {self.n} images, right in the first alone: {self.first_only}, "
            f"in the second alone: {self.second_only})"
        )


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Whether two networks that saw the same images are equally good.

    Only images on which they differ say anything; were the networks equally good, each of these would fall to either
    like a coin.

    Args:
        first_right: (N,) booleans, whether the first network has the image right.
        second_right: (N,) booleans of the second network, for the same images in the same order.

    Returns:
        McNemar; with no image on which they differ p is 1.

    Raises:
        DataError: if there are no images, or not the same number of them.

    >>> print(mcnemar([True, True, True, False], [False, False, False, False]))
    p = 0.25 (exact McNemar, n = 4 images, right in the first alone: 3, in the second alone: 0)
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        seen = f"{first.shape} and {second.shape}"
        raise DataError("expected two answers to the same images", seen=seen, allowed="(N,) and (N,), N at least 1")
    first_only, second_only = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = first_only + second_only
    p = float(binomtest(first_only, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(first_only, second_only, len(first), p)


def _found(values: Sequence[float | None]) -> tuple[NDArray[Any], int]:
    """The values that there are, and how many there should be."""
    found = np.array([value for value in values if value is not None], "float64")
    if not found.size:
        raise DataError("no run has a value", seen=f"{len(values)} runs", allowed="at least 1 finished run")
    if not np.isfinite(found).all():
        raise NumericalError("a run's value is not finite", seen=found.tolist(), allowed="finite numbers")
    return found, len(values)
