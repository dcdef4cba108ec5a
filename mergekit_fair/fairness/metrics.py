"""The table of all metrics: one row a metric, and everything that lists metrics reads it here.

A row says how a metric is called, computed from counts, given an interval, and read. A new metric
is one row of `METRICS`; a new rate by group is one row of `GROUP_RATES`. The kinds of metrics:
`mergekit_fair.fairness.metric_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.grouped import Counts, Grouped
from mergekit_fair.fairness.metric_kinds import Gap, Metric, Minimum, Proportion, Ratio, Smooth
from mergekit_fair.fairness.rates import (
    DPD_RATES,
    EOD_RATES,
    Values,
    accuracy,
    balanced_accuracy,
    false_negative_rate,
    false_positive_rate,
    positive_predictive_value,
    selection_rate,
    true_positive_rate,
    unanswered_rate,
)

_NO_ROWS = "no row has a usable prediction"
_NO_POSITIVES = "no row with a positive label has a usable prediction"
_NO_NEGATIVES = "no row with a negative label has a usable prediction"
_NO_PAIR = (
    "fewer than two groups have enough rows to decide it, or too many predictions are missing"
)

_ROWS: tuple[Metric, ...] = (
    Proportion(
        name="acc",
        title="accuracy",
        description="accuracy",
        better="higher",
        rate=accuracy,
        undefined="there are no rows",
        headline=True,
        compared=True,
        matched=True,
    ),
    Gap(
        name="dpd",
        title="DPD",
        description="demographic parity difference",
        better="lower",
        rates=DPD_RATES,
        undefined=_NO_PAIR,
        headline=True,
        compared=True,
        matched=True,
    ),
    Gap(
        name="eod",
        title="EOD",
        description="equalized odds difference",
        better="lower",
        rates=EOD_RATES,
        undefined=_NO_PAIR,
        headline=True,
        compared=True,
        matched=True,
    ),
    Smooth(
        name="bal_acc",
        title="balanced accuracy",
        description="balanced accuracy, (TPR + 1 − FPR) / 2",
        better="higher",
        function=balanced_accuracy,
        undefined="a class has no label with a usable prediction",
        compared=True,
        matched=True,
    ),
    Minimum(
        name="worst_group_acc",
        title="worst-group accuracy",
        description="lowest accuracy of a group",
        better="higher",
        rate=accuracy,
        undefined="there is no eligible group",
        compared=True,
    ),
    Proportion(
        name="selection_rate",
        title="selection rate",
        description="share of positive predictions",
        better=None,
        rate=selection_rate,
        undefined=_NO_ROWS,
        compared=True,
        matched=True,
    ),
    Proportion(
        name="tpr",
        title="TPR",
        description="true positive rate",
        better="higher",
        rate=true_positive_rate,
        undefined=_NO_POSITIVES,
    ),
    Proportion(
        name="fpr",
        title="FPR",
        description="false positive rate",
        better="lower",
        rate=false_positive_rate,
        undefined=_NO_NEGATIVES,
    ),
    Proportion(
        name="fnr",
        title="FNR",
        description="false negative rate",
        better="lower",
        rate=false_negative_rate,
        undefined=_NO_POSITIVES,
        compared=True,
    ),
    Gap(
        name="equal_opportunity",
        title="equal opportunity",
        description="equal opportunity difference, the gap of TPR",
        better="lower",
        rates=(true_positive_rate,),
        undefined=_NO_PAIR,
    ),
    Gap(
        name="fpr_gap",
        title="FPR difference",
        description="predictive equality, the gap of FPR",
        better="lower",
        rates=(false_positive_rate,),
        undefined=_NO_PAIR,
    ),
    Gap(
        name="acc_gap",
        title="accuracy difference",
        description="overall accuracy equality, the gap of accuracy",
        better="lower",
        rates=(accuracy,),
        undefined=_NO_PAIR,
    ),
    Gap(
        name="predictive_parity",
        title="predictive parity",
        description="predictive parity difference, the gap of P(y = 1 | ŷ = 1)",
        better="lower",
        rates=(positive_predictive_value,),
        undefined="a group that decides has no row that is predicted positive",
        compared=True,
        explained_where="dpd",
    ),
    Ratio(
        name="dp_ratio",
        title="DP ratio",
        description="demographic parity ratio",
        better="higher",
        rates=DPD_RATES,
        undefined="no row of any group is predicted positive",
        explained_where="dpd",
    ),
    Ratio(
        name="eo_ratio",
        title="EO ratio",
        description="equalized odds ratio",
        better="higher",
        rates=EOD_RATES,
        undefined="TPR and FPR are 0 in every group that has them",
        explained_where="eod",
    ),
    Proportion(
        name="unanswered",
        title="unanswered",
        description="share of rows without a usable prediction",
        better="lower",
        rate=unanswered_rate,
        undefined="there are no rows",
        is_point=True,
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ROWS})
"""Name → metric, in the order of every list of metrics."""

HEADLINE = tuple(name for name, metric in METRICS.items() if metric.headline)
COMPARED = tuple(name for name, metric in METRICS.items() if metric.compared)
MATCHED = tuple(name for name, metric in METRICS.items() if metric.matched)
LOWER_IS_BETTER = frozenset(name for name, metric in METRICS.items() if metric.better == "lower")
HEADLINE_GAPS: Mapping[str, Gap] = MappingProxyType(
    {name: metric for name in HEADLINE if isinstance(metric := METRICS[name], Gap)}
)
"""DPD and EOD: measured under all three references, with their uncertainty."""


@dataclass(frozen=True)
class GroupRate:
    """One rate by group: `title` for a column, `function` of counts (..., 2, 3)."""

    title: str
    description: str
    function: Callable[[Counts], Values]


GROUP_RATES: Mapping[str, GroupRate] = MappingProxyType(
    {
        "selection_rate": GroupRate(
            "selection rate", "share of positive predictions", selection_rate
        ),
        "tpr": GroupRate("TPR", "true positive rate", true_positive_rate),
        "fpr": GroupRate("FPR", "false positive rate", false_positive_rate),
        "fnr": GroupRate("FNR", "false negative rate", false_negative_rate),
        "ppv": GroupRate("PPV", "positive predictive value", positive_predictive_value),
        "acc": GroupRate("accuracy", "accuracy", accuracy),
        "bal_acc": GroupRate("balanced accuracy", "balanced accuracy", balanced_accuracy),
    }
)
"""Name → rate of every group, in the order of the columns of tables."""


def metric_values(
    counts: Grouped,
    eligible: EligibleGroups,
    reference: str = "between_groups",
    names: tuple[str, ...] = tuple(METRICS),
) -> dict[str, Values]:
    """Metrics by name, each (...), of one table or of many.

    Arguments as of `Metric.values`; `names` picks some of the table.
    """
    return {name: METRICS[name].values(counts, eligible, reference) for name in names}
