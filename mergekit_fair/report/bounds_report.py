"""Bounds of DPD and EOD beside what a sweep has measured: a table and a picture."""

from __future__ import annotations

from functools import partial
from typing import Any

from mergekit_fair.escaping import one_line
from mergekit_fair.report.figures import picture
from mergekit_fair.report.tables import Table, as_text, value_text

# Key of a point → its words, colour and line.
_LINES = {
    "dpd": ("measured", "k", "-"),
    "dpd_flips": ("by flips, without assumptions", "C0", "--"),
    "dpd_exact": ("Lipschitz, exact distance", "C1", "-."),
    "dpd_triangle": ("Lipschitz, triangle (the paper's)", "C3", ":"),
}


def bounds_text(bounds: dict[str, Any]) -> str:
    """A line a point, and whether longer task vectors move more predictions.

    Args:
        bounds: the JSON of `SweepBounds`.
    """
    what = "every λ_g is 1" if bounds["is_balanced"] else "every λ_g is 0"
    head = (
        f"bounds from {one_line(bounds['reference'])} ({what}), over the points of "
        f"{one_line(bounds['sweep'])}; above 1 a bound says nothing"
    )
    titles = ["point", "‖θ − θ_ref‖", "DPD", "≤ flips", "≤ exact", "≤ triangle"]
    titles += ["EOD", "≤ flips", "≤ exact"]
    keys = ("dpd", "dpd_flips", "dpd_exact", "dpd_triangle", "eod", "eod_flips", "eod_exact")
    rows = [
        [one_line(point["label"]), f"{point['displacement']:.4g}"]
        + [value_text(point[key]) for key in keys]
        for point in bounds["points"]
    ]
    zero, one = bounds["densities"]
    measured = (
        f"L̂ = {bounds['lipschitz']:.4g} a unit of weights, densities around ½ at the reference "
        f"{value_text(zero)} (label 0), {value_text(one)} (label 1)"
    )
    parts = [f"{head}\n{as_text(Table.plain(titles, rows))}", measured, _sensitivity(bounds)]
    parts += [f"note: {one_line(note)}" for note in bounds["notes"]]
    return "\n\n".join(parts)


def _sensitivity(bounds: dict[str, Any]) -> str:
    found = bounds["sensitivity"]
    rows = [
        [one_line(name), f"{norm:.4g}", f"{found['flips_per_step'][name]:.4g}"]
        for name, norm in found["norms"].items()
    ]
    said = "no correlation is defined"
    if found["correlation"] is not None:
        said = f"correlation {found['correlation']:+.2f}"
        if found["low"] is not None:
            said += f" [{found['low']:+.2f}, {found['high']:+.2f}]"
        said += f" over {len(rows)} groups"
    head = "do groups with longer vectors answer more?"
    table = as_text(Table.plain(["group", "‖Δ‖", "flips a unit of way"], rows))
    return f"{head} {said}\n{table}"


def bounds_pictures(bounds: dict[str, Any]) -> dict[str, bytes]:
    """`bounds.png` and `bounds.svg`: DPD and its bounds over the distance from the reference.

    Args:
        bounds: the JSON of `SweepBounds`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    return picture("bounds", (6.4, 4.2), partial(_drawn, bounds=bounds))


def _drawn(figure: Any, bounds: dict[str, Any]) -> None:
    axes = figure.subplots()
    points = sorted(bounds["points"], key=lambda point: point["displacement"])
    for key, (words, colour, line) in _LINES.items():
        known = [(p["displacement"], p[key]) for p in points if p[key] is not None]
        axes.plot(*zip(*known, strict=True), line, color=colour, marker="o", ms=3, label=words)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"distance from {one_line(bounds['reference'])} in weights")
    axes.set_ylabel("DPD")
    axes.legend(fontsize=8)
