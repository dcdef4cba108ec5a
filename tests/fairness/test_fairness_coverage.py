"""Default intervals contain the truth, in the places where they easily would not.

Simulated with few draws, to be quick; `benchmarks/intervals.py` does it at length.
"""

import numpy as np
import pytest

from mergekit_fair.fairness import CountTable, MetricSettings
from mergekit_fair.fairness.intervals import Samples, around, conservative, percentile
from mergekit_fair.fairness.metrics import METRICS
from mergekit_fair.fairness.rates import EOD_RATES, deviations, gap, gap_of

EIGHT = np.array([12] + [84] * 7)  # the smallest has 2 % of 600 rows


def truth_of(metric, base, tpr, fpr):
    selection, accuracy = base * tpr + (1 - base) * fpr, base * tpr + (1 - base) * (1 - fpr)
    return {
        "dpd": np.ptp(selection),
        "eod": max(np.ptp(tpr), np.ptp(fpr)),
        "worst_group_acc": accuracy.min(),
    }[metric]


def tables(sizes, base, tpr, fpr, trials):
    rng = np.random.default_rng(7)
    for _ in range(trials):
        positive = rng.binomial(sizes, base)
        hits, alarms = rng.binomial(positive, tpr), rng.binomial(sizes - positive, fpr)
        cells = np.zeros((len(sizes), 2, 3), dtype=np.int64)
        cells[:, 1, 1], cells[:, 1, 0] = hits, positive - hits
        cells[:, 0, 1], cells[:, 0, 0] = alarms, sizes - positive - alarms
        names = tuple("abcdefgh"[: len(sizes)])
        yield CountTable(names, np.eye(len(sizes), dtype=bool), cells)


def coverage(metric, sizes, base, tpr, fpr, *, trials=300, of=None):
    tpr, fpr = np.array(tpr), np.array(fpr)
    truth, hits, without = truth_of(metric, base, tpr, fpr), 0, 0
    for trial, table in enumerate(tables(np.array(sizes), base, tpr, fpr, trials)):
        settings = MetricSettings(draws=200, seed=trial)
        samples = Samples.of(table, settings)
        interval = of(samples) if of else METRICS[metric].interval(samples)
        if interval.low is None:  # a group with up to three positives: nothing is claimed
            without += 1
        else:
            hits += interval.low - 1e-12 <= truth <= interval.high + 1e-12
    assert without <= 0.25 * trials
    return hits / (trials - without)


STEP = 0.02 * np.linspace(0, 1, 8)
SMALL_GAP = (EIGHT, 0.3, 0.5 + STEP, 0.1 + STEP)  # EOD 0.02; about four positives in the smallest


def unsmoothed(samples):
    """The EOD with errors of plain replicates, which a group whose rows agree does not have."""
    usable, of = samples.eligible.comparable, "between_groups"
    centre, drawn = (
        deviations(EOD_RATES, counts, usable, of) for counts in (samples.counts, samples.drawn)
    )
    replicated = gap(drawn, of)
    chosen = (replicated, replicated, gap(drawn - centre, of))
    return around(float(gap(centre, of)), chosen, conservative, 0.95)


def test_eod_of_eight_groups_near_parity():
    assert coverage("eod", *SMALL_GAP) >= 0.93


def test_it_would_not_without_smoothing():
    assert coverage("eod", *SMALL_GAP, of=unsmoothed) < 0.8


@pytest.mark.parametrize(
    ("metric", "sizes", "base", "tpr", "fpr"),
    [
        ("dpd", EIGHT, 0.3, 0.5 + STEP, 0.1 + STEP),
        ("worst_group_acc", EIGHT, 0.3, 0.5 + STEP, 0.1 + STEP),
        # Nearly always right: half of the samples have no error in the small group.
        ("eod", [500, 12], 0.5, [1.0, 0.9], [0.0, 0.0]),
        ("eod", [300, 20], 0.4, [0.99, 0.93], [0.01, 0.02]),
        ("worst_group_acc", [500, 10], 0.5, [0.95, 0.85], [0.05, 0.15]),
        # A few rows that agree hide the errors of their group, and may be the whole group.
        ("worst_group_acc", [999, 1], 0.5, [0.8, 0.8], [0.2, 0.2]),
        ("worst_group_acc", [900, 100], 0.5, [0.98, 0.98], [0.02, 0.02]),
        # Nearly always 0.
        ("dpd", [40, 40], 0.5, [0.03, 0.0], [0.0, 0.0]),
        # Few positives.
        ("eod", [1000, 60], 0.1, [0.9, 0.7], [0.02, 0.02]),
    ],
)
def test_where_the_rows_of_a_small_group_agree(metric, sizes, base, tpr, fpr):
    assert coverage(metric, sizes, base, tpr, fpr) >= 0.92


def test_plain_percentiles_miss_there():
    def plain(samples):
        usable = samples.eligible.comparable
        value, drawn = (
            gap_of(EOD_RATES, counts, usable) for counts in (samples.counts, samples.drawn)
        )
        return around(float(value), (drawn,), percentile, 0.95)

    assert coverage("eod", [300, 20], 0.4, [0.99, 0.93], [0.01, 0.02], of=plain) < 0.7
