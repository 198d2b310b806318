"""Statistics of measured times: percentiles and ratios with intervals, and whether the machine was quiet enough.

Runs of one process are not independent. Neighbours share what else the machine did at that moment, and a whole process
shares where its memory happens to lie: a resampling of single runs, or of blocks alone, claims to know more than it
does. (Simulated, three processes of ten blocks of ten runs that differ by 1 % from process to process: 95 % intervals
of resampled blocks hold the true median in 73 % of all cases, those made here in 95 %.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 1000
LARGEST_SPREAD = 0.10  # of the processes' medians, above which a machine is too noisy
LARGEST_BUSY_SHARE = 0.5  # of the cores, by others, before the start
VERDICTS = {-1: "faster", 0: "no difference shown", 1: "slower"}


def interval(figure: Callable[[Any], float], processes: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """A 95 % interval for a positive figure of measured times.

    The wider, on either side, of two: Student's t over the processes, each of which gives the figure once (as a
    logarithm); and a bootstrap that resamples blocks, for when three processes agree by chance.

    Args:
        figure: a list of blocks → a positive number.
        processes: for each process its list of blocks, at least two processes.

    Returns:
        (low, high).
    """
    from scipy.stats import bootstrap, t

    blocks = [block for process in processes for block in process]

    def resampled(chosen: np.ndarray) -> float:
        return figure([blocks[index] for index in chosen])

    settings = {"method": "percentile", "vectorized": False, "n_resamples": RESAMPLES, "rng": 0}
    found = bootstrap((np.arange(len(blocks)),), resampled, confidence_level=CONFIDENCE, **settings).confidence_interval
    logs = np.log([figure(process) for process in processes])
    half = t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, high = np.exp([logs.mean() - half, logs.mean() + half])
    return float(min(low, found.low)), float(max(high, found.high))


def percentile(q: float, processes: Sequence[Sequence[ArrayLike]]) -> tuple[float, tuple[float, float]]:
    """The q-th percentile of all runs, and its interval.

    Args:
        q: 0 to 100.
        processes: times in milliseconds: for each process its blocks, each a list.

    Returns:
        (milliseconds, (low, high)).
    """

    def figure(blocks: Sequence[ArrayLike]) -> float:
        return float(np.percentile(np.concatenate(blocks), q))

    return figure([block for process in processes for block in process]), interval(figure, processes)


def compare(first: Sequence[Sequence[ArrayLike]], second: Sequence[Sequence[ArrayLike]]) -> dict[str, Any]:
    """Ratio of the median latencies of two networks that took turns, with its interval and a verdict.

    Blocks of the two that were measured side by side stay together, so that what slowed both does not count.

    Args:
        first, second: times: for each process its blocks, as many of either.

    Returns:
        {"ratio": second / first, "interval": [low, high] of 95 %, "verdict"}: "slower" or "faster" says that the
        interval does not hold 1, "no difference shown" that it does.
    """
    pairs = [list(zip(*blocks)) for blocks in zip(first, second, strict=True)]

    def figure(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> float:
        ours, theirs = zip(*pairs)
        return float(np.median(np.concatenate(theirs)) / np.median(np.concatenate(ours)))

    low, high = interval(figure, pairs)
    ratio = figure([pair for process in pairs for pair in process])
    return {"ratio": ratio, "interval": [low, high], "verdict": VERDICTS[(low > 1) - (high < 1)]}


def summary(
    processes: Sequence[Sequence[ArrayLike]], batch_size: int, percentiles: Sequence[int], busy: float
) -> dict[str, Any]:
    """The figures of several processes, and whether the machine was quiet enough to believe them.

    Args:
        processes: nanoseconds: for each process its blocks, each a list.
        batch_size: images per run.
        percentiles: which to report.
        busy: share of the machine's cores that others used before the start, in [0, 1].

    Returns:
        `p50_ms` with `p50_interval_ms` and so on, `mean_ms`, `max_ms`, `images_per_second` (by the mean), the
        processes' medians and their `spread`, and `unstable` with its reasons.
    """
    processes = [[np.asarray(block) / 1e6 for block in process] for process in processes]
    milliseconds = np.concatenate([block for process in processes for block in process])
    medians = [float(np.median(np.concatenate(process))) for process in processes]
    spread = max(medians) / min(medians) - 1
    report: dict[str, Any] = {}
    for q in percentiles:
        report[f"p{q}_ms"], (low, high) = percentile(q, processes)
        report[f"p{q}_interval_ms"] = [low, high]
    reasons = reasons_for_doubt(medians, spread, busy)
    return report | {
        "mean_ms": float(milliseconds.mean()),
        "max_ms": float(milliseconds.max()),
        "images_per_second": float(1000 * batch_size / milliseconds.mean()),
        "process_medians_ms": medians,
        "spread": spread,
        "busy_share_before": busy,
        "unstable": bool(reasons),
        "unstable_because": reasons,
    }


def reasons_for_doubt(medians: Sequence[float], spread: float, busy: float) -> list[str]:
    """Why the machine was too noisy, in words; empty if it was not."""
    reasons = []
    if busy > LARGEST_BUSY_SHARE:
        reasons.append(f"{busy:.0%} of the cores were busy before the start")
    if spread > LARGEST_SPREAD:
        reasons.append(f"the medians of {len(medians)} processes differ by {spread:.0%}")
    return reasons
