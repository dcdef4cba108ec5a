"""Fairness of predictions: counts → metrics → intervals → comparison.

numpy only; knows no model. One idea a file:

    labels        0/1 labels and predictions, checked
    groups        who belongs to which group, intersections
    counts        rows counted by (membership pattern, y, ŷ)
    joint         rows counted by pattern and several columns at once
    metrics       rates on counts, and the degenerate flag
    gaps          DPD, EOD, equal opportunity under three references; ratios
    usable        which groups may decide a maximum
    statistics    every number of one predictor, without intervals
    intervals     multinomial bootstrap and interval kinds
    band, null    simultaneous Wilson band; gaps under permuted group labels
    evidence      all of that for one table
    measure       one predictor → measurement (the result) with notes (its warnings)
    paired        several predictors on the same draws, and their difference
    compare       two or many predictors on the same rows; holm corrects
    views         several binary views of the same rows: macro and worst
    multiclass    classes are views; multilabel: labels are
    scores        range of mean scores
    thresholds    level matching: one threshold for a wanted selection rate
    worst_group   the worst-served group of an evaluation
"""

from mergekit_fair.fairness.compare import (
    HEADLINE,
    Comparisons,
    compare,
    compare_many,
)
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.groups import Groups, cross
from mergekit_fair.fairness.holm import holm
from mergekit_fair.fairness.level_matching import matching_threshold, predict_at
from mergekit_fair.fairness.measure import measure, measure_table
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.multiclass import measure_classes
from mergekit_fair.fairness.multilabel import measure_labels
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement
from mergekit_fair.fairness.paired import Comparison
from mergekit_fair.fairness.point_metrics import estimate
from mergekit_fair.fairness.scores import ScoreMeasurement, measure_scores
from mergekit_fair.fairness.settings import MetricSettings

__all__ = [
    "HEADLINE",
    "Comparison",
    "Comparisons",
    "CountTable",
    "Groups",
    "Measurement",
    "MetricSettings",
    "MultiMeasurement",
    "ScoreMeasurement",
    "compare",
    "compare_many",
    "cross",
    "estimate",
    "holm",
    "matching_threshold",
    "measure",
    "measure_classes",
    "measure_labels",
    "measure_scores",
    "measure_table",
    "predict_at",
]
