"""Everything that a sweep's results are shown as: text for the terminal, files in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.files import write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.report.figures import draw
from mergekit_fair.report.page import write_page
from mergekit_fair.report.text_tables import comparison_table, points_table, results_csv, verdict
from mergekit_fair.report.transfer_report import draw_transfer, transfer_table


def write_outputs(results: dict[str, Any], folder: Path, progress: Progress) -> Path:
    """results.csv, pictures and report.html of a sweep; without matplotlib, no pictures.

    Returns:
        The page.
    """

    write_atomic(folder / "results.csv", results_csv(results))
    try:
        draw(results, folder)
        if results["transfer"]:
            draw_transfer(results["transfer"], folder)
    except ConfigError as error:  # hours of measuring must not end in a missing extra
        progress.say(f"no pictures: {error}")
    return write_page(results, folder)


def summary_text(results: dict[str, Any]) -> str:
    """The tables of a sweep as text."""
    chosen, level, split = results["selected"], results["level"], results["selected_on"]
    parts = [
        f"{split.capitalize()} rows of {results['task']} ([low, high]: {results['confidence']:.4g} "
        "confidence intervals; DPD=, EOD=: at the selection rate of "
        f"{level['to']}, {level['rate']:.3f})",
        points_table(results["points"], chosen=chosen["id"]),
        *_stages(results),
        f"\nRule: {chosen['rule']}.\nChosen: {chosen['reason']}.",
        "\nReport rows, opened once for the chosen model, its random control and the baselines",
        points_table(results["report"], chosen=chosen["id"]),
    ]
    if split == "report":
        parts.insert(0, OPTIMISTIC)
    if results["comparison"]:
        parts += ["", comparison_table(results["comparison"]), verdict(results)]
    if results["report_opened_for_another_selection"]:
        parts.append(
            "\nwarning: the report split was opened before for another choice; its figures are "
            "no longer untouched."
        )
    return "\n".join(parts)


def _stages(results: dict[str, Any]) -> list[str]:
    """The transfer matrix of safe injection."""
    found = []
    if results["transfer"]:
        added = results["transfer"]["added"]
        names = ", ".join(f"{value:g} {group}" for group, value in added.items())
        found += ["", transfer_table(results["transfer"]), f"Added: {names or 'nothing'}."]
    return found


OPTIMISTIC = (
    "SELECTED ON THE REPORT SPLIT (select.force): every figure of the chosen model is optimistic, "
    "and no untouched rows are left to report on.\n"
)
