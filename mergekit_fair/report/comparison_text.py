"""The comparison of several evaluations, as text."""

from __future__ import annotations

from typing import Any

from mergekit_fair.escaping import one_line
from mergekit_fair.fairness.claims import LEVEL, JudgedDifference
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.fairness.pair import Difference
from mergekit_fair.report.deciding_text import made_by
from mergekit_fair.report.multi_tables import overall_differences_table, view_differences_table
from mergekit_fair.report.sweep_tables import difference_titles
from mergekit_fair.report.tables import Row, Table, as_text, interval_text, short, value_text
from mergekit_fair.report.verdict_text import difference_cell, withheld_text

_MARKS = ("degenerate", "saturated")


def comparison_text(task: str, compared: dict[str, Any], baseline: str, n: int) -> str:
    """Every model minus the baseline on the same rows; `!` marks what is claimed, and sentences
    below say why other differences that leave out 0 are not.

    Args:
        task: its name.
        compared: model → metric → a `JudgedDifference` in JSON.
        baseline: whose figures are subtracted; at its selection rate, too (`dpd=`).
        n: rows.
    """
    keys = list(difference_titles(compared.values()))
    names = [f"{key.removeprefix(LEVEL)}=" if key.startswith(LEVEL) else key for key in keys]
    models = {
        model: {key: JudgedDifference.from_dict(gap) for key, gap in gaps.items()}
        for model, gaps in compared.items()
    }
    rows = [
        Row(model, [difference_cell(gaps.get(key), with_p=False) for key in keys])
        for model, gaps in models.items()
    ]
    withheld = [
        f"{model}, not claimed: {text}"
        for model, gaps in models.items()
        if (text := withheld_text(gaps))
    ]
    title = f"{task}: minus {baseline}, on the same {n} rows"
    table = as_text(Table("", "", names, [("", rows)]))
    return "\n".join([one_line(title), table, *map(one_line, withheld)])


def marks_text(marks: dict[str, dict[str, Any]]) -> str:
    """What qualifies the differences of every model of a comparison: whom it selects, its own
    gaps, and its marks.

    Args:
        marks: model → selection_rate, degenerate, saturated, dpd, eod, deciding.
    """
    rows = [
        [
            model,
            value_text(entry["selection_rate"]),
            *(_own_gap(entry, gap) for gap in HEADLINE_GAPS),
            *(_yes(entry[name]) for name in _MARKS),
        ]
        for model, entry in marks.items()
    ]
    return as_text(Table.plain(["", "selects", *HEADLINE_GAPS, *_MARKS], rows))


def _yes(mark: bool | None) -> str:
    return "yes" if mark else "–"


def _own_gap(entry: dict[str, Any], gap: str) -> str:
    """Its interval, and the groups that make it, if there is one: the higher rate first."""
    made = made_by(Deciding.from_dict(entry["deciding"].get(gap, {})))
    return f"{interval_text(Interval.from_dict(entry[gap]))} {made}".rstrip()


def multi_comparison_text(task: str, compared: dict[str, Any]) -> str:
    """The same of classes or labels: the five figures, every model by itself, then each class.

    Args:
        task: its name.
        compared: what `compare_folders` says of it.
    """
    baseline, marks = compared["baseline"], compared["marks"]
    models = {
        model: {key: JudgedDifference.from_dict(gap) for key, gap in gaps.items()}
        for model, gaps in compared["models"].items()
    }
    views = {
        model: {
            view: {gap: Difference.from_dict(gaps[gap]) for gap in HEADLINE_GAPS}
            for view, gaps in of_model.items()
        }
        for model, of_model in compared["views"].items()
    }
    lines = [
        f"{task}: minus {baseline}, on the same {compared['n']} rows",
        *_table_lines(overall_differences_table(models, f"at the selection rates of {baseline}")),
        *_not_claimed(models),
        "",
        *_table_lines(_marks_by_view(marks)),
        "",
        f"minus {baseline}, in each class or label; none of these is claimed",
        *_table_lines(view_differences_table(views)),
    ]
    return "\n".join(map(one_line, lines))


def _table_lines(table: Table) -> list[str]:
    return as_text(table).splitlines()


def _marks_by_view(marks: dict[str, dict[str, Any]]) -> Table:
    """A column a model."""
    entries = list(marks.values())
    rows = [
        [
            f"selects {short(view)}",
            *(value_text(entry["selection_rates"][view]) for entry in entries),
        ]
        for view in entries[0]["selection_rates"]
    ]
    for name, metric in MULTI_METRICS.items():
        if metric.gap is not None:
            rows.append([name, *(interval_text(Interval.from_dict(of[name])) for of in entries)])
        if metric.over == "worst":
            deciding = [Deciding.from_dict(of["deciding"].get(name, {})) for of in entries]
            views = [of["worst_view"][metric.gap] for of in entries]
            rows.append(["  that of", *(short(view or "–") for view in views)])
            rows.append(["  between", *map(made_by, deciding)])
    rows += [[name, *(_yes(entry[name]) for entry in entries)] for name in _MARKS]
    return Table.plain(["", *marks], rows)


def _not_claimed(models: dict[str, dict[str, JudgedDifference]]) -> list[str]:
    return [
        f"{model}, {name} {interval_text(gap, '+')}, not claimed: {gap.withheld}"
        for model, gaps in models.items()
        for name, gap in gaps.items()
        if gap.withheld
    ]


def benchmark_comparison_text(task: str, compared: dict[str, Any], baseline: str, n: int) -> str:
    """Every model minus the baseline in every score of a benchmark; `!` marks what is claimed.

    Args:
        task: its name.
        compared: model → score → a `JudgedDifference` in JSON.
        baseline: whose figures are subtracted.
        n: documents.
    """
    models = {
        model: {name: JudgedDifference.from_dict(gap) for name, gap in gaps.items()}
        for model, gaps in compared.items()
    }
    names = list(dict.fromkeys(name for gaps in models.values() for name in gaps))
    rows = [
        Row(name, [difference_cell(gaps.get(name), with_p=False) for gaps in models.values()])
        for name in names
    ]
    title = f"{task}: minus {baseline}, on the same {n} documents"
    table = as_text(Table("", "", list(models), [("", rows)]))
    return "\n".join([one_line(title), table, *map(one_line, _not_claimed(models))])
