"""The multinomial bootstrap is the row bootstrap, and gap intervals cover the truth."""

import numpy as np
import pytest
from replicates import grouped, replicates

from mergekit_fair.fairness import CountTable, intervals, smoothing
from mergekit_fair.fairness import grouped as grouped_module
from mergekit_fair.fairness.rates import DPD_RATES, deviations, gap, gap_of


def test_draws_are_those_of_the_whole_table_whatever_fits_into_memory(monkeypatch):
    rng = np.random.default_rng(3)
    patterns = rng.random((9, 4)) < 0.5
    cells = rng.integers(0, 4, (9, 2, 3))
    table = CountTable(tuple("abcd"), patterns, cells)
    whole = grouped(replicates(cells, 40, seed=4), patterns)
    kinds = np.count_nonzero(cells)
    for at_once in (2**21, 7 * kinds, 1):
        monkeypatch.setattr(grouped_module, "_AT_ONCE", at_once)
        for sparse in (0, 2**16):
            monkeypatch.setattr(grouped_module, "_SMALL", sparse)
            monkeypatch.setattr(grouped_module, "_SPARSE", 0.0 if sparse else 1.0)
            drawn = smoothing.resampled(table, 40, seed=4)
            assert (drawn.groups == whole.groups).all()
            assert (drawn.overall == whole.overall).all()
            assert (drawn.rest == whole.rest).all()
    assert (drawn.overall.sum(axis=(1, 2)) == cells.sum()).all()
    assert (smoothing.resampled(table, 40, seed=5).overall != drawn.overall).any()


def test_draws_go_on_from_a_generator():
    table = CountTable(("a",), np.ones((1, 1), dtype=bool), np.array([[[3, 5], [2, 9]]]))
    rng = np.random.default_rng(4)
    parts = [smoothing.resampled(table, draws, rng).groups for draws in (20, 30)]
    whole = smoothing.resampled(table, 50, seed=4).groups
    assert (np.concatenate(parts) == whole).all()


def test_the_same_as_resampling_rows():
    rng = np.random.default_rng(0)
    n, draws = 150, 3000
    y_true, y_pred = rng.integers(0, 2, (2, n))
    members = np.array([[g for g in "abc" if rng.random() < 0.5] for _ in range(n)], dtype=object)
    table = CountTable.tally(y_true, y_pred, members)
    usable = np.ones(3, dtype=bool)

    def dpd(cells, patterns):
        return gap_of(DPD_RATES, grouped(cells, patterns), usable)

    fast = dpd(replicates(table.cells, draws, seed=1), table.patterns)
    rows = rng.integers(0, n, (draws, n))
    slow = []
    for sample in rows[:800]:
        again = CountTable.tally(y_true[sample], y_pred[sample], members[sample])
        slow.append(float(dpd(again.cells, again.patterns)))
    assert fast.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / np.sqrt(len(slow)))
    assert fast.std() == pytest.approx(np.std(slow), rel=0.1)


def coverage(kind, truths, n, trials=200, draws=200):
    """Share of nominal 95 % intervals that contain the gap of the true rates."""
    rng = np.random.default_rng(7)
    size, usable = n // len(truths), np.ones(len(truths), dtype=bool)
    patterns = np.eye(len(truths), dtype=bool)
    truth, hits = max(truths) - min(truths), 0
    for trial in range(trials):
        positive = rng.binomial(size, truths)
        cells = np.zeros((len(truths), 2, 2), dtype=np.int64)
        cells[:, 0, 1], cells[:, 0, 0] = positive, size - positive

        def deviation(table):
            return deviations(DPD_RATES, grouped(table, patterns), usable, "between_groups")

        estimate = deviation(cells)
        drawn = deviation(replicates(cells, draws, seed=trial))
        samples = [gap(drawn, "between_groups")]
        if kind is intervals.conservative:
            samples += [samples[0], gap(drawn - estimate, "between_groups")]
        interval = intervals.around(
            float(gap(estimate, "between_groups")), tuple(samples), kind, 0.95
        )
        hits += interval.low <= truth <= interval.high
    return hits / trials


def test_why_gaps_have_a_conservative_interval():
    near_parity = 0.4 + 0.02 * np.linspace(0, 1, 8)
    assert coverage(intervals.percentile, near_parity, 600) < 0.05
    assert coverage(intervals.bias_corrected, near_parity, 600) < 0.05
    assert coverage(intervals.basic, near_parity, 600) < 0.9
    assert coverage(intervals.conservative, near_parity, 600) > 0.93
    assert coverage(intervals.conservative, [0.39, 0.41], 2000) > 0.93
    assert coverage(intervals.conservative, [0.3, 0.6], 2000) > 0.93


def test_wilson():
    # Wilson 1927, as tabulated by scipy.stats.binomtest(...).proportion_ci(method="wilson")
    assert intervals.wilson(8, 10, 0.95) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    low, high = intervals.wilson(10, 10, 0.95)
    assert low < 0.75
    assert high == 1.0
    assert intervals.wilson(0, 10, 0.95)[0] == 0.0


def test_kinds_by_hand():
    drawn = np.linspace(0.0, 1.0, 101)
    assert intervals.percentile(0.4, drawn, 0.9) == pytest.approx((0.05, 0.95))
    assert intervals.basic(0.4, drawn, 0.9) == pytest.approx((-0.15, 0.75))
    assert intervals.bias_corrected(0.5, drawn, 0.9) == pytest.approx((0.05, 0.95))
    low, high = intervals.bias_corrected(2.0, drawn, 0.9)  # all replicates below: still finite
    assert 0.9 < low <= high <= 1.0


def test_conservative_kinds_by_hand():
    drawn = np.linspace(0.0, 1.0, 101)
    errors = drawn / 10
    for other, high in ((drawn, 0.95), (drawn / 2, 0.95), (drawn + 1, 1.95)):
        for pair in ((drawn, other), (other, drawn)):  # the wider of both counts
            ends = intervals.conservative(0.4, *pair, errors, 0.9)
            assert ends == pytest.approx((0.305, high))


def test_around_clips_contains_and_drops():
    drawn = np.linspace(0.2, 0.6, 100)
    clipped = intervals.around(0.1, (drawn,), intervals.basic, 0.95)
    assert clipped.to_dict() == {"value": 0.1, "low": 0.0, "high": 0.1}
    drawn[:5] = np.nan
    kept = intervals.around(0.4, (drawn,), intervals.percentile, 0.95)
    assert kept.dropped == pytest.approx(0.05)
    assert kept.low is not None
    drawn[5] = np.nan
    thin = intervals.around(0.4, (drawn,), intervals.percentile, 0.95)
    assert (thin.low, thin.high) == (None, None)
    assert intervals.around(np.nan, (drawn,), intervals.percentile, 0.95).value is None


def test_limits_of_proportions_stay_in_range():
    for n in range(1, 200):
        for confidence in (0.5, 0.95, 0.999, 1 - 2**-53):
            for k in {0, 1, n // 2, n - 1, n}:
                low, high = intervals.wilson(k, n, confidence)
                assert 0 <= low <= k / n <= high <= 1
    drawn = np.linspace(0, 1, 101)
    low, high = intervals.bias_corrected(0.5, drawn, 1 - 2**-53)
    assert (low, high) == pytest.approx((0, 1))
