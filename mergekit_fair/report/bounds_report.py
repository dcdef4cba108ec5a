"""Bounds of DPD and EOD beside what a sweep has measured: a table and a picture."""

from __future__ import annotations

from functools import partial
from typing import Any

from mergekit_fair.escaping import one_line
from mergekit_fair.report.figures import heat_map, picture
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
    if bounds["disentanglement"]:
        parts.append(_disentanglement(bounds))
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


def _disentanglement(bounds: dict[str, Any]) -> str:
    names = list(bounds["points"][0]["lambdas"])
    rows = [
        [one_line(each["label"]), value_text(each["error"])]
        + [value_text(each["groups"].get(name)) for name in names]
        for each in bounds["disentanglement"]
    ]
    titles = ["point", "ξ", *map(one_line, names)]
    head = "disentanglement error: rows of a group that its own vector alone answers otherwise"
    return f"{head}\n{as_text(Table.plain(titles, rows))}"


def pairs(bounds: dict[str, Any]) -> list[list[float | None]]:
    """Row a, column b: the share of a's rows whose prediction b's vector changes when it is added
    to a's, over the points of these two alone; None where there is none.

    Args:
        bounds: the JSON of `SweepBounds`.
    """
    names = list(bounds["points"][0]["lambdas"])
    found: dict[tuple[str, str], list[float]] = {}
    for each in bounds["disentanglement"]:
        if len(each["groups"]) == 2:
            (one, other), terms = each["groups"], each["groups"]
            found.setdefault((one, other), []).append(terms[one])
            found.setdefault((other, one), []).append(terms[other])

    def mean(values: list[float] | None) -> float | None:
        return sum(values) / len(values) if values else None

    return [[mean(found.get((a, b))) for b in names] for a in names]


def bounds_pictures(bounds: dict[str, Any]) -> dict[str, bytes]:
    """`bounds.png` and `bounds.svg`: DPD and its bounds over the distance from the reference; and
    `disentanglement`, a heat map of the `pairs`, where there are any.

    Args:
        bounds: the JSON of `SweepBounds`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    files = picture("bounds", (6.4, 4.2), partial(_drawn, bounds=bounds))
    of_pairs = pairs(bounds)
    if any(value is not None for row in of_pairs for value in row):
        names = list(bounds["points"][0]["lambdas"])
        side = 2.4 + 0.55 * len(names)
        drawn = partial(_drawn_pairs, values=of_pairs, names=names)
        files |= picture("disentanglement", (side + 1, side), drawn)
    return files


def _drawn_pairs(figure: Any, values: list[list[float | None]], names: list[str]) -> None:
    axes = figure.subplots()
    texts = [["–" if x is None else f"{x:.2f}" for x in row] for row in values]
    shown = heat_map(axes, values, texts, (names, names), ("viridis", 0.0, 0.5))
    axes.set_xlabel("vector that is added")
    axes.set_ylabel("group, with its own vector")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="predictions that change")


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
