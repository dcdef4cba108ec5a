"""Markdown tables of the interval benchmark, with targets and Monte Carlo errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

from interval_coverage import CONFIDENCE, KINDS, Cell
from interval_pairs import KINDS as TRUTHS
from interval_pairs import PAIRED, WAYS, ManyCell, PairCell
from interval_speed import DRAWS
from interval_truths import GAPS, SIZES

FASTER = 10_000  # least ratio to a MetricFrame's replicate at a million rows
MOST_SECONDS = 0.1  # of 10,000 replicates of a million rows in 8 groups
LEAST_PAIRED = 0.92  # coverage of paired differences in every population
LEAST = 0.9  # coverage of the default wherever the gap is at least 0.02
GAP_METRICS = ("dpd", "eod")

Key = tuple[str, float, int]  # metric, gap, n


def print_table(title: str, heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """A Markdown table under a line of text."""
    print(f"\n{title}\n\n| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for line in lines:
        print(f"| {' | '.join(str(entry) for entry in line)} |")
    print(end="", flush=True)


def print_bootstrap(found: list[dict[str, Any]]) -> None:
    lines = []
    for each in found:
        is_target = each["n"] >= 1_000_000 and each["patterns"] == 8
        mark = _verdict(each["bootstrap"] < MOST_SECONDS) if is_target else ""
        lines.append(
            (
                f"{each['n']:,}",
                each["patterns"],
                *(f"{each[key]:.4f}" for key in ("groups_from_masks", "tally", "bootstrap")),
                f"{each['load']:.1f}",
                mark,
            )
        )
    print_table(
        f"Seconds, median; {DRAWS:,} replicates of DPD and EOD, 8 groups, one thread",
        ("rows", "patterns", "masks", "tally", "replicates", "load", f"< {MOST_SECONDS}"),
        lines,
    )


def print_whole(found: list[dict[str, Any]]) -> None:
    print_table(
        "Seconds, median; groups read from a list of labels, then `measure` and `compare`",
        ("rows", "labels", "measure", "compare", "load"),
        [
            (
                f"{each['n']:,}",
                *(f"{each[key]:.3f}" for key in ("groups_from_labels", "measure", "compare")),
                f"{each['load']:.1f}",
            )
            for each in found
        ],
    )


def print_same(found: list[dict[str, Any]]) -> None:
    print_table(
        "Replicates of ours and of fairlearn's differences on resampled rows; z: the difference "
        "in Monte Carlo standard errors",
        ("gap", "mean ours", "mean theirs", "z", "sd ours", "sd theirs", "z", "same"),
        [
            (
                each["gap"].upper(),
                *(f"{value:.4f}" for value in each["mean"]),
                f"{each['mean_z']:.1f}",
                *(f"{value:.4f}" for value in each["sd"]),
                f"{each['sd_z']:.1f}",
                _verdict(max(abs(each["mean_z"]), abs(each["sd_z"])) < 3),
            )
            for each in found
        ],
    )


def print_fairlearn(found: list[dict[str, Any]]) -> None:
    print_table(
        "Microseconds a replicate; ratios round by round. `frame`: fairlearn's "
        "MetricFrame(n_boot=); `differences`: its two gaps on resampled rows; `numpy`: resampled "
        f"rows counted with bincount; `whole`: {DRAWS:,} replicates, our tally included",
        (
            *("rows", "ours", "numpy", "frame", "differences"),
            *("numpy / ours", "frame / ours", "whole", "load", f"≥ {FASTER:,}"),
        ),
        [
            (
                f"{each['n']:,}",
                f"{1e6 * each['ours']:.1f}",
                *(f"{1e6 * each[key]:,.0f}" for key in ("numpy", "frame", "differences")),
                *(f"{each[key]:,.0f}" for key in ("numpy / ours", "frame / ours", "whole")),
                f"{each['load']:.1f}",
                _verdict(each["frame / ours"] >= FASTER) if each["n"] >= 1_000_000 else "",
            )
            for each in found
        ],
    )


def lowest_cells(cells: list[Cell]) -> dict[Key, Cell]:
    """The cell with the lowest coverage of the default interval, by metric, gap and n."""
    return {
        (metric, gap, n): min(
            chosen, key=lambda cell: cell.tallies[metric, "conservative"].coverage
        )
        for metric in (*GAP_METRICS, "worst_group_acc")
        for gap in GAPS
        for n in SIZES
        if (chosen := _chosen(cells, metric, gap, n))
    }


def print_coverage(cells: list[Cell], again: dict[Key, Cell], trials: int) -> None:
    """Worst and mean coverage and mean width over populations."""
    kind = "conservative"
    for metric in (*GAP_METRICS, "worst_group_acc"):
        kinds = KINDS if metric in GAP_METRICS else (kind,)
        lines = []
        for gap in GAPS:
            for n in SIZES:
                chosen = _chosen(cells, metric, gap, n)
                once_more = again[metric, gap, n].tallies[metric, kind].coverage
                is_target = gap > 0 or metric not in GAP_METRICS
                lines.append(
                    (
                        gap,
                        f"{n:,}",
                        len(chosen),
                        *(_coverage(chosen, metric, each) for each in kinds),
                        _percent(once_more),
                        _verdict(once_more >= LEAST) if is_target else "",
                    )
                )
        print_table(
            f"{metric}: lowest / mean coverage in % over populations (mean width); `again`: the "
            f"default in its lowest population, once more. {_error(trials)}",
            ("gap", "n", "populations", *kinds, "again", f"≥ {LEAST:.0%}"),
            lines,
        )


def print_power(cells: list[Cell]) -> None:
    """Share of runs that tell the gap from 0; at 0 it is the share of false alarms."""
    lines = []
    for metric in GAP_METRICS:
        for gap in GAPS:
            line = [metric.upper(), gap]
            for n in SIZES:
                shares = [
                    cell.distinguishable[metric] / cell.trials
                    for cell in _chosen(cells, metric, gap, n)
                ]
                low, high = 100 * min(shares), 100 * max(shares)
                line.append(f"{low:.1f} to {high:.1f} ({100 * statistics.mean(shares):.1f})")
            lines.append(line)
    print_table(
        "Runs in % with `distinguishable_from_0`: range over populations (mean); at gap 0 at most "
        f"{1 - CONFIDENCE:.0%}",
        ("", "gap", *(f"n = {n:,}" for n in SIZES)),
        lines,
    )


def print_pairs(cells: list[PairCell], trials: int) -> None:
    """Coverage, width, errors and power of paired differences."""
    for reference in dict.fromkeys(cell.reference for cell in cells):
        lines = []
        of_reference = [cell for cell in cells if cell.reference == reference]
        for kind in TRUTHS:
            for n in sorted({c.n for c in of_reference}):
                chosen = [c for c in of_reference if (c.population.kind, c.n) == (kind, n)]
                for metric in PAIRED:
                    line = [kind, f"{n:,}", len(chosen), metric]
                    lines.append(line + [_pair_text(chosen, metric, way) for way in WAYS])
        print_table(
            f"`compare`, {reference}: lowest / mean coverage in % (mean width) of b − a over "
            "populations; after the semicolon % of samples whose interval leaves out 0, highest / "
            f"mean: errors (!) where there is no difference, else power. {_error(trials)}",
            ("truth", "n", "populations", "metric", *WAYS),
            lines,
        )


def low_pairs(cells: list[PairCell], trials: int) -> list[tuple[str, int]]:
    """Metrics and places of cells whose test inversion may cover less than `LEAST_PAIRED`.

    Of every reference and metric all that are at most a standard error above, or the lowest one.
    """
    doubtful = LEAST_PAIRED + _standard_error(LEAST_PAIRED, trials)
    low = []
    for reference in dict.fromkeys(cell.reference for cell in cells):
        places = [place for place, cell in enumerate(cells) if cell.reference == reference]
        for metric in PAIRED:
            coverage = {place: cells[place].tallies[metric, WAYS[0]].coverage for place in places}
            chosen = [place for place in places if coverage[place] <= doubtful]
            low += [(metric, place) for place in chosen or [min(places, key=coverage.__getitem__)]]
    return low


def print_low_pairs(low: list[tuple[str, PairCell, PairCell]]) -> None:
    """Metric, cell, and the same cell simulated again."""
    lines = []
    for metric, cell, again in low:
        first, second = (each.tallies[metric, WAYS[0]].coverage for each in (cell, again))
        population = f"{cell.population.kind}, {cell.population.groups} groups, n = {cell.n:,}"
        error = _standard_error(second, again.trials)
        lines.append(
            (
                cell.reference,
                metric,
                population,
                f"{cell.truth[metric]:+.3f}",
                _percent(first),
                f"{_percent(second)} ± {_percent(error)}",
                _verdict(second >= LEAST_PAIRED),
            )
        )
    print_table(
        "Populations of low coverage: of each reference and metric all at most a standard error "
        f"above {LEAST_PAIRED:.0%}, or the lowest. `again`: ± standard error, of four times as "
        "many samples, none of which is among the first",
        ("reference", "metric", "population", "b − a", "low", "again", f"≥ {LEAST_PAIRED:.0%}"),
        lines,
    )


def _pair_text(cells: list[PairCell], metric: str, way: str) -> str:
    tallies = [cell.tallies[metric, way] for cell in cells]
    covered = [tally.coverage for tally in tallies]
    width = statistics.mean(tally.mean_width for tally in tallies)
    found = [cell.found[metric, way] / cell.trials for cell in cells]
    is_error = all(abs(cell.truth[metric]) < 1e-6 for cell in cells)
    return (
        f"{_percent(min(covered))} / {_percent(statistics.mean(covered))} ({width:.2f}); "
        f"{'!' * is_error}{_percent(max(found))} / {_percent(statistics.mean(found))}"
    )


def print_many(cells: list[ManyCell]) -> None:
    lines = []
    for cell in cells:
        share = cell.any_found / cell.trials
        error = _standard_error(0.05, cell.trials)
        lines.append(
            (
                cell.gap,
                f"{cell.n:,}",
                f"{_percent(cell.uncorrected / cell.trials)}",
                f"{_percent(share)} ± {_percent(error)}",
                _verdict(share <= 0.05 + 2 * error),
            )
        )
    print_table(
        "`compare_many`, ten models no different from the baseline: % of runs with any accuracy, "
        "DPD or EOD significant",
        ("gap", "n", "uncorrected", "Holm", "≤ 5 %"),
        lines,
    )


def _chosen(cells: list[Cell], metric: str, gap: float, n: int) -> list[Cell]:
    """Cells of one n whose metric has this gap; accuracy goes by the gap of DPD."""
    of = "dpd" if metric == "worst_group_acc" else metric
    return [
        cell
        for cell in cells
        if cell.n == n and math.isclose(cell.truth.values[of], gap, abs_tol=1e-9)
    ]


def _coverage(cells: list[Cell], metric: str, kind: str) -> str:
    tallies = [cell.tallies[metric, kind] for cell in cells]
    covered = [tally.coverage for tally in tallies if tally.made]
    width = statistics.mean(tally.mean_width for tally in tallies if tally.made)
    return f"{_percent(min(covered))} / {_percent(statistics.mean(covered))} ({width:.2f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _standard_error(share: float, trials: int) -> float:
    return math.sqrt(share * (1 - share) / trials)


def _error(trials: int) -> str:
    """What chance does to one coverage, and to the lowest of twenty."""
    error = _standard_error(CONFIDENCE, trials)
    lowest = CONFIDENCE + NormalDist().inv_cdf(1 / 21) * error
    return (
        f"Monte Carlo standard error of a 95 %: {100 * error:.1f} points; the lowest of twenty "
        f"that are 95 % in truth is about {_percent(lowest)}"
    )


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
