"""Fairness of binary predictions: counts → metrics → intervals → comparison.

numpy only; knows no model. One idea a file:

    labels        0/1 labels and predictions, checked
    groups        who belongs to which group
    counts        rows counted by (membership pattern, y, ŷ)
    metrics       rates on counts, and the degenerate flag
    gaps          DPD and EOD under three references
    usable        which groups may decide a maximum
    intervals     multinomial bootstrap and interval kinds
    measure       one predictor → measurement (the result) with notes (its warnings)
    compare       two predictors on the same rows, paired
    thresholds    level matching: one threshold for a wanted selection rate
"""

from mergekit_fair.fairness.compare import Comparison, compare
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.measure import measure, measure_table
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.thresholds import matching_threshold, predict_at

__all__ = [
    "Comparison",
    "CountTable",
    "Groups",
    "Measurement",
    "compare",
    "matching_threshold",
    "measure",
    "measure_table",
    "predict_at",
]
