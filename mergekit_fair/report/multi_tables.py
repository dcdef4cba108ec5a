"""Classes and labels as tables: figures over all of them, of each, and of the groups in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergekit_fair.evaluation.evaluate import MultiEvaluation
from mergekit_fair.evaluation.levels import LevelRates
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.metrics import GROUP_RATES, HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS, MultiMeasurement
from mergekit_fair.fairness.views import Kind
from mergekit_fair.report.deciding_text import deciding_text
from mergekit_fair.report.tables import (
    Cell,
    IntervalLike,
    Row,
    Table,
    interval_cell,
    short,
    value_text,
)
from mergekit_fair.report.verdict_text import Gaps, difference_cell

ONE: Mapping[Kind, str] = {"classes": "class", "labels": "label"}
VIEW_RATES = ("selection_rate", "tpr", "fpr")  # of a group: what DPD and EOD are made of

VIEW_GROUP_COLUMNS = ("n", "n positive", *(GROUP_RATES[rate].title for rate in VIEW_RATES), "makes")


def overall_table(measured: MultiMeasurement) -> Table:
    """The five figures, the class or label that has the worst gap, and what the figures are at
    equal selection rates, where an evaluation says it."""
    rows, level = [], measured.level if isinstance(measured, MultiEvaluation) else None
    matched = measured.level_matched if isinstance(measured, MultiEvaluation) else None
    at = {} if matched is None else matched.__pydantic_extra__
    for name, metric in MULTI_METRICS.items():
        view = measured.worst_view[str(metric.gap)] if metric.over == "worst" else None
        cells = [interval_cell(measured.metrics[name]), Cell(short(view or ""))]
        rows.append(Row(name, [*cells, *([interval_cell(at[name])] if at else [])]))
    other = _other(level)
    title = "at the base rates" if other is None else f"at the rates of {short(other.to)}"
    return Table("Over all", "", ["value", "worst for", *([title] if at else [])], [("", rows)])


def worst_sentences(measured: MultiMeasurement) -> list[str]:
    """`Worst DPD (class hate): the selection rate of a (0.562) minus that of b (0.277).`"""
    found, one = [], ONE[measured.kind]
    for gap, view in measured.worst_view.items():
        deciding = measured.deciding.get(f"worst_{gap}", Deciding())
        if view is not None and not deciding.all_alike:
            said = deciding_text(deciding, measured.views[view])
            found.append(f"Worst {HEADLINE_GAPS[gap].title} ({one} {short(view)}): {said}.")
    return found


def _other(level: LevelRates | None) -> LevelRates | None:
    """Selection rates that are another model's."""
    return None if level is None or level.to == "labels" else level


def views_table(measured: MultiMeasurement) -> Table:
    """One a class or label: its share of the rows, how often it is predicted (and by the other
    model whose selection rates an evaluation is read beside), its gaps."""
    other = _other(measured.level) if isinstance(measured, MultiEvaluation) else None
    rows = [
        Row(
            short(name),
            [
                Cell(value_text(view.labels.base_rate)),
                Cell(value_text(view.metrics["selection_rate"].value)),
                *([] if other is None else [Cell(value_text(other.rates[name]))]),
                *(interval_cell(view.metrics[gap]) for gap in HEADLINE_GAPS),
            ],
        )
        for name, view in measured.views.items()
    ]
    one = ONE[measured.kind]
    by_other = [] if other is None else [f"by {short(other.to)}"]
    columns = ["base rate", "selected", *by_other, *HEADLINE_GAPS]
    return Table(f"Every {one}", one, columns, [("", rows)])


def view_groups_table(measured: MultiMeasurement, rows: int | None = None) -> Table:
    """A section a class or label, a row a group: its rates, and which gaps it makes.

    Args:
        measured: the evaluation.
        rows: of more than so many, only the groups that make the gaps of a class are shown.
    """
    views = measured.views
    is_folded = rows is not None and sum(len(view.groups) for view in views.values()) > rows
    one = ONE[measured.kind]
    sections = [
        (f"{one} {short(name)}", view_group_rows(view, is_folded=is_folded))
        for name, view in views.items()
    ]
    return Table(
        f"Groups by {one}",
        "group",
        VIEW_GROUP_COLUMNS,
        sections,
        foot=f"The groups that make the gaps of each {one}; all groups: --json." * is_folded,
    )


def view_group_rows(view: Measurement, *, is_folded: bool = False) -> list[Row]:
    """One a group: size, rates, and which gaps it makes; folded, of groups that make one alone."""
    makes = {
        group: [gap for gap in HEADLINE_GAPS if group in _made(_deciding(view, gap))]
        for group in view.groups
    }
    return [
        Row(
            short(name),
            [
                Cell(str(group.n)),
                Cell(str(group.n_pos)),
                *(Cell(value_text(getattr(group, rate, None))) for rate in VIEW_RATES),
                Cell(" ".join(makes[name])),
            ],
        )
        for name, group in view.groups.items()
        if makes[name] or not is_folded
    ]


def _deciding(view: Measurement, gap: str) -> Deciding:
    return view.deciding.get(gap, Deciding())


def _made(deciding: Deciding) -> Sequence[str]:
    return () if deciding.all_alike else deciding.groups


def overall_differences_table(
    pairs: Mapping[str, Gaps], level: str, *, titled: bool = False, with_p: bool = False
) -> Table:
    """Paired differences of the five figures.

    Args:
        pairs: a section each: metric → difference; `level_matched.` before a metric's name is the
            same at the selection rates of the other model.
        level: title of the column of those.
        titled: rows have the metrics' titles in place of their names.
        with_p: with p-values.
    """
    has_levels = any(f"{LEVEL}{name}" in gaps for gaps in pairs.values() for name in MULTI_METRICS)
    sections = [
        (
            title,
            [
                Row(
                    metric.title if titled else name,
                    [
                        difference_cell(gaps.get(key), with_p=with_p)
                        for key in (name, *([f"{LEVEL}{name}"] * has_levels))
                    ],
                )
                for name, metric in MULTI_METRICS.items()
            ],
        )
        for title, gaps in pairs.items()
    ]
    return Table("", "", ["difference", *([level] * has_levels)], sections)


def view_differences_table(
    pairs: Mapping[str, Mapping[str, Mapping[str, IntervalLike]]], caption: str = ""
) -> Table:
    """Paired differences of the gaps of every class or label; none of them is claimed.

    Args:
        pairs: a section each: class or label → metric → difference.
        caption: what it shows.
    """
    sections = [
        (
            title,
            [
                Row(short(name), [interval_cell(gaps[gap], "+") for gap in HEADLINE_GAPS])
                for name, gaps in views.items()
            ],
        )
        for title, views in pairs.items()
    ]
    return Table(caption, "", [metric.title for metric in HEADLINE_GAPS.values()], sections)
