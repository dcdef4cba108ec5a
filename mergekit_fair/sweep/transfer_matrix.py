"""What a step along one group's vector does to every group: the measured transfer matrix.

The target model (FFT, say) and, for every candidate group g, target + step · Δ_g have predicted
the same validation rows. For every injected g and every group h

    ∂metric_h/∂λ_g ≈ (metric_h(target + step · Δ_g) − metric_h(target)) / step

with the metrics `harm` = (DPD_h + EOD_h) / 2, each of h against all other rows, and `acc`,
`selection_rate`, `tpr`, `fpr` of the rows of h. Where all models have scores they are soft rates,
and the same of predictions stands beside them.

Source: METHODS §5, "Safe injection". `transfer_effects` says what soft rates are and makes the
intervals, `verdicts` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.clusters import cluster_codes
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.eligible_groups import MAX_UNANSWERED, EligibleGroups
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES, Mask, Values, is_degenerate
from mergekit_fair.fairness.settings import MetricSettings
from mergekit_fair.fairness.weights import Weighted
from mergekit_fair.sweep.transfer_effects import (
    METRICS,
    Answers,
    Ends,
    PairedRows,
    effects,
    spread_of_scores,
    temperature,
)

_RATES = (*DPD_RATES, *EOD_RATES)
N_ENDS = 3  # value, low, high
KINDS = 2  # harm and accuracy, on which a verdict rests


@dataclass(frozen=True, eq=False)
class Changes:
    """Stepped model minus target: metric of METRICS → (G, H), in metric units, in [−1, 1].

    Attributes:
        value: NaN where a rate is undefined.
        low, high: ends of paired intervals at `level`, each by itself.
    """

    value: dict[str, Values]
    low: dict[str, Values]
    high: dict[str, Values]
    level: float

    @classmethod
    def of(cls, found: list[list[dict[str, Ends]]], level: float) -> Changes:
        """Of every stepped model, every group."""
        value, low, high = (
            {key: _matrix(found, key, at) for key in METRICS} for at in range(N_ENDS)
        )
        return cls(value, low, high, level)

    def to_dict(self) -> dict[str, Any]:
        """Metric → `value`, `low`, `high`: G lists of H numbers; None is undefined."""
        return {key: _lists(self.value[key], self.low[key], self.high[key]) for key in METRICS}


@dataclass(frozen=True, eq=False)
class Transfer:
    """Differences target + step · Δ_g minus target, for G injected groups and H groups of rows.

    Attributes:
        injected: the G candidates, in the order given.
        groups: the H groups of the rows.
        sizes: int (H,), their rows.
        deciding: bool (H,), those whose accuracy a verdict rests on.
        deciding_gaps: bool (H,), those of them whose harm it rests on, too.
        step: λ_g of the measured models; not 0.
        change: of soft rates where there are scores, else of predictions.
        hard: of predictions, where `change` is of soft rates: their intervals hold together, for
            all deciding groups and both harms of an injection (Bonferroni).
        temperatures: (H,), τ of every group; None without soft rates.
        degenerate: bool (G,), whether the stepped model's predictions are (nearly) constant.
        warnings: what concerns all rows.
    """

    injected: tuple[str, ...]
    groups: tuple[str, ...]
    sizes: NDArray[np.int64]
    deciding: Mask
    deciding_gaps: Mask
    step: float
    change: Changes
    hard: Changes | None
    temperatures: Values | None
    degenerate: Mask
    warnings: tuple[str, ...]

    def slopes(self, metric: str) -> tuple[Values, Values, Values]:
        """∂metric_h/∂λ_g as (value, low, high), each (G, H), per unit of λ."""
        value, low, high = (
            part[metric] / self.step
            for part in (self.change.value, self.change.low, self.change.high)
        )
        return (value, low, high) if self.step > 0 else (value, high, low)

    def to_dict(self) -> dict[str, Any]:
        """JSON: `change` in metric units at this step, `slope` per unit of λ; None is undefined."""
        decides = zip(self.groups, self.sizes, self.deciding, strict=True)
        flat = zip(self.injected, self.degenerate, strict=True)
        content: dict[str, Any] = {
            "step": self.step,
            "injected": list(self.injected),
            "groups": {name: {"n": int(n), "decides": bool(yes)} for name, n, yes in decides},
            "interval_level": self.change.level,
            "degenerate": [name for name, is_flat in flat if is_flat],
            "rates": "hard" if self.hard is None else "soft",
            "change": self.change.to_dict(),
            "slope": {key: _lists(*self.slopes(key)) for key in METRICS},
            "warnings": list(self.warnings),
        }
        if self.hard is not None and self.temperatures is not None:
            content["hard"] = self.hard.to_dict()
            content["hard_level"] = self.hard.level
            content["temperatures"] = dict(
                zip(self.groups, map(float, self.temperatures), strict=True)
            )
        return content


def transfer_matrix(
    target: Predictions,
    stepped: Mapping[str, Predictions],
    settings: MetricSettings,
    *,
    step: float,
) -> Transfer:
    """Measure what every candidate's step does to every group, with paired intervals.

    Every interval of `change` holds by itself. For one injection and 8 groups, 16 of them decide:
    it is called safe only if all 16 upper ends are within tolerance, so that one that truly harms
    a group passes with a chance of about (1 − confidence) / 2 at most, however many groups there
    are; each of several injections has that chance.

    Args:
        target: its predictions of validation rows.
        stepped: candidate g → predictions of target + step · Δ_g of the same rows; one at least.
        settings: `confidence` and `min_group_size`. Groups that the predictions exclude decide
            nothing. There is no reference to choose: DPD_h and EOD_h of one group are one-vs-rest,
            as in the choice of the worst.
        step: λ_g; finite, not 0, negative for a negation.

    Raises:
        MeasurementError: no stepped model, a step of 0, or weights that no row can have.
    """
    if not isfinite(step) or step == 0:
        raise MeasurementError("must be a finite number other than 0", where="step", got=step)
    if not stepped:
        raise MeasurementError(
            "holds no model", where="stepped", fix="step along one group or more"
        )
    study = _Study.of(target, stepped, settings)
    taus = study.temperatures()
    tests = KINDS * max(1, int(study.rows.deciding.sum()))
    joint = 1 - (1 - settings.confidence) / tests
    level = settings.confidence
    hard = study.changes(None, level if taus is None else joint)
    return Transfer(
        injected=tuple(stepped),
        groups=study.names,
        sizes=study.rows.members.sum(axis=0),
        deciding=study.rows.deciding,
        deciding_gaps=study.rows.deciding & study.rows.with_gaps,
        step=float(step),
        change=hard if taus is None else study.changes(taus, level),
        hard=None if taus is None else hard,
        temperatures=taus,
        degenerate=np.array([is_degenerate(table.counts.overall) for table in study.tables[1:]]),
        warnings=tuple(study.notes()),
    )


def paired_rows(rows: Predictions, settings: MetricSettings) -> PairedRows:
    """The rows that count, and which rates of their groups take part in gaps.

    Raises:
        MeasurementError: weights that no row can have.
    """
    weighted = Weighted.of(rows.weights, len(rows))
    labels = rows.labels[weighted.rows]
    members = rows.members.membership[weighted.rows]
    table = CountTable.of_codes(rows.labels, rows.predicted, rows.members, rows.weights)
    sizes = EligibleGroups.of(table, settings.excluding(rows.excluded)).sizes
    # Groups that decide nothing are shown with all that is known of them.
    usable = np.stack([sizes.against_rest([rate]) for rate in _RATES]) | ~sizes.large()
    weights = np.ones(len(labels)) if weighted.weights is None else weighted.weights
    clusters = None if rows.clusters is None else rows.clusters[weighted.rows]
    codes = cluster_codes(clusters, len(labels))
    return PairedRows(labels, members, weights, codes, sizes.large(), usable)


@dataclass(frozen=True, eq=False)
class _Study:
    """The target, then the stepped models.

    Attributes:
        names: of the models' groups.
        rows: that count.
        answered: the models' predictions.
        tables: their counts.
        comparable: whether each answers enough rows to have rates.
        kept: what picks the rows that count.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    rows: PairedRows
    answered: list[Predictions]
    tables: list[CountTable]
    comparable: list[bool]
    kept: NDArray[np.intp] | slice

    @classmethod
    def of(
        cls, target: Predictions, stepped: Mapping[str, Predictions], settings: MetricSettings
    ) -> _Study:
        answered = [target, *stepped.values()]
        settings = settings.excluding(target.excluded)
        tables = [
            CountTable.of_codes(target.labels, each.predicted, target.members, target.weights)
            for each in answered
        ]
        eligible = [EligibleGroups.of(table, settings) for table in tables]
        return cls(
            labels=("the target", *stepped),
            names=target.members.names,
            rows=paired_rows(target, settings),
            answered=answered,
            tables=tables,
            comparable=[each.is_answered for each in eligible],
            kept=Weighted.of(target.weights, len(target)).rows,
        )

    def gaps(self, model: int) -> Values | None:
        found = self.answered[model].logit_gaps
        return None if found is None else found[self.kept]

    def temperatures(self) -> Values | None:
        """τ of every group; None where a model has no scores, or the target's do not differ."""
        first = self.gaps(0)
        if first is None or any(each.logit_gaps is None for each in self.answered):
            return None
        spread = spread_of_scores(first, self.rows.labels)
        sizes = self.rows.members.sum(axis=0)
        return np.array([temperature(spread, n) for n in sizes]) if spread > 0 else None

    def changes(self, temperatures: Values | None, level: float) -> Changes:
        """Of every stepped model: of soft rates at these temperatures, or of predictions."""
        models = range(1, len(self.answered))
        return Changes.of([list(self._effects(at, temperatures, level)) for at in models], level)

    def _effects(
        self, model: int, temperatures: Values | None, level: float
    ) -> Iterator[dict[str, Ends]]:
        """Everything but accuracy is undefined where a model leaves too many rows unanswered."""
        before, after = (self.answered[at].predicted[self.kept] for at in (0, model))
        answers = Answers.hard(before, after)
        gaps = self.gaps(0), self.gaps(model)
        is_silent = not (self.comparable[0] and self.comparable[model])
        for group in range(len(self.names)):
            if temperatures is not None and gaps[0] is not None and gaps[1] is not None:
                answers = Answers.soft(gaps[0], gaps[1], float(temperatures[group]))
            found = effects(self.rows, group, answers, level)
            if is_silent and self.rows.deciding.any():
                nothing = (np.nan, np.nan, np.nan)
                found = {key: ends if key == "acc" else nothing for key, ends in found.items()}
            yield found

    def notes(self) -> Iterator[str]:
        if not self.rows.deciding.any():
            yield "no group decides: all are excluded or below min_group_size"
            return
        few = [
            name for name, known in zip(self.names, self.rows.with_gaps, strict=True) if not known
        ]
        if few:
            yield (
                f"{', '.join(few)}: fewer than min_group_size rows of either label, there or "
                "outside: accuracy alone is judged"
            )
        for name, is_comparable in zip(self.labels, self.comparable, strict=True):
            if not is_comparable:
                yield (
                    f"{name} leaves more than {MAX_UNANSWERED:.0%} of a group or of all rows "
                    "unanswered: every rate but accuracy is undefined"
                )


def _matrix(found: list[list[dict[str, Ends]]], metric: str, at: int) -> Values:
    return np.array([[group[metric][at] for group in model] for model in found])


def _lists(value: Values, low: Values, high: Values) -> dict[str, list[list[float | None]]]:
    return {
        part: [[None if np.isnan(x) else float(x) for x in row] for row in matrix]
        for part, matrix in zip(("value", "low", "high"), (value, low, high), strict=True)
    }
