"""Coverage and power of paired differences, and how often `compare_many` finds what is not there.

Populations of two models on the same rows: groups of two, three and eight sizes and four that
overlap, the same and other selection rates, gaps that are there, gone or never were. Every sample
is looked at in three ways: the package's test inversion, and percentiles of the paired bootstrap as
they are and mirrored (`basic`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from interval_coverage import CONFIDENCE, Tally
from interval_truths import Truth, many_rows
from numpy.typing import NDArray

from mergekit_fair.fairness import METRICS, MetricSettings, compare_many
from mergekit_fair.fairness.counts import Patterns
from mergekit_fair.fairness.eligible_groups import EligibleGroups
from mergekit_fair.fairness.grouped import Grouped, Sums, drawn_sums
from mergekit_fair.fairness.intervals import Ends, basic, percentile
from mergekit_fair.fairness.pair import PairedCells

PAIRED = ("dpd", "eod", "worst_group_acc")
WAYS = ("inversion", "percentile", "basic")
PAIR_SIZES = (600, 2_000)
SHARED = 0.8  # chance that predictions of a row come from the same random number
BASE = 0.4
SHARES = {2: (0.2, 0.8), 3: (0.05, 0.25, 0.7), 8: (0.02, *[0.14] * 7)}
OVERLAP = 4
_MEMBERS = np.array([0.5, 0.3, 0.1, 0.05])  # shares of four groups that overlap
_EFFECTS = np.array([-0.5, -0.2, 0.3, 0.5])
MODELS = 11  # a baseline and ten others

# (selection rate, gap, who is off) of the first model and of the second, by kind.
_SPREAD, _SMALLEST = "spread", "smallest"
KINDS: dict[str, tuple[tuple[float, float, str, float, float, str], ...]] = {
    "no gaps": ((0.4, 0, _SPREAD, 0.4, 0, _SPREAD),),
    "no gaps, one selects fewer": (
        (0.5, 0, _SPREAD, 0.1, 0, _SPREAD),
        (0.5, 0, _SPREAD, 0.02, 0, _SPREAD),
    ),
    "equal gaps": (
        (0.4, 0.2, _SPREAD, 0.4, 0.2, _SPREAD),
        (0.4, 0.2, _SPREAD, 0.4, 0.2, _SMALLEST),
        (0.5, 0.05, _SPREAD, 0.1, 0.05, _SPREAD),
    ),
    "a gap removed": (
        (0.4, 0.1, _SPREAD, 0.4, 0, _SPREAD),
        (0.15, 0.1, _SMALLEST, 0.15, 0, _SPREAD),
    ),
    "a gap nearly removed": ((0.4, 0.1, _SPREAD, 0.4, 0.02, _SMALLEST),),
    "a gap reduced": (
        (0.4, 0.3, _SPREAD, 0.4, 0.2, _SPREAD),
        (0.5, 0.2, _SPREAD, 0.1, 0.05, _SPREAD),
    ),
}


@dataclass(frozen=True, eq=False)
class Population:
    """Two models of one population of rows.

    Attributes:
        kind: what is true of them.
        groups: how many; `OVERLAP` overlap.
        membership: bool (P, G).
        chances: (P, 2, 2, 2), of a row, by pattern, y and both predictions.
    """

    kind: str
    groups: int
    membership: NDArray[np.bool_]
    chances: NDArray[np.float64]

    @property
    def patterns(self) -> Patterns:
        names = tuple(f"g{index}" for index in range(self.membership.shape[1]))
        nobody = np.zeros(0, dtype=np.intp)
        return Patterns(names, self.membership, None, slice(None), nobody, 0)

    def pair(self, counts: NDArray[np.int64]) -> PairedCells:
        cells = np.zeros((*counts.shape[:2], 3, 3), dtype=np.int64)
        cells[..., :2, :2] = counts
        return PairedCells(self.patterns, cells, 1)

    def differences(self, settings: MetricSettings) -> dict[str, float]:
        """The true b − a."""
        many = np.round(self.chances * 1e9).astype(np.int64)
        return _values(self.pair(many), settings)


def populations() -> Iterator[Population]:
    for kind, cases in KINDS.items():
        for groups in (*SHARES, OVERLAP):
            for level_a, gap_a, place_a, level_b, gap_b, place_b in cases:
                if groups in (2, OVERLAP) and _SMALLEST in (place_a, place_b):
                    continue  # the same as spread, or not defined
                membership, shares = _rows(groups)
                a = _rates(level_a, gap_a, place_a, groups, membership)
                b = _rates(level_b, gap_b, place_b, groups, membership)
                both = SHARED * np.minimum(a, b) + (1 - SHARED) * a * b
                joint = np.stack([1 - a - b + both, b - both, a - both, both], axis=-1)
                rows = np.outer(shares, [1 - BASE, BASE])[..., np.newaxis, np.newaxis]
                # Rounding may leave −1e-17.
                chances = rows * np.maximum(joint, 0).reshape(*joint.shape[:2], 2, 2)
                yield Population(kind, groups, membership, chances / chances.sum())


def _rows(groups: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    if groups != OVERLAP:
        return np.eye(groups, dtype=np.bool_), np.array(SHARES[groups])
    bits = np.arange(2**OVERLAP)[:, np.newaxis] >> np.arange(OVERLAP) & 1
    return bits.astype(bool), np.prod(np.where(bits, _MEMBERS, 1 - _MEMBERS), axis=1)


def _rates(
    level: float, gap: float, place: str, groups: int, membership: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """P(ŷ = 1) by pattern and y, (P, 2): around the level, FPR and TPR with one gap."""
    tpr = min(1.75 * level, 0.98)
    around = np.array([(level - BASE * tpr) / (1 - BASE), tpr])
    shares = _rows(groups)[1]
    if groups == OVERLAP:
        moved = gap * (membership @ _EFFECTS)
        moved = moved - shares @ moved
        return np.clip(around + moved[:, np.newaxis], 0.005, 0.995)
    where = np.linspace(0, 1, groups) if place == _SPREAD else np.eye(groups)[0]
    lowest = np.clip(around - gap * (shares @ where), 0.005, 0.995 - gap)
    return np.asarray(lowest + gap * where[:, np.newaxis])


@dataclass
class PairCell:
    """All trials of one population, reference and n.

    Attributes:
        truth: metric → b − a.
        tallies: (metric, way) → tally.
        found: (metric, way) → trials whose interval leaves out 0.
    """

    population: Population
    reference: str
    n: int
    trials: int
    truth: dict[str, float]
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    found: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, metric: str, way: str, ends: Ends | None) -> None:
        self.tallies.setdefault((metric, way), Tally()).add(ends, self.truth[metric])
        leaves_out_0 = ends is not None and not ends[0] <= 0 <= ends[1]
        self.found[metric, way] = self.found.get((metric, way), 0) + leaves_out_0

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.population.kind,
            "groups": self.population.groups,
            "reference": self.reference,
            "n": self.n,
            "trials": self.trials,
            "truth": self.truth,
            "intervals": {" ".join(key): tally.to_dict() for key, tally in self.tallies.items()},
            "found": {" ".join(key): count for key, count in self.found.items()},
        }


def simulate_pair(
    population: Population,
    reference: str,
    n: int,
    trials: int,
    draws: int,
    seed: Iterable[int],
) -> PairCell:
    """Compare `trials` samples of n rows."""
    rng = np.random.default_rng(list(seed))
    settings = MetricSettings(reference=reference, confidence=CONFIDENCE, draws=draws)
    cell = PairCell(population, reference, n, trials, population.differences(settings))
    chances = population.chances
    for trial in range(trials):
        counts = rng.multinomial(n, chances.reshape(-1)).reshape(chances.shape)
        pair = population.pair(counts)
        own = MetricSettings(reference=reference, confidence=CONFIDENCE, draws=draws, seed=trial)
        found, value = pair.differences(own, PAIRED), _values(pair, own)
        drawn = _drawn(pair, own)
        for metric in PAIRED:
            interval = found[metric]
            known = interval.low is not None and interval.high is not None
            ends = (interval.low, interval.high) if known else None
            cell.add(metric, "inversion", ends)  # type: ignore[arg-type]
            defined = drawn[metric][np.isfinite(drawn[metric])]
            for way, limits in (("percentile", percentile), ("basic", basic)):
                made = limits(value[metric], defined, CONFIDENCE) if known else None
                cell.add(metric, way, made)
    return cell


def _values(pair: PairedCells, settings: MetricSettings) -> dict[str, float]:
    tables = [pair.patterns.table(pair.cells.sum(axis=axis)) for axis in (-1, -2)]
    counts = [table.counts for table in tables]
    who = [EligibleGroups.of(table, settings) for table in tables]
    return {name: float(each) for name, each in _b_minus_a(counts, who, settings).items()}


def _drawn(pair: PairedCells, settings: MetricSettings) -> dict[str, NDArray[np.float64]]:
    """b − a of plain bootstrap draws."""
    flat = pair.cells.reshape(-1)
    kinds = np.flatnonzero(flat)
    sums = [
        Sums(pair.patterns.membership, None, kinds // 18, kinds // 9 % 2 * 3 + answer)
        for answer in (kinds // 3 % 3, kinds % 3)
    ]
    drawn = drawn_sums(flat[kinds], sums, settings.draws, settings.seed)
    tables = [pair.patterns.table(pair.cells.sum(axis=axis)) for axis in (-1, -2)]
    who = [EligibleGroups.of(table, settings) for table in tables]
    return _b_minus_a(drawn, who, settings)


def _b_minus_a(
    counts: list[Grouped], who: list[EligibleGroups], settings: MetricSettings
) -> dict[str, Any]:
    a, b = (
        {name: METRICS[name].values(each, eligible, settings.reference) for name in PAIRED}
        for each, eligible in zip(counts, who, strict=True)
    )
    return {name: b[name] - a[name] for name in PAIRED}


@dataclass
class ManyCell:
    """Runs of `compare_many` in which all models are equally good.

    Attributes:
        any_found: runs with a significant accuracy, DPD or EOD after Holm's correction.
        uncorrected: runs with a p-value of at most 5 %.
    """

    gap: float
    n: int
    trials: int
    any_found: int = 0
    uncorrected: int = 0

    def to_dict(self) -> dict[str, Any]:
        return self.__dict__


def simulate_many(gap: float, n: int, trials: int, seed: Iterable[int]) -> ManyCell:
    """Compare ten models with an eleventh, all of one truth, with as many draws as by default."""
    rng = np.random.default_rng(list(seed))
    truth = Truth.of(gap, "linear", 0.4, 0.4)
    cell = ManyCell(gap, n, trials)
    for trial in range(trials):
        labels, predictions, groups = many_rows(truth, MODELS, SHARED, n, rng)
        found = compare_many(labels, predictions, groups, baseline="model 0", seed=trial)
        cell.any_found += any(found.significant(*key) for key in found.adjusted)
        cell.uncorrected += any(
            found.differences[name].metrics[metric].p_value <= 1 - CONFIDENCE  # type: ignore[operator]
            for name, metric in found.adjusted
        )
    return cell
