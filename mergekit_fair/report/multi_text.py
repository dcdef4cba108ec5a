"""One evaluation of classes or labels as text: figures over all of them, then of each."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit_fair.escaping import one_line
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS, MultiMeasurement
from mergekit_fair.report.tables import Table, as_text, interval_text, value_text

_SHOWN = ("selection_rate", "tpr", "fpr", "dpd", "eod")  # of a view
_RATES = ("selection_rate", "tpr", "fpr")  # of a group in a view


def multi_body(title: str, measured: MultiMeasurement) -> list[str]:
    """Lines: title, figures over all classes or labels, a row for each, a table by group."""
    return [
        one_line(title),
        _overall(measured),
        "",
        _by_view(measured.views, measured.kind),
        "",
        _by_group(measured.views),
        "",
    ]


def _overall(measured: MultiMeasurement) -> str:
    rows = [
        [
            name,
            interval_text(measured.metrics[name]),
            (measured.worst_view[str(metric.gap)] or "") if metric.over == "worst" else "",
        ]
        for name, metric in MULTI_METRICS.items()
    ]
    return as_text(Table.plain(["", "value", "worst for"], rows))


def _by_view(views: Mapping[str, Measurement], kind: str) -> str:
    rows = [
        [
            name,
            value_text(view.labels.base_rate),
            *(interval_text(view.metrics[metric]) for metric in _SHOWN),
        ]
        for name, view in views.items()
    ]
    one = {"classes": "class", "labels": "label"}[kind]
    return as_text(Table.plain([one, "share", *_SHOWN], rows))


def _by_group(views: Mapping[str, Measurement]) -> str:
    titles = [GROUP_RATES[rate].title for rate in _RATES]
    rows = [
        [group, name, str(one.n), str(one.n_pos), *(value_text(getattr(one, r)) for r in _RATES)]
        for name, view in views.items()
        for group, one in view.groups.items()
    ]
    rows.sort(key=lambda row: row[0])
    return as_text(Table.plain(["group", "of", "n", "positive", *titles], rows))
