"""Classification error with the interval that its number of images allows (the paper's Table 2 prints errors alone)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sharpkeras.errors import DataError, NumericalError, UsageError


def clopper_pearson(errors: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of an error rate: the exact binomial one.

    It never covers less often than it claims, unlike the normal approximation, which ends below 0 for a good
    classifier on a small test set. 200 errors in 2000 images: 8.72 % to 11.40 %.

    Args:
        errors: number of wrongly classified images.
        n: number of images.
        confidence: how often the interval shall cover the true rate, in (0, 1).

    Returns:
        (low, high), both as fractions.

    Raises:
        DataError: if there are no images, or more errors than images.
        UsageError: if the confidence lies outside (0, 1).
    """
    from scipy.special import betaincinv

    if n <= 0:
        raise DataError("no images, hence no error rate", seen=n, allowed="at least 1 image")
    if not 0 <= errors <= n:
        raise DataError("the number of errors does not fit the number of images", seen=errors, allowed=f"0 to {n}")
    if not 0 < confidence < 1:
        raise UsageError("the confidence is no probability", seen=confidence, allowed="between 0 and 1, such as 0.95")
    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else float(betaincinv(errors, n - errors + 1, tail))
    high = 1.0 if errors == n else float(betaincinv(errors + 1, n - errors, 1 - tail))
    return low, high


@dataclass(frozen=True)
class ErrorRate:
    """Error rate of `errors` wrong out of `n` images; n = 0 is refused, so neither 0 % nor NaN stands for no images."""

    errors: int
    n: int
    confidence: float = 0.95

    def __post_init__(self) -> None:
        clopper_pearson(self.errors, self.n, self.confidence)

    @property
    def error(self) -> float:
        """Fraction of wrong images."""
        return self.errors / self.n

    @property
    def low(self) -> float:
        """Lower end of the Clopper–Pearson interval, a fraction."""
        return clopper_pearson(self.errors, self.n, self.confidence)[0]

    @property
    def high(self) -> float:
        """Upper end of the Clopper–Pearson interval, a fraction."""
        return clopper_pearson(self.errors, self.n, self.confidence)[1]

    def __str__(self) -> str:
        interval = f"{100 * self.confidence:g} % interval {100 * self.low:.2f}–{100 * self.high:.2f}"
        return f"{100 * self.error:.2f} % ({interval}, n = {self.n}, Clopper–Pearson)"

    def as_dict(self, label: str | None = None) -> dict[str, Any]:
        """The rate for JSON: `n`, `errors`, `error`, `interval`, `confidence` and `text`, which a label precedes."""
        text = f"{label} {self}" if label else str(self)
        counts = {"n": self.n, "errors": self.errors, "error": self.error}
        return counts | {"interval": [self.low, self.high], "confidence": self.confidence, "text": text}


def top_k_errors(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> int:
    """Number of top-k errors of a batch: images whose label is not among the `k` largest logits.

    Among equal logits the lower class counts as the larger one, as in `argmax`: a network that gives every class
    the same logit is then wrong about as often as guessing, not always right.

    Args:
        logits: (B, classes), or anything proportional in order, such as probabilities.
        labels: (B,) integers in [0, classes).
        k: how many answers the network may give.

    Returns:
        The number of errors; add it up over the batches, then make an `ErrorRate`.

    Raises:
        DataError: if shapes or labels do not fit the classes.
        NumericalError: if a logit is not finite; compared with NaN, everything would count as right.
        UsageError: if `k` lies outside 1 to classes.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(
            "logits and labels do not fit together",
            seen=f"{logits.shape} and {labels.shape}",
            allowed="(B, classes) and (B,)",
        )
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise UsageError("k does not fit the number of classes", seen=k, allowed=f"1 to {classes}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError("labels must be class numbers", seen=str(labels.dtype), allowed="integers, not one-hot rows")
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise DataError("a label is no class of the network", seen=int(outside[0]), allowed=f"0 to {classes - 1}")
    if not np.isfinite(logits).all():
        raise NumericalError("the network's logits are not finite", seen=f"{(~np.isfinite(logits)).sum()} values")
    true = np.take_along_axis(logits, labels[:, None], axis=1)  # (B, 1)
    equal_before = (logits == true) & (np.arange(classes) < labels[:, None])  # (B, classes)
    rank = (logits > true).sum(axis=1) + equal_before.sum(axis=1)  # (B,), 0 for the largest
    return int((rank >= k).sum())
