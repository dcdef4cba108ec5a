"""The comparison of several evaluations, as text."""

from __future__ import annotations

from typing import Any

from mergekit_fair.escaping import one_line
from mergekit_fair.fairness.claims import LEVEL, JudgedDifference
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.report.deciding_text import made_by
from mergekit_fair.report.sweep_tables import difference_titles
from mergekit_fair.report.tables import Row, Table, as_text, interval_text, value_text
from mergekit_fair.report.verdict_text import difference_cell, withheld_text


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
        marks: model → selection_rate (or selection_rates), degenerate, saturated, dpd, eod (or
            the gaps over classes or labels), deciding.
    """
    names, first = ("degenerate", "saturated"), next(iter(marks.values()))
    gaps = [name for name in (*HEADLINE_GAPS, *MULTI_METRICS) if name != "acc" and name in first]
    rates = {model: _selects(entry) for model, entry in marks.items()}
    rows = [
        [
            model,
            *map(value_text, rates[model].values()),
            *(_own_gap(entry, gap) for gap in gaps),
            *("yes" if entry[name] else "–" for name in names),
        ]
        for model, entry in marks.items()
    ]
    selects = [f"selects {name}".rstrip() for name in next(iter(rates.values()))]
    return as_text(Table.plain(["", *selects, *gaps, *names], rows))


def _selects(entry: dict[str, Any]) -> dict[str, float | None]:
    """Class or label → its selection rate; of a binary task "" → that one."""
    return entry.get("selection_rates") or {"": entry["selection_rate"]}


def _own_gap(entry: dict[str, Any], gap: str) -> str:
    """Its interval, and the groups that make it, if there is one: the higher rate first."""
    made = made_by(Deciding.from_dict(entry["deciding"].get(gap, {})))
    return f"{interval_text(Interval.from_dict(entry[gap]))} {made}".rstrip()


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
    withheld = [
        f"{model}, {name} {interval_text(gap, '+')}, not claimed: {gap.withheld}"
        for model, gaps in models.items()
        for name, gap in gaps.items()
        if gap.withheld
    ]
    table = as_text(Table("", "", list(models), [("", rows)]))
    return "\n".join([one_line(title), table, *map(one_line, withheld)])
