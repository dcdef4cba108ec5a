"""What rows can show, in words: for the plan, the page and the card."""

from __future__ import annotations

from collections.abc import Mapping

from mergekit_fair.fairness.metrics import METRICS
from mergekit_fair.fairness.power import Detectable
from mergekit_fair.report.tables import Cell, Row, Table


def power_table(found: Mapping[str, Detectable]) -> Table:
    """One row a metric and group that stands out.

    Args:
        found: name of rows (`report`) → what they can show.
    """
    sections = [
        (
            f"{name} rows",
            [
                Row(
                    METRICS[metric].title,
                    [
                        Cell(one.group),
                        Cell(f"{one.rows:,}"),
                        Cell(_size(one.gap)),
                        Cell(_size(one.difference)),
                    ],
                )
                for metric, shown in (("dpd", each.dpd), ("eod", each.eod))
                for one in shown
            ],
        )
        for name, each in found.items()
    ]
    first = next(iter(found.values()))
    return Table(
        caption="The smallest gap that these rows can show",
        corner="",
        columns=["where this group stands out", "rows of it", "gap of one", "difference of two"],
        sections=[(title, rows) for title, rows in sections if rows],
        foot=_assumptions(first),
    )


def _assumptions(found: Detectable) -> str:
    """What the figures hold for."""
    rates = found.assumed
    text = (
        f"Shown in {found.power * 100:.0f} % of such samples, at {found.confidence * 100:.4g} %. "
        "Gap of one model: that it is not 0. Difference of two, of which one has half the other's "
        f"gap: corrected for {found.tests} p-values. Assumed: "
        f"selection rate {rates.selection_rate:.2f}, TPR {rates.tpr:.2f}, FPR {rates.fpr:.2f}, two "
        f"models predict the same of {rates.agreement * 100:.0f} % of rows"
    )
    if rates.intracluster_correlation is not None:
        text += f", intracluster correlation {rates.intracluster_correlation:g}"
    return f"{text}."


def power_sentence(found: Detectable) -> str | None:
    """How large a difference must be for report rows to show it; None: no group decides."""
    parts = []
    for metric, shown in (("dpd", found.dpd), ("eod", found.eod)):
        sizes = sorted({one.difference for one in shown if one.difference is not None})
        if not shown:
            continue
        if not sizes:
            parts.append(f"none in {METRICS[metric].title}")
        else:
            about = " to ".join(dict.fromkeys(_size(each) for each in (sizes[0], sizes[-1])))
            parts.append(f"one in {METRICS[metric].title} of about {about}")
    if not parts:
        return None
    return (
        f"In {found.power * 100:.0f} % of samples such as these {found.n:,} rows a difference "
        f"would be found where there is {' and '.join(parts)}; smaller ones are easily missed."
    )


def _size(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
