"""Everything that a sweep's results are shown as: text for the terminal, files in its folder."""

from __future__ import annotations

from pathlib import Path

from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import one_line
from mergekit_fair.files import write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.report.figures import draw_sweep
from mergekit_fair.report.page import budget_text, capitalised, closed_text, write_page
from mergekit_fair.report.power_text import power_sentence, power_table
from mergekit_fair.report.sweep_csv import results_csv
from mergekit_fair.report.sweep_tables import (
    added_text,
    brief_points_table,
    comparison_table,
    is_of_views,
    sign_test_text,
    transfer_tables,
    verdicts_table,
    views_table_of_points,
)
from mergekit_fair.report.tables import as_text
from mergekit_fair.report.verdict_text import MARKED, verdict
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults, TransferRecord
from mergekit_fair.sweep.sweep_plan import LeftRecord, SweepPlan

_DIFFERENCES = (
    f"Chosen minus the baselines, on the same report rows (paired intervals; !: {MARKED})"
)
_OPENED = "Report rows, opened once for the chosen model, its random control and the baselines"
_WIDTH = 180  # of lines, where nobody says how wide the terminal is


def write_outputs(results: SweepResults, folder: Path, progress: Progress) -> Path:
    """results.csv, pictures and report.html of a sweep; without matplotlib, no pictures.

    Returns:
        The page.
    """
    write_atomic(folder / "results.csv", results_csv(results))
    try:
        draw_sweep(results, folder)
    except ConfigError as error:  # hours of measuring must not end in a missing extra
        progress.say(f"no pictures: {error}")
    return write_page(results, folder)


def summary_text(results: SweepResults, width: int | None = None) -> str:
    """The tables of a sweep as text; metrics that do not fit into `width` are in results.csv."""

    width = width or _WIDTH

    def table(points: list[PointResult]) -> str:
        return as_text(brief_points_table(results, points), width)

    chosen, level, split = results.selected, results.level, results.selected_on
    points = table(results.points)
    gaps = "dpd=, eod=" if level.rate is not None else "names with ="
    at = f"; {gaps}: at {one_line(str(level))}" if "=" in points.splitlines()[0] else ""
    parts = [
        f"{split.capitalize()} rows of {one_line(results.task)} ([low, high]: "
        f"{results.confidence:.4g} confidence intervals{at})",
        points,
        *(["", transfer_text(results.transfer)] if results.transfer else []),
        f"\nRule: {one_line(chosen.rule)}.\n{capitalised(one_line(chosen.sentence))}.",
    ]
    if (closed := closed_text(results)) is not None:
        parts.append(f"\n{closed}")
    else:
        parts += [f"\n{_OPENED}", table(results.report)]
        if is_of_views(results.report, results.task):
            parts += ["\nEach class or label by itself, of these", _views(results)]
    if split == "report":
        parts.insert(0, _OPTIMISTIC)
    if (unfinished := budget_text(results)) is not None:
        parts.insert(0, f"NOT FINISHED: {one_line(unfinished)}\n")
    if results.comparison:
        differences = as_text(comparison_table(results.comparison), width)
        parts += ["", _DIFFERENCES, differences, verdict(results)]
    if results.detectable is not None and (shown := power_sentence(results.detectable)):
        parts.append(shown)
    if results.report_opened_for_another_selection:
        parts.append(
            "\nwarning: the report split was opened before for another choice; its figures are "
            "no longer untouched."
        )
    return "\n".join(parts)


def _views(results: SweepResults) -> str:
    """Every class or label by itself, of the chosen model and of the one it is read beside."""
    shown = [
        point
        for point in results.report
        if point.id == results.selected.id or point.label == results.level.to
    ]
    return as_text(views_table_of_points(results, shown))


def transfer_text(transfer: TransferRecord) -> str:
    """What each injection changes in each group, then its verdict with the reason."""
    head = (
        f"injections at λ = {transfer.step:g}, changes against the target on the same rows "
        f"({transfer.interval_level * 100:.4g} % intervals, paired; !: harm beyond the tolerance, "
        "which makes the vector unsafe)"
    )
    tables = [f"{one_line(t.caption)}\n{as_text(t)}" for t in transfer_tables(transfer)]
    verdicts = f"verdicts, tolerance {transfer.tolerance:g}\n{as_text(verdicts_table(transfer))}"
    warnings = [f"warning: {one_line(text)}" for text in transfer.warnings]
    test = filter(None, [sign_test_text(transfer)])
    return "\n\n".join(
        [head, *tables, verdicts, *test, *warnings, f"Added: {one_line(added_text(transfer))}."]
    )


def plan_text(plan: SweepPlan) -> str:
    """The plan of a sweep, for `--dry-run`."""
    finished = set() if plan.left is None else set(plan.left.finished)
    later = {
        "of the search": plan.search_budget,
        "of the worst group, named once the baseline is measured": (
            plan.injection_points_of_the_worst_group
        ),
        "at most of safe groups": plan.injection_points_of_safe_groups,
        "at most of heads": plan.head_points,
    }
    more = "".join(f", {count} {what}" for what, count in later.items() if count)
    lines = [
        f"{len(plan.points)} points{more}",
        *(
            f"  {point.id}  {point.kind:<9} {one_line(point.label)}"
            + (" (measured)" if point.id in finished else "")
            for point in plan.points
        ),
        *([] if plan.search_start is None else [f"search: {plan.search_start}"]),
        f"{len(plan.models)} models, {plan.bytes_read / 1e6:,.0f} MB; "
        f"{plan.memory_bytes / 1e6:,.0f} MB of memory, or as much as there is",
        *(f"  {one_line(model)}" for model in plan.models),
        f"{plan.rows['validation']} validation rows a point, "
        f"{plan.rows['report']} report rows for the chosen point and the baselines",
        f"{plan.forward_passes:,} forward passes{_duration(plan.estimated_minutes)}"
        + ("" if plan.seconds_per_point is None else _timed(plan.seconds_per_point)),
        *([] if plan.left is None else [left_text(plan.left)]),
        *([one_line(str(plan.safe_injection))] if plan.safe_injection else []),
        *(f"warning: {one_line(text)}" for text in plan.warnings),
    ]
    if plan.detectable:
        table = power_table(plan.detectable)
        lines += [f"\n{table.caption}:", as_text(table)]
    return "\n".join(lines)


def left_text(left: LeftRecord) -> str:
    """What a folder that holds finished points still needs."""
    finished = f"{len(left.finished)} points are measured"
    if not left.forward_passes:
        return f"{finished}: no forward pass is left"
    points = f"{left.points} points" if left.points else "report rows"
    most = "at most " if left.at_most else ""
    return (
        f"{finished}; left: {points}, {most}{left.forward_passes:,} forward passes"
        f"{_duration(left.minutes)}"
    )


def _duration(minutes: float | None) -> str:
    return "" if minutes is None else f", about {minutes:.1f} minutes"


def _timed(seconds: float) -> str:
    return f" by two batches of the base ({seconds:.1f} s a point)"


_OPTIMISTIC = (
    "SELECTED ON THE REPORT SPLIT (select.force): every figure of the chosen model is optimistic, "
    "and no untouched rows are left to report on.\n"
)
