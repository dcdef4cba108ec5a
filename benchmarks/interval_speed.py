"""Seconds of a bootstrap: ours on counts, fairlearn's on rows, in turn in one process."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from numpy.typing import NDArray
from tables import ratios

from mergekit_fair.fairness import CountTable, Groups, compare, measure
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.rates import gap_of
from mergekit_fair.fairness.smoothing import resampled as redrawn

DRAWS = 10_000
REPEATS = 7
_THEIRS = {"dpd": demographic_parity_difference, "eod": equalized_odds_difference}
_FRAME = {"selection": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate}


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows of 8 groups; with `patterns`, a row carries one of so many sets of groups."""

    labels: NDArray[np.int8]
    first: NDArray[np.int8]
    second: NDArray[np.int8]
    names: list[str]
    masks: dict[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, n: int, seed: int, patterns: int = 8) -> Rows:
        rng = np.random.default_rng(seed)
        sets = np.eye(8, dtype=np.bool_)
        if patterns > 8:
            codes = rng.choice(np.arange(1, 256), patterns, replace=False)
            sets = (codes[:, np.newaxis] >> np.arange(8) & 1).astype(np.bool_)
        which = rng.integers(0, patterns, n)
        labels = (rng.random(n) < 0.4).astype(np.int8)
        chance = 0.2 + 0.4 * labels + 0.02 * (which % 8)
        common = rng.random(n)
        second = np.where(rng.random(n) < 0.8, common, rng.random(n))
        return cls(
            labels,
            (common < chance).astype(np.int8),
            (second < chance).astype(np.int8),
            [f"g{index}" for index in which],
            {f"g{index}": sets[which, index] for index in range(8)},
        )


def bootstrap(table: CountTable, draws: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Replicates of DPD and EOD from counts: (draws,) each."""
    drawn = redrawn(table, draws, seed)
    usable = np.ones(len(table.groups), dtype=np.bool_)
    return {name: gap_of(metric.rates, drawn, usable) for name, metric in HEADLINE_GAPS.items()}


def resampled(rows: Rows, draws: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """The same from fairlearn's differences of resampled rows."""
    rng = np.random.default_rng(seed)
    names = np.asarray(rows.names)
    found: dict[str, list[float]] = {name: [] for name in _THEIRS}
    for _ in range(draws):
        pick = rng.integers(0, len(names), len(names))
        for name, gap in _THEIRS.items():
            found[name].append(
                gap(rows.labels[pick], rows.first[pick], sensitive_features=names[pick])
            )
    return {name: np.array(values) for name, values in found.items()}


def recounted(table: CountTable, draws: int, seed: int) -> NDArray[np.int64]:
    """What a bootstrap of rows costs without pandas: pick n rows and count their cells.

    DPD and EOD are not computed here, which can only make it look faster.
    """
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(table.cells.size), table.cells.reshape(-1).astype(np.int64))
    drawn = [
        np.bincount(cell[rng.integers(0, cell.size, cell.size)], minlength=table.cells.size)
        for _ in range(draws)
    ]
    return np.stack(drawn)


def time_bootstrap(n: int, patterns: int, seed: int) -> dict[str, Any]:
    """Seconds of `Groups.of`, tally and 10,000 replicates of DPD and EOD."""
    rows = Rows.of(n, seed, patterns)
    groups = Groups.of(rows.masks, n)
    table = CountTable.tally(rows.labels, rows.first, groups)
    return {
        "n": n,
        "patterns": len(table.patterns),
        "groups_from_masks": _seconds(lambda: Groups.of(rows.masks, n)),
        "tally": _seconds(lambda: CountTable.tally(rows.labels, rows.first, groups)),
        "bootstrap": _seconds(lambda: bootstrap(table, DRAWS, seed)),
        "load": os.getloadavg()[0],
    }


def time_whole(n: int, seed: int) -> dict[str, Any]:
    """Seconds of reading labels, of `measure` and of `compare` with their 2,000 draws."""
    rows = Rows.of(n, seed)
    groups = Groups.of(rows.masks, n)
    return {
        "n": n,
        "groups_from_labels": _seconds(lambda: Groups.of(rows.names, n), 3),
        "measure": _seconds(lambda: measure(rows.labels, rows.first, groups)),
        "compare": _seconds(lambda: compare(rows.labels, rows.first, rows.second, groups)),
        "load": os.getloadavg()[0],
    }


def time_fairlearn(n: int, seed: int, replicated: int, rounds: int) -> dict[str, Any]:
    """Seconds a replicate, all four ways in turn in every round."""
    rows = Rows.of(n, seed)
    start = time.perf_counter()
    table = CountTable.tally(rows.labels, rows.first, Groups.of(rows.masks, n))
    tally = time.perf_counter() - start
    bootstrap(table, DRAWS, seed)  # warm
    found: dict[str, list[float]] = {"ours": [], "numpy": [], "frame": [], "differences": []}
    for number in range(rounds):
        found["ours"].append(_a_replicate(bootstrap, table, DRAWS, number))
        found["numpy"].append(_a_replicate(recounted, table, replicated, number))
        found["differences"].append(_a_replicate(resampled, rows, (replicated + 1) // 2, number))
        # A frame with one replicate is subtracted, so that what is left is replicates.
        one, more = (
            count * _a_replicate(_frame, rows, count, number) for count in (1, 1 + replicated)
        )
        found["frame"].append((more - one) / replicated)
    whole = [
        DRAWS * theirs / (tally + DRAWS * ours)
        for theirs, ours in zip(found["frame"], found["ours"], strict=True)
    ]
    return {
        "n": n,
        **{name: statistics.median(seconds) for name, seconds in found.items()},
        "tally": tally,
        **{
            f"{name} / ours": statistics.median(ratios(found[name], found["ours"]))
            for name in ("numpy", "frame", "differences")
        },
        "whole": statistics.median(whole),
        "load": os.getloadavg()[0],
    }


def _a_replicate(job: Callable[..., Any], data: Any, draws: int, seed: int) -> float:
    start = time.perf_counter()
    job(data, draws, seed)
    return (time.perf_counter() - start) / draws


def same_distribution(n: int, seed: int, replicated: int) -> list[dict[str, Any]]:
    """Mean and standard deviation of replicates, and the differences in standard errors."""
    rows = Rows.of(n, seed)
    table = CountTable.tally(rows.labels, rows.first, Groups.of(rows.masks, n))
    ours, theirs = bootstrap(table, DRAWS, seed), resampled(rows, replicated, seed)
    return [_moments(name, ours[name], theirs[name]) for name in HEADLINE_GAPS]


def _moments(name: str, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    means, deviations, errors = [], [], []
    for values in (ours, theirs):
        apart = values - values.mean()
        deviation = float(apart.std())
        # Of a standard deviation: sqrt((m4 − sd⁴) / (4 sd² draws)).
        spread = np.sqrt((np.mean(apart**4) - deviation**4) / len(values)) / (2 * deviation)
        means.append(float(values.mean()))
        deviations.append(deviation)
        errors.append((deviation / np.sqrt(len(values)), float(spread)))
    of_mean, of_deviation = (float(np.hypot(*pair)) for pair in zip(*errors, strict=True))
    return {
        "gap": name,
        "mean": means,
        "sd": deviations,
        "mean_z": (means[0] - means[1]) / of_mean,
        "sd_z": (deviations[0] - deviations[1]) / of_deviation,
    }


def _frame(rows: Rows, replicated: int, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MetricFrame(
            metrics=_FRAME,
            y_true=rows.labels,
            y_pred=rows.first,
            sensitive_features=rows.names,
            n_boot=replicated,
            ci_quantiles=[0.025, 0.975],
            random_state=seed,
        )


def _seconds(job: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The median of several runs."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        found.append(time.perf_counter() - start)
    return statistics.median(found)
