"""Every picture (extra `plot`): a sweep's curves and Pareto fronts, transfer matrices, vectors."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import one_line
from mergekit_fair.evaluation.evaluate import FairEvaluation
from mergekit_fair.fairness.one_vs_rest import EVERY_METRIC
from mergekit_fair.files import write_together
from mergekit_fair.report.sweep_axis import lines_over, number_on, swept_axis
from mergekit_fair.report.sweep_tables import (
    CHANGES,
    WORSE,
    group_labels,
    is_of_views,
    transfer_cell,
)
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults, TransferRecord
from mergekit_fair.sweep.swept_settings import symbol

_PANELS = ("acc", "dpd", "eod", "selection_rate")
_PANELS_OF_VIEWS = ("acc", "macro_dpd", "macro_eod", "worst_eod")
_SERIES = {
    "merge": ("merges", "C0"),
    "injection": ("injection", "C1"),
    "search": ("search", "C6"),
    "candidate": ("candidates", "C3"),
    "head": ("fair head", "mediumvioletred"),
    "control": ("random control", "0.6"),
    "cutoff": ("another threshold for all", "darkcyan"),
    "refit": ("balanced refit", "tan"),
    "thresholds": ("group thresholds (need group labels)", "C8"),
}
# Of baselines: colours first, then lines and markers, so that none looks like another.
_COLOURS = ("k", "C2", "C4", "C5", "C7", "C9")
_LINES, _MARKERS = ("--", "-.", ":", (0, (1, 3))), ("s", "D", "^", "v")
_OF_ONE_KIND = ("-", (0, (5, 2)), (0, (2, 2)), (0, (5, 2, 1, 2)), (0, (1, 2)), (0, (9, 3)))
_IN_A_ROW = 150  # characters of a legend
_VERDICTS = {"safe": "C2", "unsafe": "C3", "unproven": "0.4"}

# No random ids in the files; a `$` in a group's name is a dollar, no formula.
_STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "mergekit-fair",
    "font.size": 9,
}


def require_plotting() -> Any:
    """matplotlib, for who wants to know before a long computation.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(
            "pictures need matplotlib", fix="run pip install 'mergekit-fair[plot]'"
        ) from error
    return matplotlib


def picture(name: str, size: tuple[float, float], make: Callable[[Any], None]) -> dict[str, bytes]:
    """`<name>.png` and `<name>.svg` → their content; equal pictures are equal bytes.

    Args:
        name: of the files.
        size: width and height in inches.
        make: draws into a figure.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    matplotlib = require_plotting()
    from matplotlib.figure import Figure

    made = {}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        make(figure)
        for suffix in ("png", "svg"):
            metadata = {"Date": None} if suffix == "svg" else {}
            content = io.BytesIO()
            figure.savefig(content, format=suffix, dpi=130, metadata=metadata)
            made[f"{name}.{suffix}"] = content.getvalue()
    return made


def draw_sweep(results: SweepResults, folder: Path) -> list[Path]:
    """Write curves and Pareto pictures as PNG and SVG, and that of a transfer matrix if there is
    one; returns their paths.

    Raises:
        ConfigError: matplotlib is not installed.
        OSError: a picture cannot be written; none of them is.
    """
    made = picture("curves", (11.0, 7.0), partial(_curves, results=results))
    made |= picture("pareto", (10.0, 4.6), partial(_pareto, results=results))
    if results.transfer:
        made |= _transfer_picture(results.transfer)
    return _written(made, folder)


def _written(made: Mapping[str, bytes], folder: Path) -> list[Path]:
    files: dict[Path, bytes | str] = {folder / name: content for name, content in made.items()}
    write_together(files)
    return list(files)


def _curves(figure: Any, results: SweepResults) -> None:
    """Metrics over the number that the grid varies most: bands are the intervals, lines the
    baselines, hatches degenerate points."""
    points, axis = _measured(results), swept_axis(results.points)
    numbers = [x for point, _ in points if (x := number_on(axis, point)) is not None]
    width = 0.03 * ((max(numbers) - min(numbers)) or 1.0) if numbers else 0.0
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for axes, name in zip(panels, _panels(results), strict=True):
        for kind, (label, colour) in _SERIES.items():
            of_kind = [point for point, _ in points if point.kind == kind]
            for number, (words, series) in enumerate(lines_over(axis, of_kind)):
                shown = None if words is None else one_line(f"{label} {words}".strip())
                look = {"color": colour, "linestyle": _OF_ONE_KIND[number % len(_OF_ONE_KIND)]}
                _series(axes, series, (axis, name), shown, look)
        for point, look in _baselines(points):
            value = point.value(name)
            if value is not None:
                axes.axhline(
                    value, color=look["color"], linestyle=look["line"], linewidth=1,
                    label=one_line(point.label),
                )  # fmt: skip
        for point, evaluation in points:
            x = number_on(axis, point)
            if evaluation.degenerate and x is not None:
                axes.axvspan(x - width, x + width, facecolor="none", edgecolor="0.7", hatch="////")
        for point in _chosen(results):
            _star(axes, number_on(axis, point), point.value(name), point)
        axes.set_title(EVERY_METRIC[name].title)
        axes.grid(alpha=0.3)
    for axes in panels[2:]:
        axes.set_xlabel(one_line(symbol(axis)))
    _legend(figure, panels[0])
    is_hatched = any(evaluation.degenerate for _, evaluation in points)
    figure.suptitle(
        one_line(f"{results.task}, {results.selected_on} rows")
        + (" (hatched, hollow: degenerate)" if is_hatched else "")
    )


def _series(
    axes: Any,
    series: Sequence[PointResult],
    over: tuple[str, str],
    label: str | None,
    look: Mapping[str, Any],
) -> None:
    """One line with its band, of a metric over a number; hollow points are degenerate."""
    axis, name = over
    placed = [(x, point) for point in series if (x := number_on(axis, point)) is not None]
    known = [
        (x, point.interval(name), point.require_measured().degenerate)
        for x, point in sorted(placed, key=lambda pair: pair[0])
        if point.value(name) is not None
    ]
    if not known:
        return
    axes.plot([x for x, *_ in known], [e.value for _, e, _ in known], marker="o", ms=4, **look,
              label=label)  # fmt: skip
    hollow = [(x, e.value) for x, e, degenerate in known if degenerate]
    if hollow:
        axes.plot(*zip(*hollow, strict=True), "o", color=look["color"], ms=4, mfc="white", zorder=3)
    band = [(x, e.low, e.high) for x, e, _ in known if e.low is not None]
    if band:
        axes.fill_between(*zip(*band, strict=True), color=look["color"], alpha=0.15, linewidth=0)


def _pareto(figure: Any, results: SweepResults) -> None:
    """Accuracy against DPD and EOD; the upper left is better; hollow points are degenerate."""
    points, axis = _measured(results), swept_axis(results.points)
    _, *gaps = _panels(results)[:3]
    for axes, name in zip(figure.subplots(1, 2, sharey=True), gaps, strict=True):
        for kind, (label, colour) in _SERIES.items():
            of_kind = [point for point, _ in points if point.kind == kind]
            _scatter(axes, of_kind, (axis, name), label, colour)
        for point, look in _baselines(points):
            axes.errorbar(
                point.value(name), point.value("acc"), **_errors(point, name), fmt=look["marker"],
                color=look["color"], label=one_line(point.label),
            )  # fmt: skip
        for point in _chosen(results):
            _star(axes, point.value(name), point.value("acc"), point)
        axes.set_xlabel(f"{EVERY_METRIC[name].title} (lower is fairer)")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy")
    _legend(figure, figure.axes[0])
    is_numbered = any(number_on(axis, point) is not None for point, _ in points)
    numbers = f"; numbers are {symbol(axis)}" if is_numbered else ""
    figure.suptitle(one_line(f"{results.task}, {results.selected_on} rows{numbers}"))


def _scatter(
    axes: Any, series: Sequence[PointResult], over: tuple[str, str], label: str, colour: str
) -> None:
    axis, name = over
    shown = [p for p in series if None not in (p.value(name), p.value("acc"))]
    for number, point in enumerate(shown):
        at = (point.value(name), point.value("acc"))
        hollow = point.require_measured().degenerate
        axes.plot(
            *at, "o", color=colour, ms=5, mfc="none" if hollow else colour,
            label=label if number == 0 else None,
        )  # fmt: skip
        x = number_on(axis, point)
        if x is not None:
            axes.annotate(f"{x:g}", at, xytext=(3, 3), textcoords="offset points", fontsize=7)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    fitting = _IN_A_ROW // (max(map(len, labels), default=0) + 6)
    columns = max(1, min(len(labels), 8, fitting))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _panels(results: SweepResults) -> tuple[str, ...]:
    return _PANELS_OF_VIEWS if is_of_views(results.points, results.task) else _PANELS


def _measured(results: SweepResults) -> list[tuple[PointResult, FairEvaluation]]:
    return [(point, point.evaluation) for point in results.points if point.evaluation is not None]


def _chosen(results: SweepResults) -> list[PointResult]:
    """The chosen point, or nothing where none could be chosen."""
    return [point for point, _ in _measured(results) if point.id == results.selected.id]


def _star(axes: Any, x: float | None, y: float | None, chosen: PointResult) -> None:
    if x is not None and y is not None:
        label = one_line(f"chosen: {chosen.label}")
        axes.plot(x, y, "*", color="C3", ms=13, mec="k", mew=0.5, label=label)


def _baselines(
    points: Sequence[tuple[PointResult, FairEvaluation]],
) -> Iterator[tuple[PointResult, dict[str, Any]]]:
    """Every baseline with its own look."""
    for number, point in enumerate(p for p, _ in points if p.kind == "baseline"):
        turn, colour = divmod(number, len(_COLOURS))
        yield (
            point,
            {
                "color": _COLOURS[colour],
                "line": _LINES[turn % len(_LINES)],
                "marker": _MARKERS[turn % len(_MARKERS)],
            },
        )


def _errors(point: PointResult, name: str) -> dict[str, Any]:
    """Arguments for error bars, where both intervals are known."""
    bars: dict[str, Any] = {}
    for argument, metric in (("xerr", name), ("yerr", "acc")):
        entry = point.interval(metric)
        if entry.value is None or entry.low is None or entry.high is None:
            return {}
        bars[argument] = [[max(0, entry.value - entry.low)], [max(0, entry.high - entry.value)]]
    return {**bars, "elinewidth": 0.8, "capsize": 2}


def draw_transfer(transfer: TransferRecord, folder: Path) -> list[Path]:
    """Write `transfer.png` and `transfer.svg`: changes of harm and of accuracy; red is worse.

    Numbers are bold and marked `!` where they are harms that make the vector unsafe; the verdict
    stands beside the row.

    Args:
        transfer: as `mergekit_fair.sweep.verdicts.judged` gives it.
        folder: exists.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    return _written(_transfer_picture(transfer), folder)


def _transfer_picture(transfer: TransferRecord) -> dict[str, bytes]:
    width = 2 * (1.2 + 0.85 * len(transfer.groups)) + 2.6
    height = 1.9 + 0.5 * len(transfer.injected)
    return picture("transfer", (width, height), partial(_transfer, transfer=transfer))


def _transfer(figure: Any, transfer: TransferRecord) -> None:
    sizes = [abs(x) for key in CHANGES for row in transfer.change[key].value for x in row if x]
    limit = max([*sizes, transfer.tolerance, 1e-3])
    panels = figure.subplots(1, 2, sharey=True)
    names = [f"+ {transfer.step:g} {group}" for group in transfer.injected]
    for axes, (key, title) in zip(panels, CHANGES.items(), strict=True):
        matrix, sign = transfer.change[key], WORSE[key]
        shown = [[matrix.at(g, h) for h in range(len(transfer.groups))] for g in range(len(names))]
        cells = [
            [transfer_cell(transfer, key, g, h) for h in range(len(transfer.groups))]
            for g in range(len(names))
        ]
        picture = heat_map(
            axes,
            [[None if x.value is None else sign * x.value for x in row] for row in shown],
            texts=[[cell.text + "!" * cell.strong for cell in row] for row in cells],
            names=(group_labels(transfer), names),
            scale=("RdBu_r", -limit, limit),
        )
        axes.set_aspect("auto")
        axes.set_title(title)
    for g, verdict in enumerate(transfer.verdicts):
        panels[1].annotate(
            verdict.status, (1.02, g), xycoords=("axes fraction", "data"), va="center",
            color=_VERDICTS[verdict.status], fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.9, location="right")
    bar.set_label("worse for the group →")
    figure.suptitle(
        "injected vector (rows) against group (columns); bold!: harm beyond the tolerance, "
        f"{transfer.tolerance:g}, which makes the vector unsafe"
    )


# Rows of a heat map that numbers are written into.
_MOST_NUMBERS = 16


def vectors_pictures(vectors: dict[str, Any]) -> dict[str, bytes]:
    """`vectors.png` and `vectors.svg`: cosines and sign conflict side by side.

    Of many vectors the colours alone are drawn: thousands of numbers take half a minute, and nobody
    reads them; they stand in `vectors.json`.

    Args:
        vectors: the JSON of `RecipeVectors`.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    count = len(vectors["names"])
    side = 2.4 + count * (0.55 if count <= _MOST_NUMBERS else 0.25)
    return picture("vectors", (2 * side + 1, side), partial(_vectors, vectors=vectors))


def _vectors(figure: Any, vectors: dict[str, Any]) -> None:
    # Vectors that share nothing differ in half of their signs: white, as for a cosine of 0.
    scales = {"cosines": ("RdBu_r", -1.0, 1.0), "sign_conflict": ("RdBu", 0.0, 1.0)}
    titles = {"cosines": "cosine", "sign_conflict": "sign conflict"}
    for axes, (key, scale) in zip(figure.subplots(1, 2), scales.items(), strict=True):
        values = vectors[key]
        texts = [["–" if x is None else f"{x:.2f}" for x in row] for row in values]
        if len(texts) > _MOST_NUMBERS:
            texts = [["" for _ in row] for row in texts]
        picture = heat_map(axes, values, texts, (vectors["names"], vectors["names"]), scale)
        axes.set_title(titles[key])
        figure.colorbar(picture, ax=axes, shrink=0.8)


def heat_map(
    axes: Any,
    values: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    names: tuple[Sequence[str], Sequence[str]],
    scale: tuple[str, float, float],
) -> Any:
    """A heat map with a text in every cell, bold where it ends in `!`; grey is undefined.

    Args:
        values: (rows, columns), for colours.
        texts: likewise.
        names: of columns and of rows.
        scale: colour map, and the values at its ends.
    """
    colours, low, high = scale
    numbers = [[float("nan") if value is None else value for value in row] for row in values]
    picture = axes.imshow(numbers, cmap=colours, vmin=low, vmax=high)
    axes.set_facecolor("0.85")
    columns, rows = ([one_line(name) for name in each] for each in names)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    middle, half = (low + high) / 2, (high - low) / 2
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if not texts[y][x]:
                continue
            is_dark = value is not None and abs(value - middle) > 0.65 * half
            is_strong = texts[y][x].endswith("!")
            axes.text(
                x, y, texts[y][x], ha="center", va="center", color="w" if is_dark else "k",
                fontweight="bold" if is_strong else "normal",
            )  # fmt: skip
    return picture
