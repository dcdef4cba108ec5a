"""`curves.png` and `pareto.png` of a sweep (extra `plot`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mergekit_fair.report.drawing import write_picture

Line = dict[str, Any]

_PANELS = (
    ("acc", "accuracy"),
    ("dpd", "DPD"),
    ("eod", "EOD"),
    ("selection_rate", "selection rate"),
)
_SERIES = {
    "merge": ("subgroup addition", "C0"),
    "injection": ("injection", "C1"),
    "search": ("search", "C6"),
    "control": ("random control", "0.6"),
    "thresholds": ("group thresholds (need group labels)", "C8"),
}
_BASELINES = ("k", "C2", "C4", "C5")


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write curves and Pareto pictures as PNG and SVG; returns their paths.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    made = (("curves", (11.0, 7.0), _curves), ("pareto", (10.0, 4.6), _pareto))
    written = []
    for name, size, make in made:
        written += write_picture(folder, name, size, partial(make, results=results))
    return written


def _curves(figure: Any, results: dict[str, Any]) -> None:
    """Metrics over λ: bands are the intervals, lines the baselines, hatches degenerate points."""
    points = [line for line in results["points"] if "evaluation" in line]
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for axes, (key, title) in zip(panels, _PANELS, strict=True):
        for kind, (label, colour) in _SERIES.items():
            if kind == "search":  # its λ is always 1
                continue
            for worst, series in _by_group([p for p in points if p["kind"] == kind]).items():
                _series(axes, series, key, f"{label} {worst}".strip(), colour)
        for line, colour in zip(_baselines(points), _BASELINES, strict=False):
            value = line["evaluation"]["metrics"][key]["value"]
            if value is not None:
                axes.axhline(value, color=colour, linestyle="--", linewidth=1, label=line["label"])
        for x in (p["lambda"] for p in points if p["evaluation"]["degenerate"]):
            if x is not None:
                axes.axvspan(x - 0.03, x + 0.03, facecolor="none", edgecolor="0.7", hatch="////")
        _mark_chosen(axes, results, points, key)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    for axes in panels[2:]:
        axes.set_xlabel("λ")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    hatched = any(p["evaluation"]["degenerate"] for p in points)
    figure.suptitle(
        f"{results['task']}, {results['selected_on']} rows"
        + (" (hatched, hollow: degenerate)" if hatched else "")
    )


def _series(axes: Any, series: list[Line], key: str, label: str, colour: str) -> None:
    """One line with its band; hollow points are degenerate."""
    known = [
        (p["lambda"], p["evaluation"]["metrics"][key], p["evaluation"]["degenerate"])
        for p in sorted(series, key=lambda p: p["lambda"] or 0.0)
        if p["lambda"] is not None and p["evaluation"]["metrics"][key]["value"] is not None
    ]
    if not known:
        return
    x, y = [x for x, *_ in known], [e["value"] for _, e, _ in known]
    axes.plot(x, y, "o-", color=colour, ms=4, label=label)
    hollow = [(x, e["value"]) for x, e, degenerate in known if degenerate]
    if hollow:
        axes.plot(*zip(*hollow, strict=True), "o", color=colour, ms=4, mfc="white", zorder=3)
    band = [(x, e["low"], e["high"]) for x, e, _ in known if e["low"] is not None]
    if band:
        axes.fill_between(*zip(*band, strict=True), color=colour, alpha=0.15, linewidth=0)


def _pareto(figure: Any, results: dict[str, Any]) -> None:
    """Accuracy against DPD and EOD; the upper left is better; hollow points are degenerate."""
    points = [line for line in results["points"] if "evaluation" in line]
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("dpd", "eod"), strict=True):
        for kind, (label, colour) in _SERIES.items():
            _scatter(axes, [p for p in points if p["kind"] == kind], key, label, colour)
        for line, colour in zip(_baselines(points), _BASELINES, strict=False):
            metrics = line["evaluation"]["metrics"]
            axes.errorbar(
                *_at(metrics, key),
                **_errors(metrics, key),
                fmt="s",
                color=colour,
                label=line["label"],
            )
        for chosen in _chosen(results, points):
            x, y = _at(chosen["evaluation"]["metrics"], key)
            _star(axes, x, y, chosen)
        axes.set_xlabel(f"{key.upper()} (lower is fairer)")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(f"{results['task']}, {results['selected_on']} rows; numbers are λ")


def _scatter(axes: Any, series: list[Line], key: str, label: str, colour: str) -> None:
    shown = [p for p in series if None not in _at(p["evaluation"]["metrics"], key)]
    for number, line in enumerate(shown):
        x, y = _at(line["evaluation"]["metrics"], key)
        hollow = line["evaluation"]["degenerate"]
        axes.plot(
            x, y, "o", color=colour, ms=5, mfc="none" if hollow else colour,
            label=label if number == 0 else None,
        )  # fmt: skip
        if line["lambda"] is not None and line["kind"] != "search":
            axes.annotate(
                f"{line['lambda']:g}", (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7
            )


def _mark_chosen(axes: Any, results: dict[str, Any], points: list[Line], key: str) -> None:
    for chosen in _chosen(results, points):
        _star(axes, chosen["lambda"], chosen["evaluation"]["metrics"][key]["value"], chosen)


def _chosen(results: dict[str, Any], points: list[Line]) -> list[Line]:
    """The chosen point, or nothing where none could be chosen."""
    return [p for p in points if p["id"] == results["selected"]["id"]]


def _star(axes: Any, x: float | None, y: float | None, chosen: Line) -> None:
    if x is not None and y is not None:
        label = f"chosen: {chosen['label']}"
        axes.plot(x, y, "*", color="C3", ms=13, mec="k", mew=0.5, label=label)


def _baselines(points: list[Line]) -> list[Line]:
    return [p for p in points if p["kind"] == "baseline"]


def _by_group(points: list[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for point in points:
        found.setdefault(str(point["settings"].get("worst", "")), []).append(point)
    return found


def _at(metrics: dict[str, Any], key: str) -> tuple[float | None, float | None]:
    return metrics[key]["value"], metrics["acc"]["value"]


def _errors(metrics: dict[str, Any], key: str) -> dict[str, Any]:
    """Arguments for error bars, where both intervals are known."""
    parts = {"xerr": metrics[key], "yerr": metrics["acc"]}
    if any(part["low"] is None for part in parts.values()):
        return {}
    return {
        name: [[max(0, e["value"] - e["low"])], [max(0, e["high"] - e["value"])]]
        for name, e in parts.items()
    } | {"elinewidth": 0.8, "capsize": 2}
