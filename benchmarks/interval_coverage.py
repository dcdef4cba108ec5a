"""How often intervals contain the truth: simulation through the package's own `Samples`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from interval_truths import NAMES, PATTERNS, Truth

from mergekit_fair.fairness import CountTable, MetricSettings
from mergekit_fair.fairness.intervals import Ends, Interval, Samples, around, percentile
from mergekit_fair.fairness.metrics import HEADLINE_GAPS, METRICS
from mergekit_fair.fairness.rates import gap
from mergekit_fair.fairness.uncertainty import gap_uncertainty

CONFIDENCE = 0.95
KINDS = ("percentile", "basic", "bias-corrected", "conservative", "band")


@dataclass
class Tally:
    """What became of one kind of interval over trials."""

    below: int = 0  # the truth lies below the interval
    above: int = 0
    covered: int = 0
    missing: int = 0  # there is no interval
    width: float = 0.0

    def add(self, ends: Ends | None, truth: float) -> None:
        if ends is None:
            self.missing += 1
            return
        low, high = ends
        self.width += high - low
        self.below += truth < low - 1e-12
        self.above += truth > high + 1e-12
        self.covered += low - 1e-12 <= truth <= high + 1e-12

    @property
    def made(self) -> int:
        return self.below + self.above + self.covered

    @property
    def coverage(self) -> float:
        return self.covered / self.made if self.made else float("nan")

    @property
    def mean_width(self) -> float:
        return self.width / self.made if self.made else float("nan")

    def to_dict(self) -> dict[str, float]:
        return {
            "coverage": self.coverage,
            "width": self.mean_width,
            "below": self.below,
            "above": self.above,
            "missing": self.missing,
        }


@dataclass
class Cell:
    """All trials of one population and one n.

    Attributes:
        tallies: (metric, kind) → tally.
        distinguishable: metric → trials that call the gap distinguishable from 0.
    """

    truth: Truth
    n: int
    trials: int
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    distinguishable: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HEADLINE_GAPS, 0))

    def to_dict(self) -> dict[str, Any]:
        return {
            "place": self.truth.place,
            "level": self.truth.level,
            "base_rate": self.truth.base,
            "truth": self.truth.values,
            "n": self.n,
            "trials": self.trials,
            "distinguishable": self.distinguishable,
            "intervals": {
                f"{metric} {kind}": tally.to_dict()
                for (metric, kind), tally in self.tallies.items()
            },
        }


def simulate(truth: Truth, n: int, trials: int, draws: int, seed: Iterable[int]) -> Cell:
    """Measure `trials` samples of n rows.

    Args:
        seed: of the samples; the bootstrap of trial t has seed t.
    """
    rng = np.random.default_rng(list(seed))
    cell = Cell(truth, n, trials)
    for trial in range(trials):
        table = CountTable(NAMES, PATTERNS, truth.sample(n, rng))
        settings = MetricSettings(confidence=CONFIDENCE, draws=draws, seed=trial)
        samples = Samples.of(table, settings)
        worst = METRICS["worst_group_acc"].interval(samples)
        _add(cell, "worst_group_acc", "conservative", _ends(worst))
        for metric in HEADLINE_GAPS:
            _add_gap(cell, samples, metric)
    return cell


def _add_gap(cell: Cell, samples: Samples, name: str) -> None:
    """Every kind of interval of DPD or EOD; `conservative` is the one that users get."""
    metric = HEADLINE_GAPS[name]
    interval = metric.interval(samples)
    more = gap_uncertainty(metric, samples, interval)
    value = float("nan") if interval.value is None else interval.value
    drawn = gap(metric.deviations(samples, samples.drawn), samples.settings.reference)
    ends = {
        "percentile": _ends(around(value, (drawn,), percentile, CONFIDENCE)),
        "basic": more.basic,
        "bias-corrected": more.bias_corrected,
        "conservative": _ends(interval),
        "band": more.band,
    }
    for kind in KINDS:
        _add(cell, name, kind, ends[kind])
    cell.distinguishable[name] += bool(more.distinguishable_from_0)


def _add(cell: Cell, metric: str, kind: str, ends: Ends | None) -> None:
    tally = cell.tallies.setdefault((metric, kind), Tally())
    tally.add(ends, cell.truth.values[metric])


def _ends(interval: Interval) -> Ends | None:
    if interval.low is None or interval.high is None:
        return None
    return interval.low, interval.high
