"""What a step along one group's vector does to every group: the measured transfer matrix.

The target model (FFT, say) and, for every candidate group g, target + step · Δ_g have predicted
the same validation rows. For every injected g and every group h

    ∂metric_h/∂λ_g ≈ (metric_h(target + step · Δ_g) − metric_h(target)) / step

with the metrics `harm` = (DPD_h + EOD_h) / 2, each of h against all other rows, and `acc`,
`selection_rate`, `tpr`, `fpr` of the rows of h. Bootstrap draws resample whole rows: y and the
predictions of all models together, so all models, groups and metrics are seen on the same draws.

Source: METHODS §5, "Safe injection". `transfer_effects` makes the intervals, `verdicts`
decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.eligible_groups import MAX_UNANSWERED, EligibleGroups
from mergekit_fair.fairness.grouped import Counts
from mergekit_fair.fairness.joint import JointTable
from mergekit_fair.fairness.labels import UNANSWERED, binary_labels, binary_predictions, same_length
from mergekit_fair.fairness.measure_warnings import draw_warnings
from mergekit_fair.fairness.rates import is_degenerate
from mergekit_fair.fairness.settings import DRAWS, MetricSettings
from mergekit_fair.sweep.transfer_effects import (
    METRICS,
    Ends,
    Pair,
    Rates,
    Values,
    drawn_pair,
    intervals,
    moved_rows,
)

KINDS = 2  # harm and accuracy, on which a verdict rests


@dataclass(frozen=True, eq=False)
class Transfer:
    """Differences target + step · Δ_g minus target, for G injected groups and H groups of rows.

    Attributes:
        injected: the G candidates, in the order given.
        groups: the H groups of the rows.
        sizes: int (H,), their rows.
        deciding: bool (H,), those that a verdict rests on.
        step: λ_g of the measured models; not 0.
        value, low, high: metric of METRICS → (G, H), in the metric's units, in [−1, 1]. NaN in
            `value` is an undefined rate; in `low` and `high`, too few draws that have one, too.
        degenerate: bool (G,), whether the stepped model's predictions are (nearly) constant.
        confidence: asked for.
        level: of each interval; above `confidence` where they hold simultaneously.
        warnings: what concerns all rows.
    """

    injected: tuple[str, ...]
    groups: tuple[str, ...]
    sizes: NDArray[np.int64]
    deciding: NDArray[np.bool_]
    step: float
    value: dict[str, Values]
    low: dict[str, Values]
    high: dict[str, Values]
    degenerate: NDArray[np.bool_]
    confidence: float
    level: float
    warnings: tuple[str, ...]

    def slopes(self, metric: str) -> tuple[Values, Values, Values]:
        """∂metric_h/∂λ_g as (value, low, high), each (G, H), per unit of λ."""
        low, high = self.low[metric] / self.step, self.high[metric] / self.step
        ends = (low, high) if self.step > 0 else (high, low)
        return self.value[metric] / self.step, *ends

    def to_dict(self) -> dict[str, Any]:
        """JSON: `change` in metric units at this step, `slope` per unit of λ; None is undefined.

        Both map a metric to `value`, `low` and `high`, each a list of G lists of H numbers.
        """
        changes = {key: (self.value[key], self.low[key], self.high[key]) for key in METRICS}
        decides = zip(self.groups, self.sizes, self.deciding, strict=True)
        flat = zip(self.injected, self.degenerate, strict=True)
        return {
            "step": self.step,
            "injected": list(self.injected),
            "groups": {name: {"n": int(n), "decides": bool(yes)} for name, n, yes in decides},
            "confidence": self.confidence,
            "interval_level": self.level,
            "degenerate": [name for name, is_flat in flat if is_flat],
            "change": {key: _matrices(change) for key, change in changes.items()},
            "slope": {key: _matrices(self.slopes(key)) for key in METRICS},
            "warnings": list(self.warnings),
        }


def transfer_matrix(
    y_true: ArrayLike,
    target: ArrayLike,
    stepped: Mapping[str, ArrayLike],
    groups: Any,
    *,
    step: float,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    simultaneous: bool = False,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int | None = None,
) -> Transfer:
    """Measure what every candidate's step does to every group, with paired intervals.

    By default every interval holds by itself, at `confidence`. For one injection and 8 groups,
    16 intervals decide. It is called safe only if all 16 upper ends are within tolerance: one
    that truly harms a group passes with a chance of at most (1 − confidence) / 2, however many
    groups there are (and each of several injections has that chance). But if all 16 effects are
    harmless, one or more seems to be harm with a chance of up to 16 · (1 − confidence) / 2 = 40 %:
    take `unsafe` as a lead then. With `simultaneous`, the 2 H intervals of an injection hold
    together (Bonferroni: each at 1 − (1 − confidence) / 2H, H the deciding groups): "unsafe" errs
    with a chance of at most (1 − confidence) / 2 for each injection. Intervals are about 1.5 times
    as wide, so that more verdicts are "unproven".

    Args:
        y_true: (n,), labels 0 and 1 of validation rows.
        target: (n,), predictions of the target: 0, 1, or 2, None or NaN where there is none.
        stepped: candidate g → predictions of target + step · Δ_g, likewise; one at least.
        groups: name → boolean mask (n,), or as in `mergekit_fair.fairness.measure`.
        step: λ_g; finite, not 0, negative for a negation.
        weights: (n,), what each row counts for, as in `measure`.
        confidence, min_group_size, exclude, seed: as in `measure`. There is no reference to
            choose: DPD_h and EOD_h of one group are one-vs-rest, as in the choice of the worst.
        draws: default 2,000; more where a higher level needs them.

    Raises:
        MeasurementError: input that no metric is defined on, a step of 0, or nothing stepped.
    """
    settings = MetricSettings(
        confidence=confidence,
        min_group_size=min_group_size,
        exclude=exclude,
        seed=seed,
        draws=DRAWS if draws is None else draws,
    )
    joint = _joint(y_true, target, stepped, groups, step, weights)
    study = _Study.of(joint, settings)
    tests = KINDS * max(1, int(study.usable.sum())) if simultaneous else 1
    level = 1 - (1 - confidence) / tests
    n_draws = max(2000, ceil(20 / (1 - level))) if draws is None else draws
    order = sorted(stepped)
    effects = dict(zip(order, study.effects(level, n_draws, seed), strict=True))
    flat = dict(zip(order, study.degenerate(), strict=True))
    metrics = {
        part: {key: np.stack([effects[g][key][at] for g in stepped]) for key in METRICS}
        for at, part in enumerate(("value", "low", "high"))
    }
    return Transfer(
        injected=tuple(stepped),
        groups=joint.patterns.names,
        sizes=study.tables[0].rows.groups.sum(axis=(-2, -1)).astype(int),
        deciding=study.usable,
        step=float(step),
        **metrics,
        degenerate=np.array([flat[g] for g in stepped]),
        confidence=confidence,
        level=level,
        warnings=(
            *study.notes(order),
            *draw_warnings(replace(settings, confidence=level, draws=n_draws)),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Study:
    """The target and the stepped models in the order of names, counted.

    Attributes:
        joint: columns y, target, and every stepped model.
        tables: of the target, then of every stepped model.
        deciding: which groups each table lets decide.
    """

    joint: JointTable
    tables: list[CountTable]
    deciding: list[EligibleGroups]

    @classmethod
    def of(cls, joint: JointTable, settings: MetricSettings) -> _Study:
        truth, *models = joint.columns.T
        tables = [joint.table((truth, predicted)) for predicted in models]
        return cls(joint, tables, [EligibleGroups.of(table, settings) for table in tables])

    @property
    def usable(self) -> NDArray[np.bool_]:
        return self.deciding[0].deciding

    def degenerate(self) -> list[bool]:
        return [bool(is_degenerate(table.counts.overall)) for table in self.tables[1:]]

    def effects(
        self, level: float, draws: int, seed: int
    ) -> list[dict[str, tuple[Values, Values, Values]]]:
        """For every stepped model: metric → value, low, high, each (H,)."""
        joint = self.joint
        patterns, weights = joint.patterns.membership, joint.patterns.weights
        truth, *models = joint.columns.T
        resampled = joint.resampled([(truth, predicted) for predicted in models], draws, seed)
        before, *after = (Rates.of(table.counts) for table in self.tables)
        first, *others = map(Rates.of, resampled)
        effects = []
        for number, (estimate, drawn) in enumerate(zip(after, others, strict=True), start=1):
            cells = moved_rows(self._pair(number), patterns, weights)
            moved = drawn_pair(cells, patterns, draws, seed, weights)
            samples = (Pair(first, drawn), moved)
            ends = intervals(Pair(before, estimate), samples, level)
            effects.append(self._known(number, before.changes(estimate), ends))
        return effects

    def _pair(self, number: int) -> Counts:
        """Rows by pattern, y, ŷ of the target and ŷ of a stepped model: (P, 2, 3, 3)."""
        truth, target, *_ = self.joint.columns.T
        code = (self.joint.pattern * 2 + truth) * 3 + target
        code = code * 3 + self.joint.columns[:, 1 + number]
        shape = (len(self.joint.patterns.membership), 2, 3, 3)
        counts = np.zeros(int(np.prod(shape)), dtype=np.int64)
        np.add.at(counts, code, self.joint.counts)
        return counts.reshape(shape)

    def _known(
        self, number: int, values: dict[str, Values], ends: dict[str, Ends]
    ) -> dict[str, tuple[Values, Values, Values]]:
        """Everything but accuracy is undefined where a model leaves too many rows unanswered."""
        is_answered = all(self.deciding[at].is_answered for at in (0, number))
        if is_answered or not self.usable.any():
            return {key: (value, *ends[key]) for key, value in values.items()}
        nothing = np.full(len(self.usable), np.nan)
        return {
            key: (value, *ends[key]) if key == "acc" else (nothing, nothing, nothing)
            for key, value in values.items()
        }

    def notes(self, order: list[str]) -> list[str]:
        notes = []
        if not self.usable.any():
            notes.append("no group decides: all are excluded or below min_group_size")
        for name, deciding in zip(("the target", *order), self.deciding, strict=True):
            if self.usable.any() and not deciding.is_answered:
                notes.append(
                    f"{name} leaves more than {MAX_UNANSWERED:.0%} of a group or of all rows "
                    "unanswered: every rate but accuracy is undefined"
                )
        return notes


def _joint(
    y_true: ArrayLike,
    target: ArrayLike,
    stepped: Mapping[str, ArrayLike],
    groups: Any,
    step: float,
    weights: ArrayLike | None,
) -> JointTable:
    """Labels, the target and the others by name: draws must not depend on a mapping's order."""
    if not isfinite(step) or step == 0:
        raise MeasurementError("must be a finite number other than 0", where="step", got=step)
    if not stepped:
        raise MeasurementError(
            "holds no model", where="stepped", fix="step along one group or more"
        )
    truth = binary_labels(y_true, "y_true")
    columns = [truth]
    for name, values in (("target", target), *((g, stepped[g]) for g in sorted(stepped))):
        columns.append(_predictions(values, name))
        same_length(truth, columns[-1], name)
    return JointTable.tally(columns, groups, weights)


def _predictions(values: ArrayLike, name: str) -> NDArray[np.int8]:
    """As `binary_predictions`; the integer 2 means unanswered, too."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        return binary_predictions(values, name)
    predicted = np.full(array.shape, UNANSWERED, dtype=np.int8)
    answered = array != UNANSWERED
    if answered.any() or not array.size:
        predicted[answered] = binary_predictions(array[answered], name)
    return predicted


def _matrices(parts: tuple[Values, Values, Values]) -> dict[str, list[list[float | None]]]:
    return {
        part: [[None if np.isnan(x) else float(x) for x in row] for row in matrix]
        for part, matrix in zip(("value", "low", "high"), parts, strict=True)
    }
