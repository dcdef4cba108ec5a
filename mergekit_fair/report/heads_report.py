"""What `heads` has found: tables and sentences for the terminal, and its page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mergekit_fair.escaping import one_line
from mergekit_fair.fairness.claims import LEVEL
from mergekit_fair.fairness.metrics import HEADLINE
from mergekit_fair.files import write_atomic
from mergekit_fair.heads.head_results import (
    HEAD,
    NEEDS_GROUPS,
    NOTE,
    PAGE,
    RANDOM,
    RECIPE,
    TARGET,
    HeadResults,
)
from mergekit_fair.report.page import shown, template
from mergekit_fair.report.sweep_tables import difference_titles, ordered_metrics
from mergekit_fair.report.tables import Cell, Row, Table, as_text, interval_cell, value_text
from mergekit_fair.report.verdict_text import MARKED, difference_cell, sentence

_LEFT_OUT = "Validation rows by coefficients of others (gaps: mean of halves, larger than of all)"
_COMPARED = (*HEADLINE, *(f"{LEVEL}{name}" for name in HEADLINE))
_SHOWN = ("acc", "dpd", "eod", "bal_acc", "worst_group_acc", "selection_rate")


def heads_text(results: HeadResults, out: Path) -> str:
    """Everything that was found, for a terminal."""
    parts = [*map(one_line, _about(results)), "", f"{_LEFT_OUT}:", as_text(mu_table(results)), ""]
    if results.stays is not None:
        parts.append(one_line(f"{headline(results)}; report rows stay closed"))
    else:
        parts += [
            "Report rows, opened once:",
            as_text(models_table(results)),
            "",
            f"Minus the {TARGET}, on the same rows (paired intervals; !: {MARKED})",
            as_text(differences_table(results)),
            one_line(headline(results)),
            *map(one_line, beside(results)),
            "",
            f"merge it: mergekit-fair merge {one_line(shlex.quote(str(out / RECIPE)))} MODEL",
            NOTE,
        ]
    parts += [f"warning: {one_line(text)}" for text in results.warnings]
    return "\n".join(parts)


def headline(results: HeadResults) -> str:
    """What was won and lost against the target, or why it is kept."""
    if results.stays is not None:
        return f"keep the target: {results.stays}"
    return sentence(HEAD, f"the {TARGET}", results.differences)


def beside(results: HeadResults) -> list[str]:
    """What random directions win in the same way, for only what is beyond it is the groups' doing;
    and what those win who know the group of every row."""
    found = {name: each for name, each in results.report.items() if name in (RANDOM, *NEEDS_GROUPS)}
    return [
        f"{'With group labels' if each.needs_groups else 'Control'}: "
        f"{sentence(name, f'the {TARGET}', each.differences)}"
        for name, each in found.items()
    ]


def _about(results: HeadResults) -> list[str]:
    rows = ", ".join(f"{count:,} {name}" for name, count in results.rows.items())
    said = [f"{results.data}: head {results.layer} of {results.model}; {rows} rows"]
    if results.left_out_cells:
        cells = ", ".join(results.left_out_cells)
        said.append(f"without a direction (too few training rows): {cells}")
    if results.mu is not None and results.options.mu is None:
        said.append(f"μ = {results.mu:g}, chosen on cross-fitted validation rows")
    return said


def mu_table(results: HeadResults) -> Table:
    """What every μ gave on validation rows that its coefficients have not seen."""
    rows = [
        Row(
            f"{each.mu:g}",
            [
                Cell(value_text(value))
                for value in (each.acc, each.dpd, each.eod, each.selection_rate)
            ],
            tags=[] if each.acceptable or results.options.mu is not None else ["costs accuracy"],
            chosen=each.mu == results.mu,
        )
        for each in results.tried
    ]
    return Table(
        caption=_LEFT_OUT,
        corner="μ",
        columns=["acc", "dpd", "eod", "selection_rate"],
        sections=[("", rows)],
    )


def models_table(results: HeadResults) -> Table:
    """Target, fair head and controls, each by itself, and who needs to know groups to predict."""
    metrics = [metric for metric in ordered_metrics() if metric.name in _SHOWN]
    rows = [
        Row(
            name,
            [
                *(
                    interval_cell(each.evaluation.metrics[metric.name])
                    if metric.headline
                    else Cell(value_text(each.evaluation.metrics[metric.name].value))
                    for metric in metrics
                ),
                Cell("yes" if each.needs_groups else "no"),
            ],
            tags=["degenerate"] if each.evaluation.degenerate else [],
            chosen=name == HEAD,
            minor=each.is_control,
        )
        for name, each in results.report.items()
    ]
    return Table(
        caption="Report rows",
        corner="",
        columns=[*(metric.name for metric in metrics), "needs group labels to predict"],
        sections=[("", rows)],
        foot="; ".join(
            f"{name}: {each.said}" for name, each in results.report.items() if each.said
        ),
    )


def differences_table(results: HeadResults) -> Table:
    """Each of them minus the target."""
    models = {name: each.differences for name, each in results.report.items() if name != TARGET}
    keys = [name for name in difference_titles(models.values()) if name in _COMPARED]
    names = [f"{key.removeprefix(LEVEL)}=" if key.startswith(LEVEL) else key for key in keys]
    rows = [
        Row(name, [difference_cell(gaps.get(key), with_p=False) for key in keys])
        for name, gaps in models.items()
    ]
    return Table(
        caption=f"Minus the {TARGET}, paired", corner="", columns=names, sections=[("", rows)]
    )


def write_heads_page(results: HeadResults, folder: Path) -> Path:
    """Write `report.html`: one page without scripts and requests.

    Returns:
        Its path.
    """
    path = folder / PAGE
    page = template("heads.html", autoescape=True, finalize=shown)
    write_atomic(path, page.render(_view(results)))
    return path


def _view(results: HeadResults) -> dict[str, Any]:
    moves = results.stays is None
    vectors = [
        [
            each.name,
            f"{each.weight:+.3f}",
            "–" if each.rows is None else f"{each.rows:,}",
            f"{each.norm:.3g}",
        ]
        for each in results.vectors
    ]
    return {
        "results": results,
        "headline": headline(results),
        "beside": beside(results),
        "about": _about(results),
        "models": models_table(results) if moves else None,
        "differences": differences_table(results) if moves else None,
        "mus": mu_table(results),
        "vectors": Table.plain(["vector", "weight", "training rows", "norm"], vectors)
        if vectors
        else None,
        "note": NOTE,
        "marked": MARKED,
        "confidence": f"{results.options.confidence * 100:.4g} %",
    }
