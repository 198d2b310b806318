"""What measured times say: intervals that hold the truth as often as they claim, differences, and noise."""

import numpy as np
import pytest
from scipy.stats import binom

from sharpkeras.measure.latency import statistics

PROCESSES, BLOCKS, RUNS = 3, 5, 10
TAIL = 0.1  # of a run's time, exponential: most runs are near the fastest, some are not
MEDIAN = 1 + TAIL * np.log(2)
P90 = 1 + TAIL * np.log(10)


def fake(seed, scale=1.0, process_effect=0.01, block_effect=0.01):
    """Milliseconds of a network whose median is `scale * MEDIAN`: for each process its blocks.

    The effects are the relative deviations of whole processes and blocks, whose medians are 1.
    """
    generator = np.random.default_rng(seed)
    process = generator.normal(0, process_effect, (PROCESSES, 1, 1))
    block = generator.normal(0, block_effect, (PROCESSES, BLOCKS, 1))
    run = 1 + generator.exponential(TAIL, (PROCESSES, BLOCKS, RUNS))
    return list(map(list, scale * np.exp(process + block) * run))


def nanoseconds(processes):
    return [[(1e6 * block).astype(int).tolist() for block in process] for process in processes]


# What chance alone allows of 200 intervals, were 95 % right: fewer come once in 10,000 times.
TRIALS = 200
FEWEST = int(binom.ppf(1e-4, TRIALS, statistics.CONFIDENCE))


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


@pytest.mark.parametrize("process_effect", [0.0, 0.01, 0.1])
@pytest.mark.parametrize(("q", "truth"), [(50, MEDIAN), (90, P90)])
def test_an_interval_holds_the_truth_as_often_as_it_says(q, truth, process_effect):
    found = [statistics.percentile(q, fake(seed, process_effect=process_effect))[1] for seed in range(TRIALS)]
    assert sum(low <= truth <= high for low, high in found) >= FEWEST


def test_blocks_alone_would_claim_too_much():
    """Why `interval` looks at the processes: what resampled blocks say is wrong far more often than once in twenty."""
    from scipy.stats import bootstrap

    right = 0
    for seed in range(TRIALS):
        blocks = np.array(fake(seed)).reshape(PROCESSES * BLOCKS, RUNS)
        found = bootstrap(
            (np.arange(len(blocks)),),
            lambda i, b=blocks: np.median(b[i]),
            vectorized=False,
            rng=0,
            n_resamples=200,
            method="percentile",
        )
        right += found.confidence_interval.low <= MEDIAN <= found.confidence_interval.high
    assert right < FEWEST


def test_an_interval_is_narrow_on_a_quiet_machine():
    widths = [np.ptp(statistics.percentile(50, fake(seed))[1]) for seed in range(20)]
    assert np.median(widths) < 0.1 * MEDIAN


@pytest.mark.parametrize("seed", range(5))
def test_two_measurements_of_one_network_agree(seed):
    first, second = (statistics.summary(nanoseconds(fake(s)), 1, [50, 90], 0.0) for s in (seed, 1000 + seed))
    assert second["p50_ms"] == pytest.approx(first["p50_ms"], rel=0.1)
    assert second["p90_ms"] == pytest.approx(first["p90_ms"], rel=0.1)


def test_the_same_times_give_the_same_interval():
    assert statistics.percentile(50, fake(0)) == statistics.percentile(50, fake(0))


# ---- comparisons ----


def test_a_network_is_not_faster_than_itself():
    verdicts = [statistics.compare(fake(seed), fake(1000 + seed))["verdict"] for seed in range(TRIALS)]
    assert verdicts.count("no difference shown") >= FEWEST


@pytest.mark.parametrize(("scale", "verdict"), [(1.2, "slower"), (1 / 1.2, "faster")])
def test_a_fifth_is_a_real_difference(scale, verdict):
    found = [statistics.compare(fake(seed), fake(1000 + seed, scale)) for seed in range(50)]
    assert [pair["verdict"] for pair in found].count(verdict) >= 49
    assert np.median([pair["ratio"] for pair in found]) == pytest.approx(scale, rel=0.01)


def test_the_interval_of_a_ratio_holds_it():
    found = [statistics.compare(fake(seed), fake(1000 + seed, 1.2))["interval"] for seed in range(TRIALS)]
    assert sum(low <= 1.2 <= high for low, high in found) >= FEWEST


def test_what_slows_both_does_not_count():
    """The machine is three times as slow in two thirds of the blocks; each pair of blocks sees the same of it."""
    slow = np.random.default_rng(0).permutation(np.repeat([1.0, 3.0, 3.0], BLOCKS)).reshape(PROCESSES, BLOCKS, 1)
    first, second = np.array(fake(1)) * slow, np.array(fake(2, 1.2)) * slow
    alone = statistics.percentile(50, list(map(list, second)))[1]
    pair = statistics.compare(list(map(list, first)), list(map(list, second)))
    assert alone[0] < MEDIAN  # by itself the second could be as fast as the first
    assert pair["verdict"] == "slower" and pair["interval"][0] < 1.2 < pair["interval"][1]


# ---- figures ----


def test_summary_of_known_times():
    processes = [[[1_000_000] * 50, [3_000_000] * 50], [[2_000_000] * 100], [[2_100_000] * 100]]
    report = statistics.summary(processes, 4, [50, 90], busy=0.1)
    assert (report["p50_ms"], report["p90_ms"], report["max_ms"]) == (2.05, 3.0, 3.0)
    assert report["mean_ms"] == pytest.approx(6.1 / 3)
    assert report["images_per_second"] == pytest.approx(4000 / (6.1 / 3))
    assert report["spread"] == pytest.approx(0.05)
    assert report["p50_interval_ms"][0] <= 2.05 <= report["p50_interval_ms"][1]
    assert not report["unstable"]


def test_times_that_never_differ_are_their_own_interval():
    assert statistics.percentile(50, [[[2.0, 2.0]]] * 3) == (2.0, pytest.approx((2.0, 2.0)))


@pytest.mark.parametrize(("slow", "busy", "reasons"), [(105, 0.6, 1), (120, 0.0, 1), (120, 0.6, 2), (109, 0.5, 0)])
def test_a_noisy_machine_is_flagged(slow, busy, reasons):
    report = statistics.summary([[[100] * 9], [[100] * 9], [[slow] * 9]], 1, [50], busy)
    assert report["unstable"] is (reasons > 0)
    assert len(report["unstable_because"]) == reasons


def test_a_process_that_stalls_makes_the_figure_unstable():
    quiet = nanoseconds(fake(0))
    stalled = quiet[:2] + [[[3 * time for time in block] for block in quiet[2]]]
    assert not statistics.summary(quiet, 1, [50], 0.0)["unstable"]
    report = statistics.summary(stalled, 1, [50], 0.0)
    assert report["unstable"] and "differ by" in report["unstable_because"][0]


def test_stalls_of_some_runs_show_in_the_tail_and_of_one_in_the_slowest():
    quiet = statistics.summary(nanoseconds(fake(0)), 1, [50, 90], 0.0)
    often, once = nanoseconds(fake(0)), nanoseconds(fake(0))
    for process in often:
        for block in process:
            block[:2] = [10**8, 10**8]  # two runs of ten
    once[0][0][0] = 10**8
    assert statistics.summary(often, 1, [50, 90], 0.0)["p90_ms"] == pytest.approx(100)
    report = statistics.summary(once, 1, [50, 90], 0.0)
    assert report["max_ms"] == pytest.approx(100) and report["p90_ms"] == pytest.approx(quiet["p90_ms"], rel=0.05)
