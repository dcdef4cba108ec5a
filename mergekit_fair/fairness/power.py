"""The smallest gap, and the smallest difference of two models, that rows can show.

A gap can be *shown* if the tool's own tests tell it from 0 in 80 % of samples such as these rows.
It is the minimum detectable effect of a study. It depends on rows, groups and labels, which are
known before anything is trained, and on a model's rates, which are assumed.

How: rates of groups are taken for normal, with the variances and covariances that these rows give
(groups may overlap, weights and clusters cost rows); the test's limit is that of the conservative
interval, the quantile of the range of the rates' errors. No model runs and no row is drawn.
`benchmarks/power.py` compares it with samples that go through `measure` and `compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.fairness.counts import Patterns
from mergekit_fair.fairness.eligible_groups import GroupSizes
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.schema import Record

Floats = NDArray[np.float64]

POWER = 0.8  # share of samples in which what can be shown is shown
_SAMPLES = 2000
_STEPS = 11  # of halving: gaps are found to 1 / 2048
# Of more than two groups nobody knows which decide: measured by `benchmarks/power.py`.
_WIDER = 1.35
# Metric → the rates that it compares: rows of `Study.errors`.
_RATES = {"dpd": (0,), "eod": (1, 2)}


class Assumed(Record):
    """Rates of a model that is not measured yet, and how far another one agrees with it.

    Attributes:
        selection_rate, tpr, fpr: of every group but the one that stands out.
        agreement: share of rows of which two models predict the same.
        intracluster_correlation: of errors in a cluster; None: rows have no clusters.
    """

    selection_rate: float
    tpr: float
    fpr: float
    agreement: float = 0.9
    intracluster_correlation: float | None = None

    @classmethod
    def of(cls, base_rate: float, tpr: float = 0.75, **more: Any) -> Assumed:
        """A model that selects as many rows as have a positive label.

        >>> Assumed.of(0.2).fpr
        0.0625
        """
        fpr = base_rate * (1 - tpr) / (1 - base_rate) if base_rate < 1 else 0.0
        return cls(selection_rate=base_rate, tpr=tpr, fpr=min(fpr, 1.0), **more)


class Shown(Record):
    """What can be shown where one group stands out from all others.

    Attributes:
        group: its name.
        rows: of it that the rate is a share of.
        gap: the smallest gap of one model.
        difference: the smallest difference of two models' gaps, the second half as large as the
            first. None, as of the gap: not even the largest that there can be.
    """

    group: str
    rows: int
    gap: float | None
    difference: float | None = None


class Detectable(Record):
    """Minimum detectable effects of rows.

    Attributes:
        n: rows.
        power: share of samples in which they are shown.
        confidence: of the intervals.
        tests: looks that p-values of differences are corrected for.
        assumed: of the models.
        dpd, eod: where the smallest group stands out that decides, and where the largest does;
            EOD where TPR or FPR alone differ, whichever has fewer rows. Empty: fewer than two
            groups decide.
    """

    n: int
    power: float = POWER
    confidence: float
    tests: int
    assumed: Assumed
    dpd: list[Shown] = []
    eod: list[Shown] = []


@dataclass(frozen=True, eq=False)
class Study:
    """What is known of rows before a model predicts on them.

    Attributes:
        names: of G groups.
        n: number of rows.
        base_rate: share of positive labels.
        rows: (3, G), how many rows of a group its selection rate, TPR and FPR are shares of.
        errors: (3, G, G), covariances of the errors of a rate whose p (1 − p) is 1.
        decides: bool (3, G).
        settings: confidence, and who decides.
        correlation: of errors in a cluster; None: rows have no clusters.
    """

    names: tuple[str, ...]
    n: int
    base_rate: float
    rows: Floats
    errors: Floats
    decides: NDArray[np.bool_]
    settings: MetricSettings
    correlation: float | None

    @classmethod
    def of(
        cls,
        labels: NDArray[Any],
        groups: Any,
        settings: MetricSettings,
        *,
        weights: ArrayLike | None = None,
        clusters: ArrayLike | None = None,
        correlation: float = 0.1,
    ) -> Study:
        """Of rows.

        Args:
            labels: (n,), 0 and 1.
            groups, weights, clusters: as in `measure`.
            settings: `min_group_size` and `exclude` say which groups decide.
            correlation: of errors in a cluster (intracluster correlation).

        Raises:
            MeasurementError: as `measure`.
        """
        patterns = Patterns.of(groups, len(labels), weights)
        y = np.asarray(labels)[patterns.rows]
        w = np.ones(len(y)) if patterns.weights is None else patterns.weights[patterns.of_row]
        owner = None if clusters is None else np.asarray(clusters)[patterns.rows]
        member = patterns.membership.astype(np.float64)[patterns.of_row]
        parts = [
            _errors(member[of_rate], w[of_rate], None if owner is None else owner[of_rate],
                    correlation)
            for of_rate in (y >= 0, y == 1, y == 0)
        ]  # fmt: skip
        rows = np.stack([member[of_rate].sum(axis=0) for of_rate in (y >= 0, y == 1, y == 0)])
        by_label, total = rows[:0:-1].T, [int((y == label).sum()) for label in (0, 1)]
        sizes = GroupSizes.of(patterns.names, by_label, total, settings)
        return cls(
            names=patterns.names,
            n=len(y),
            base_rate=float(np.average(y, weights=w)),
            rows=rows,
            errors=np.stack(parts),
            decides=sizes.deciding((*DPD_RATES, *EOD_RATES)),
            settings=settings,
            correlation=None if owner is None else correlation,
        )


def _errors(
    member: Floats, weights: Floats, owner: NDArray[Any] | None, correlation: float
) -> Floats:
    """(G, G), of rows (n, G): Σ w² over shared rows / (W_g W_h), and what clusters add."""
    weighted = member * weights[:, np.newaxis]
    shared, total = weighted.T @ weighted, weighted.sum(axis=0)
    if owner is not None:
        _, code = np.unique(owner, return_inverse=True)
        of_cluster = np.zeros((int(code.max(initial=-1)) + 1, member.shape[1]))
        np.add.at(of_cluster, code, weighted)
        shared = (1 - correlation) * shared + correlation * of_cluster.T @ of_cluster
    both = np.outer(total, total)
    return np.asarray(np.divide(shared, both, out=np.zeros_like(both), where=both > 0))


def detectable(study: Study, assumed: Assumed | None = None, *, tests: int = 3) -> Detectable:
    """The smallest DPD and EOD that rows can show, of one model and as a difference of two.

    Args:
        study: the rows.
        assumed: of the models; None: as `Assumed.of` the labels' base rate.
        tests: how many p-values are corrected together: metrics × models that are compared.

    >>> y = np.array([0, 0, 1, 0] * 300)
    >>> groups = np.repeat(["a", "b", "b", "c"], 300)
    >>> found = detectable(Study.of(y, groups, MetricSettings(min_group_size=30)))
    >>> [(shown.group, shown.rows, round(shown.gap, 2)) for shown in found.dpd]
    [('a', 300, 0.1), ('b', 600, 0.09)]
    """
    assumed = assumed or Assumed.of(study.base_rate)
    assumed = assumed.model_copy(update={"intracluster_correlation": study.correlation})
    found = {
        name: _shown(study, assumed, rates, tests)
        for name, rates in _RATES.items()
        if all(study.decides[rate].sum() >= 2 for rate in rates)
    }
    return Detectable(
        n=study.n,
        confidence=study.settings.confidence,
        tests=tests,
        assumed=assumed,
        dpd=found.get("dpd", []),
        eod=found.get("eod", []),
    )


def _shown(study: Study, assumed: Assumed, rates: Sequence[int], tests: int) -> list[Shown]:
    """Where the smallest, and the largest, group that decides stands out."""
    sizes = np.where(study.decides, study.rows, np.nan)
    rate = min(rates, key=lambda each: float(np.nanmin(sizes[each])))
    found = []
    for group in dict.fromkeys((int(np.nanargmin(sizes[rate])), int(np.nanargmax(sizes[rate])))):
        model = _Model.of(study, assumed, rates, (rate, group), tests)
        gap, difference = _smallest(model.power), _smallest(model.power_of_difference)
        name, rows = study.names[group], int(study.rows[rate, group])
        found.append(Shown(group=name, rows=rows, gap=gap, difference=difference))
    return found


def _smallest(power: Callable[[float], float]) -> float | None:
    """The smallest size in (0, 1] that is shown; None: not even 1."""
    low, high = 0.0, 1.0
    if power(high) < POWER:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


@dataclass(frozen=True, eq=False)
class _Rate:
    """One rate of the groups that decide about it.

    Attributes:
        level: assumed, of all rows.
        rows: (G,).
        own, other: (samples, G), errors of two unrelated models whose p (1 − p) is 1.
        stands_out: which group does; None: none.
    """

    level: float
    rows: Floats
    own: Floats
    other: Floats
    stands_out: int | None

    def rates(self, gap: float) -> Floats:
        """(G,): one group above all others, the mean over rows the level where that can be."""
        if self.stands_out is None:
            return np.full(len(self.rows), self.level)
        share = float(self.rows[self.stands_out] / self.rows.sum())
        rates = np.full(len(self.rows), min(max(self.level - gap * share, 0.0), 1.0 - gap))
        rates[self.stands_out] += gap
        return rates

    def smoothed(self, gap: float) -> Floats:
        return np.asarray((self.rows * self.rates(gap) + 0.5) / (self.rows + 1))

    def without_groups(self, gap: float) -> Floats:
        mean = float(self.rows @ self.rates(gap) / self.rows.sum())
        return np.full(len(self.rows), mean)

    def pair(self, gaps: tuple[float, float], agreement: float) -> tuple[Floats, Floats]:
        """(samples, G) each: rates of two models that agree on that share of rows."""
        a, b = map(self.rates, gaps)
        of_a, of_b = a * (1 - a), b * (1 - b)
        scale = np.sqrt(of_a * of_b)
        shared = (of_a + of_b - (1 - agreement - (a - b) ** 2)) / 2
        alike = np.divide(shared, scale, out=np.zeros_like(scale), where=scale > 0).clip(-1, 1)
        of_second = alike * self.own + np.sqrt(1 - alike**2) * self.other
        return a + self.own * np.sqrt(of_a), b + of_second * np.sqrt(of_b)


@dataclass(frozen=True, eq=False)
class _Model:
    """A model whose gap is that one group stands out in one of the rates that a metric compares."""

    rates: Sequence[_Rate]
    confidence: float
    agreement: float
    further: float

    @classmethod
    def of(
        cls,
        study: Study,
        assumed: Assumed,
        rates: Sequence[int],
        at: tuple[int, int],
        tests: int,
    ) -> _Model:
        """Of the rates' numbers, and of the rate and the group that stand out."""
        levels = (assumed.selection_rate, assumed.tpr, assumed.fpr)
        rng = np.random.default_rng(study.settings.seed)
        parts = []
        for rate in rates:
            deciding = np.flatnonzero(study.decides[rate])
            covariance = study.errors[rate][np.ix_(deciding, deciding)]
            own, other = (_normal(covariance, rng) for _ in range(2))
            position = int(np.flatnonzero(deciding == at[1])[0]) if rate == at[0] else None
            parts.append(_Rate(levels[rate], study.rows[rate, deciding], own, other, position))
        confidence = study.settings.confidence
        tail = (1 - confidence) / 2 / max(tests, 1)
        z = NormalDist().inv_cdf
        further = z(1 - tail) / z((1 + confidence) / 2)
        return cls(parts, confidence, assumed.agreement, further)

    def power(self, gap: float) -> float:
        """Share of samples in which a gap is told from 0: its conservative interval leaves 0 out,
        and permuted groups have none as large."""
        return float((self._found(gap) > self._limit(gap)).mean())

    def power_of_difference(self, difference: float) -> float:
        """Share of samples in which a gap is shown to be half of another, which is told from 0."""
        gaps = min(2 * difference, 1.0), min(2 * difference, 1.0) - difference
        both = [rate.pair(gaps, self.agreement) for rate in self.rates]
        first, second = (_largest([pair[number] for pair in both]) for number in (0, 1))
        change = first - second
        moved = _largest(
            [
                (second - first) - (rate.rates(gaps[1]) - rate.rates(gaps[0]))
                for rate, (first, second) in zip(self.rates, both, strict=True)
            ]
        )
        # As of one gap; so far out in the tail there are no samples.
        limit = np.quantile(moved, (1 + self.confidence) / 2) * self.further
        if max(len(rate.rows) for rate in self.rates) > 2:
            limit *= _WIDER
        return float(((change > limit) & (first > self._limit(gaps[0]))).mean())

    def _found(self, gap: float) -> Floats:
        return _largest([r.rates(gap) + r.own * _spread(r.rates(gap)) for r in self.rates])

    def _limit(self, gap: float) -> float:
        errors = _largest([r.other * _spread(r.smoothed(gap)) for r in self.rates])
        chance = _largest([r.other * _spread(r.without_groups(gap)) for r in self.rates])
        of_interval = np.quantile(errors, (1 + self.confidence) / 2)
        return float(max(of_interval, np.quantile(chance, self.confidence)))


def _largest(rates: Sequence[Floats]) -> Floats:
    """(samples,): the largest range of rates (samples, G)."""
    return np.asarray(np.max([each.max(axis=1) - each.min(axis=1) for each in rates], axis=0))


def _spread(rates: Floats) -> Floats:
    return np.sqrt(rates * (1 - rates))


def _normal(covariance: Floats, rng: np.random.Generator) -> Floats:
    """(samples, G)."""
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(rng.standard_normal((_SAMPLES, len(covariance))) @ factor.T)
