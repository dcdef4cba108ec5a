"""Fairness of predictions: counts → metrics → intervals → comparison.

numpy only; knows no model. One idea a file:

    settings         reference, confidence, group size, exclusions, seed, draws: one record
    labels, groups   0/1 labels and predictions, who belongs to which group: read and checked
    weights          what rows count for
    clusters         rows that are not independent: drawn as a whole; design effects
    counts, joint    rows counted by (membership pattern, y, ŷ), or by several columns
    grouped          sums by group: of a table, and of its bootstrap draws in blocks
    rates            rates on counts, and gaps of rates under three references
    eligible_groups  which groups may decide a maximum; the worst-served one
    smoothing        what is drawn from a table, and from one that has a little of everything
    intervals        interval kinds, the simultaneous Wilson band, what is drawn from a table
    metric_kinds     kinds of metrics: how each is computed, and its interval
    metrics          THE table: every metric, how it is called and read
    deciding         which groups make a gap or a minimum
    uncertainty      how sure a gap is: bias, other intervals, permuted group labels
    measurement      the result of one evaluation, written and read
    against          signed differences from one chosen group
    measure          one predictor → measurement, with measure_warnings
    compare          predictors on the same rows: paired differences, Holm's correction
    claims           what may be said of two models: THE rules of marks, significance and ties
    pair             joint cells of two predictors, their draws, the difference in every metric
    inversion        interval and p-value of the difference of two extremes, by test inversion
    extremes         statistics that are the largest of many contrasts
    views            classes and labels as binary questions about the same rows
    one_vs_rest      their measurement: macro and worst
    multi_pairs      their paired differences
    level_offsets    wanted selection rates of several classes
    scores           range of mean scores; thresholds that match a selection rate
    jackknife        statistics of weighted rows, their covariances, ranges of them
    ranking          AUC: by group, background against subgroup
    calibration      mean(p) − mean(y)
    scored_rows      rows with a score, read, checked and sorted
    score_quality    scores → AUC and calibration, with intervals
"""

from mergekit_fair.fairness.compare import (
    Comparison,
    Comparisons,
    compare,
    compare_many,
    holm,
)
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.groups import Groups, cross
from mergekit_fair.fairness.measure import estimate, measure, measure_table
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.metrics import HEADLINE, METRICS
from mergekit_fair.fairness.multi_pairs import (
    MultiComparison,
    compare_classes,
    compare_labels,
)
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement, measure_classes, measure_labels
from mergekit_fair.fairness.pair import Difference
from mergekit_fair.fairness.score_quality import ScoreQuality, score_quality
from mergekit_fair.fairness.scores import (
    ScoreMeasurement,
    matching_threshold,
    measure_scores,
    predict_at,
)
from mergekit_fair.fairness.settings import MetricSettings

__all__ = [
    "HEADLINE",
    "METRICS",
    "Comparison",
    "Comparisons",
    "CountTable",
    "Difference",
    "Groups",
    "Measurement",
    "MetricSettings",
    "MultiComparison",
    "MultiMeasurement",
    "ScoreMeasurement",
    "ScoreQuality",
    "compare",
    "compare_classes",
    "compare_labels",
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
    "score_quality",
]
