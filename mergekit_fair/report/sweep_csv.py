"""`results.csv` of a sweep: a line a point."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_fair.escaping import in_spreadsheet
from mergekit_fair.evaluation.evaluate import FairEvaluation, MultiEvaluation
from mergekit_fair.fairness import HEADLINE
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.metrics import HEADLINE_GAPS, MATCHED
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.report.sweep_tables import is_of_views, metrics_of
from mergekit_fair.sweep.differences import compared_as
from mergekit_fair.sweep.record import INJECTED, PointResult
from mergekit_fair.sweep.results import DifferenceRecord, SweepResults


def results_csv(results: SweepResults) -> str:
    """Every point as one CSV row, by the deciding task; undefined values are empty. The last
    columns are what the grid sets beside λ.

    Rows of the report split end with what the chosen point differs from them by. Of classes or
    labels `worst_dpd_of` says which has the largest gap, and `dpd/NAME` the gap of each.
    """
    of_views = is_of_views([*results.points, *results.report], results.task)
    names = [metric.name for metric in metrics_of(results.points, results.task)]
    matched = [f"level_matched_{name}" for name in (MULTI_METRICS if of_views else MATCHED)]
    headline = tuple(MULTI_METRICS) if of_views else HEADLINE
    columns = ["id", "kind", "label", "split", "lambda", "lambda_eff", "selected"]
    columns += [f"{name}{suffix}" for name in names for suffix in _PARTS]
    views = _views([*results.points, *results.report])
    columns += [*_view_columns(None, views), *matched]
    columns += ["degenerate", "saturated", "error", *_difference_columns({}, headline)]
    settings = _settings_of_grid(results.points)
    columns += settings
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writerow({name: in_spreadsheet(name) for name in columns})
    for points, comparison in ((results.points, {}), (results.report, results.comparison)):
        for point in points:
            row: dict[str, Any] = {name: getattr(point, name) for name in ("id", "kind", "label")}
            row |= {"split": point.split, "lambda": point.lambda_, "lambda_eff": point.lambda_eff}
            row |= {name: point.settings.get(name) for name in settings}
            row |= {"selected": point.id == results.selected.id, "error": point.error}
            evaluation = point.evaluation
            if evaluation is not None:
                row |= {"degenerate": evaluation.degenerate, "saturated": evaluation.saturated}
                for name in names:
                    row |= _columns(name, point.interval(name))
                row |= {name: point.value(name.replace("matched_", "matched.")) for name in matched}
                row |= _view_columns(evaluation, views)
            gaps = comparison.get(compared_as(point.kind, point.label), {})
            row |= _difference_columns(gaps, headline)
            writer.writerow({name: in_spreadsheet(value) for name, value in row.items()})
    return out.getvalue()


def _views(points: Sequence[PointResult]) -> list[str]:
    """The classes or labels of the deciding task; none of a task that is answered by no or yes."""
    found = (p.evaluation for p in points if isinstance(p.evaluation, MultiEvaluation))
    return list(next((each.views for each in found), ()))


def _view_columns(evaluation: FairEvaluation | None, views: Sequence[str]) -> dict[str, Any]:
    """Which class or label has the worst gaps, then selection rate and gaps of each."""
    measured = evaluation if isinstance(evaluation, MultiEvaluation) else None
    worst = {} if measured is None else measured.worst_view
    found: dict[str, Any] = {f"worst_{gap}_of": worst.get(gap) for gap in HEADLINE_GAPS if views}
    for view in views:
        for name in ("selection_rate", *HEADLINE_GAPS):
            of = None if measured is None else measured.views[view].metrics[name].value
            found[f"{name}/{view}"] = of
    return found


def _settings_of_grid(points: Sequence[PointResult]) -> list[str]:
    """The numbers that a grid or search sets beside λ, by their names in the sweep file."""
    names = (name for p in points if p.kind in ("merge", "search") for name in p.settings)
    return [name for name in dict.fromkeys(names) if name != "lambda" and INJECTED not in name]


_PARTS = {"": "value", "_low": "low", "_high": "high"}


def _columns(name: str, entry: object) -> dict[str, Any]:
    return {f"{name}{suffix}": getattr(entry, part, None) for suffix, part in _PARTS.items()}


def _difference_columns(
    gaps: Mapping[str, DifferenceRecord], headline: Sequence[str]
) -> dict[str, Any]:
    """`chosen_minus_dpd`, its limits and whether it is claimed; `chosen_minus_level_matched_dpd`;
    the same of every other metric of the headline.
    """
    found: dict[str, Any] = {}
    for name in headline:
        found |= _columns(f"chosen_minus_{name}", gaps.get(name))
        found[f"chosen_minus_{name}_claimed"] = getattr(gaps.get(name), "claimed", None)
        found |= _columns(f"chosen_minus_level_matched_{name}", gaps.get(f"{LEVEL}{name}"))
    return found
