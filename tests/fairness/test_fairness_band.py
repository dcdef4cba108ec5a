"""The simultaneous Wilson band: by hand, and its coverage by simulation."""

from statistics import NormalDist

import numpy as np
import pytest

from mergekit_fair.fairness import CountTable, MetricSettings, measure, measure_table
from mergekit_fair.fairness.intervals import Samples, gap_band, rate_limits, ratio_band
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES


def wilson(k, n, confidence):
    """Wilson 1927: the p with (k/n − p)² = z² p (1 − p) / n, by the quadratic formula."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    roots = np.roots([1 + z * z / n, -(2 * k / n + z * z / n), (k / n) ** 2]).real
    return roots.min(), roots.max()


def table(*groups):
    """A partition from (true negatives, false positives, misses, hits) of each group."""
    cells = np.zeros((len(groups), 2, 3), dtype=np.int64)
    cells[:, :, :2] = np.array(groups).reshape(-1, 2, 2)
    return CountTable(tuple("abcdefgh"[: len(groups)]), np.eye(len(groups), dtype=bool), cells)


def test_dpd_by_hand():
    rows = table((40, 10, 20, 30), (30, 10, 30, 10))
    result = measure_of(rows)
    (low_a, high_a), (low_b, high_b) = (
        wilson(k, n, 0.95 ** (1 / 2)) for k, n in ((40, 100), (20, 80))
    )
    assert result["uncertainty"]["dpd"]["band"] == pytest.approx(
        [max(0, low_a - high_b), high_a - low_b]
    )
    ratio = result["metrics"]["dp_ratio"]
    assert ratio["value"] == pytest.approx(0.25 / 0.4)
    assert ratio["low"] == pytest.approx(low_b / high_a)
    assert ratio["high"] == pytest.approx(min(1, high_b / low_a))


def limits_of(rates, rows, confidence, exclude=()):
    settings = MetricSettings(draws=1, confidence=confidence, exclude=exclude)
    return rate_limits(rates, Samples.of(rows, settings))


def measure_of(rows, **options):
    return measure_table(rows, MetricSettings(draws=50, **options)).to_dict()


def test_eod_shares_its_confidence_among_all_rates():
    rows = table((40, 10, 20, 30), (30, 10, 30, 10), (5, 5, 0, 9))
    limits = limits_of(EOD_RATES, rows, 0.9)
    tpr, fpr = (
        [wilson(k, n, 0.9 ** (1 / 6)) for k, n in pairs]
        for pairs in (((30, 50), (10, 40), (9, 9)), ((10, 50), (10, 40), (5, 10)))
    )
    assert limits[0] == [pytest.approx(pair, abs=1e-12) for pair in tpr]
    assert limits[1] == [pytest.approx(pair, abs=1e-12) for pair in fpr]
    low, high = gap_band(limits)
    spread = max(high for _, high in tpr) - min(low for low, _ in tpr)
    assert high == pytest.approx(spread)
    assert low == pytest.approx(tpr[2][0] - tpr[1][1])
    low, high = ratio_band(limits)
    assert low == pytest.approx(fpr[0][0] / fpr[2][1])
    assert high == pytest.approx(tpr[1][1] / tpr[2][0])


def test_unusable_groups_take_no_share_and_a_rate_that_one_group_has_is_no_band():
    rows = table((40, 10, 20, 30), (30, 10, 0, 0), (5, 5, 0, 9))
    assert limits_of(EOD_RATES, rows, 0.9, exclude="c") == []  # only `a` has a TPR
    [limits] = limits_of(DPD_RATES, rows, 0.9, exclude="c")
    assert limits[0] == pytest.approx(wilson(40, 100, 0.9 ** (1 / 2)))
    assert limits_of(DPD_RATES, rows, 0.9, exclude=("b", "c")) == []
    assert gap_band([]) is ratio_band([]) is None


def test_missing_predictions_are_no_trials():
    cells = np.array([[[40, 10, 2], [20, 30, 0]], [[30, 10, 0], [30, 10, 1]]])
    rows = CountTable(("a", "b"), np.eye(2, dtype=bool), cells)
    without = CountTable(("a", "b"), np.eye(2, dtype=bool), cells[:, :, :2])
    first, second = measure_of(rows), measure_of(without)
    for name in ("dpd", "eod"):
        assert first["uncertainty"][name]["band"] == second["uncertainty"][name]["band"]


def test_it_does_not_collapse_where_few_rows_agree():
    result = measure([0, 1] * 10, [0, 1] * 10, ["a", "b", "b", "a"] * 5, draws=50).to_dict()
    assert result["metrics"]["eod"]["value"] == 0.0
    low, high = result["uncertainty"]["eod"]["band"]
    assert low == 0.0
    assert high > 0.5


@pytest.mark.parametrize("rates", [[0.5, 0.5, 0.5, 0.5], [0.02, 0.02, 0.1, 0.3]])
def test_it_covers(rates):
    rng = np.random.default_rng(1)
    sizes, rates = np.array([12, 50, 100, 400]), np.array(rates)
    truth, ratio, hits, ratio_hits, trials = np.ptp(rates), min(rates) / max(rates), 0, 0, 600
    for _ in range(trials):
        counts = np.zeros((4, 2, 3), dtype=np.int64)
        counts[:, 0, 1] = rng.binomial(sizes, rates)
        counts[:, 0, 0] = sizes - counts[:, 0, 1]
        limits = limits_of(
            DPD_RATES, CountTable(tuple("abcd"), np.eye(4, dtype=bool), counts), 0.95
        )
        low, high = gap_band(limits)
        hits += low <= truth <= high
        low, high = ratio_band(limits)
        ratio_hits += low <= ratio <= high
    assert min(hits, ratio_hits) / trials >= 0.95


def test_other_references_have_none():
    rows = table((40, 10, 20, 30), (30, 10, 30, 10))
    for reference in ("one_vs_rest", "to_overall"):
        assert measure_of(rows, reference=reference)["uncertainty"]["dpd"]["band"] is None
