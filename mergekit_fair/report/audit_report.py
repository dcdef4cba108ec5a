"""What `audit` has found: tables and sentences for the terminal, and its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.audit.audit_results import (
    MERGE,
    PAGE,
    AuditedTask,
    AuditResults,
    CheckedRequirement,
)
from mergekit_fair.escaping import one_line
from mergekit_fair.fairness.benchmark_scores import MIN_CLUSTERS
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.files import write_atomic
from mergekit_fair.report.deciding_text import made_by
from mergekit_fair.report.multi_tables import VIEW_RATES, view_differences_table
from mergekit_fair.report.page import shown, template
from mergekit_fair.report.tables import (
    Cell,
    Row,
    Table,
    as_text,
    interval_cell,
    interval_text,
    short,
    value_text,
)
from mergekit_fair.report.verdict_text import difference_cell

MARKED = (
    "what may be claimed, after Holm's correction over every score, task and parent here; of a gap "
    "of decisions what also holds at equal selection rates; no gap that may be 0 in both models"
)

_OF_A_VIEW = {"base_rate": "base rate", "selection_rate": "selected", "dpd": "dpd", "eod": "eod"}
_MANY = 24  # rows by group of classes or labels that a terminal shows


def audit_text(results: AuditResults) -> str:
    """Everything but the figures by group of every parent, for a terminal."""
    parts = []
    for name, task in results.tasks.items():
        parts += [
            one_line(title(results, name)),
            as_text(figures_table(task)),
            "",
            f"{MERGE} minus each, on the same documents",
            as_text(differences_table(task)),
            *(one_line(text) for text in sentences(task)),
        ]
        for of_views in (views_by_model(task), view_differences(task)):
            parts += ["", one_line(of_views.caption), as_text(of_views)] if task.views else []
        if task.groups.get(MERGE):
            groups = view_groups(task, _MANY) if task.views else groups_table(task)
            parts += ["", as_text(groups)]
        parts += [*(one_line(f"warning: {text}") for text in task.warnings), ""]
    parts.append(f"!: {MARKED}")
    parts += [one_line(requirement_text(each)) for each in results.requirements]
    return "\n".join(parts)


def title(results: AuditResults, name: str) -> str:
    """What a task was measured on."""
    task = results.tasks[name]
    limit = f", {task.sampled}" if task.sampled else ""
    clusters = "" if task.clusters is None else f" in {task.clusters} clusters"
    return (
        f"{name}, {results.split} split{limit}: n = {task.n}{clusters}, "
        f"{results.confidence * 100:g} % intervals"
    )


def figures_table(task: AuditedTask) -> Table:
    """Every score of every model."""
    metrics = [
        name
        for name in task.models[MERGE]
        if any(of[name].value is not None for of in task.models.values())
    ]
    rows = []
    for name in metrics:
        rows.append(Row(name, [interval_cell(of[name]) for of in task.models.values()]))
        if task.views and name.startswith("worst_"):
            views = [of[name.removeprefix("worst_")] for of in task.worst_view.values()]
            groups = [made_by(of.get(name, Deciding())) for of in task.deciding.values()]
            rows.append(Row("  that of", [Cell(short(view or "–")) for view in views]))
            rows.append(Row("  between", list(map(Cell, groups))))
    return Table("Figures", "", list(task.models), [("", rows)])


def differences_table(task: AuditedTask) -> Table:
    """The merge minus every parent, paired."""
    names = list(
        dict.fromkeys(
            name
            for of in task.differences.values()
            for name, gap in of.items()
            if gap.value is not None
        )
    )
    rows = [
        Row(
            f"{name.removeprefix(LEVEL)} at its selection rate" if name.startswith(LEVEL) else name,
            [difference_cell(of.get(name), with_p=False) for of in task.differences.values()],
        )
        for name in names
    ]
    columns = [f"− {parent}" for parent in task.differences]
    return Table("Merge minus each, paired", "", columns, [("", rows)])


def groups_table(task: AuditedTask, parent: str | None = None) -> Table:
    """By group: the merge's scores, or what it has more than a parent, without an interval where a
    group has documents of fewer than `MIN_CLUSTERS` clusters."""
    of = task.groups[MERGE]
    differences: Mapping[str, Mapping[str, Any]] = (
        {} if parent is None else task.group_differences.get(parent, {})
    )
    names = list(dict.fromkeys(name for metrics in of.values() for name in metrics))

    def cell(group: str, name: str) -> Cell:
        if group not in differences:
            return Cell(value_text(of[group][name].value))
        gap = differences[group][name]
        is_enough = task.group_sizes[group].get("clusters", MIN_CLUSTERS) >= MIN_CLUSTERS
        return interval_cell(gap, "+") if is_enough else Cell(value_text(gap.value, "+"))

    rows = [Row(_sized(task, group), [cell(group, name) for name in names]) for group in of]
    caption = MERGE if parent is None else f"{MERGE} minus {parent}, by group, paired"
    return Table(caption, "group" if parent else f"{MERGE}, by group", names, [("", rows)])


def views_by_model(task: AuditedTask) -> Table:
    """Every class or label: its share of the rows, and of every model selection rate and gaps."""
    sections = [
        (
            short(view),
            [
                Row(title, [interval_cell(of[view][metric]) for of in task.views.values()])
                for metric, title in _OF_A_VIEW.items()
            ],
        )
        for view in (task.views[MERGE] if task.views else ())
    ]
    return Table("Each class or label by itself", "", list(task.views), sections)


def view_differences(task: AuditedTask) -> Table:
    """The merge minus every parent in the gaps of every class or label."""
    return view_differences_table(
        {f"− {parent}": of for parent, of in task.view_differences.items()},
        f"{MERGE} minus each, in each class or label; none of these is claimed",
    )


def view_groups(task: AuditedTask, rows: int | None = None) -> Table:
    """The merge by group: a section a class or label.

    Args:
        task: of classes or labels.
        rows: of more than so many only the classes or labels with the worst gaps are shown.
    """
    of, views = task.groups[MERGE], list(task.views[MERGE])
    is_folded = rows is not None and len(of) * len(views) > rows
    if is_folded:
        worst = task.worst_view[MERGE].values()
        views = [view for view in views if view in worst]
    sections = [
        (
            short(view),
            [
                Row(
                    _sized(task, group),
                    [Cell(value_text(metrics[f"{view}.{rate}"].value)) for rate in VIEW_RATES],
                )
                for group, metrics in of.items()
            ],
        )
        for view in views
    ]
    titles = [GROUP_RATES[rate].title for rate in VIEW_RATES]
    foot = "Only where the worst gaps are; the others: report.html, audit.json." * is_folded
    return Table(f"{MERGE}, by group", f"{MERGE}, by group", titles, sections, foot)


def _sized(task: AuditedTask, group: str) -> str:
    """`Muslim (120 in 3)`: documents, and in how many clusters."""
    size = task.group_sizes[group]
    clusters = f" in {size['clusters']}" if "clusters" in size else ""
    return f"{group} ({size['n']}{clusters})"


def sentences(task: AuditedTask) -> list[str]:
    """One a parent: what is better, what is worse, or that nothing can be told from noise; then
    what leaves out 0 and is not claimed."""
    found = []
    for parent, differences in task.differences.items():
        parts = []
        for word, is_gain in (("better", True), ("worse", False), ("other", None)):
            names = [
                f"{name} {interval_text(gap, '+')}"
                for name, gap in differences.items()
                if gap.claimed and task.is_gain(parent, name) is is_gain
            ]
            parts += [f"{word}: {', '.join(names)}"] if names else []
        said = "; ".join(parts) or "nothing can be told from noise"
        found.append(f"against {parent}: {said}")
        found += [
            f"against {parent}, not claimed: {name} {interval_text(gap, '+')}: {gap.withheld}"
            for name, gap in differences.items()
            if gap.withheld
        ]
    return found


def requirement_text(checked: CheckedRequirement) -> str:
    """`met: … (0.031 against 0.045; difference −0.014 [−0.030, +0.002])`"""
    of = f"{value_text(checked.value)} against {value_text(checked.bound)}"
    if checked.difference is not None:
        of += f"; difference {interval_text(checked.difference, '+')}"
    return f"{'met' if checked.met else 'NOT MET'}: {checked.text} ({of})"


def write_audit_page(results: AuditResults, folder: Path) -> Path:
    """Write `report.html`: one page without scripts and requests.

    Returns:
        Its path.
    """
    path = folder / PAGE
    page = template("audit.html", autoescape=True, finalize=shown)
    write_atomic(path, page.render(_view(results)))
    return path


def _view(results: AuditResults) -> dict[str, Any]:
    return {
        "results": results,
        "headline": _headline(results),
        "requirements": [
            (requirement_text(each), "verdict" if each.met else "notice")
            for each in results.requirements
        ],
        "models": Table.plain(
            ["model", "is", "from", "run"],
            [[name, of.kind, of.source, of.way] for name, of in results.models.items()],
        ),
        "tasks": [
            {
                "name": name,
                "title": title(results, name),
                "sentences": sentences(task),
                "figures": figures_table(task),
                "differences": differences_table(task),
                "views": [views_by_model(task), view_differences(task)] if task.views else [],
                "groups": [view_groups(task)]
                if task.views
                else [
                    groups_table(task),
                    *(groups_table(task, p) for p, of in task.group_differences.items() if of),
                ]
                if task.groups.get(MERGE)
                else [],
                "warnings": task.warnings,
            }
            for name, task in results.tasks.items()
        ],
        "marked": MARKED,
    }


def _headline(results: AuditResults) -> str:
    """How many differences are claimed, and whether the requirements are met."""
    gains = [
        task.is_gain(parent, name)
        for task in results.tasks.values()
        for parent, differences in task.differences.items()
        for name, gap in differences.items()
        if gap.claimed
    ]
    said = (
        f"{gains.count(True)} better, {gains.count(False)} worse than its parents"
        if gains
        else "no difference from its parents can be told from noise"
    )
    if not results.requirements:
        return said
    met = sum(each.met for each in results.requirements)
    return f"{met} of {len(results.requirements)} requirements met; {said}"
