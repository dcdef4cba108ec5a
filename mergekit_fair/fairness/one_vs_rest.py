"""Several binary views of the same rows, such as classes or labels: each, their mean, the worst.

A mean and a maximum of gaps are again gaps (seminorms of the rates), so that their intervals are
conservative ones as in :mod:`mergekit_fair.fairness.intervals`. Replicates are drawn for whole
rows and shared by all views. Smoothed tables belong to one view each and are drawn apart, as if
views did not err together. In a maximum of errors that is the larger case. Everywhere else draws
are paired by rank, as if views erred together as far as they can: in a mean, independent errors
would cancel; and an upper limit of the worst gap need only be one for the view whose gap it is.
Source: METHODS §5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.fairness import metrics
from mergekit_fair.fairness.counts import Counts, CountTable, group_counts, total
from mergekit_fair.fairness.gaps import DPD_RATES, EOD_RATES, deviations, gap
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    conservative,
    replicates,
    smoothed,
    wilson,
)
from mergekit_fair.fairness.joint import Column, JointTable
from mergekit_fair.fairness.measure import measure_table
from mergekit_fair.fairness.measure_warnings import draw_notes, interval_notes
from mergekit_fair.fairness.measurement import Measurement
from mergekit_fair.fairness.metrics import Values
from mergekit_fair.fairness.point_metrics import Deciding
from mergekit_fair.fairness.settings import MetricSettings

_GAPS = {"dpd": DPD_RATES, "eod": EOD_RATES}


@dataclass(frozen=True)
class MultiMeasurement:
    """Metrics over several binary views (classes or labels) of the same rows.

    Attributes:
        n: number of rows.
        acc: share of rows with every view right: the correct class, or all labels correct.
        macro, worst: ``dpd`` and ``eod``: their mean and their maximum over the views. A view
            whose gap is undefined is left out.
        worst_view: for ``dpd`` and ``eod``, the view with the largest gap.
        views: view → its :class:`Measurement`.
        warnings: what is undefined or left out over the views; each view has its own.
    """

    n: int
    acc: Interval
    macro: dict[str, Interval]
    worst: dict[str, Interval]
    worst_view: dict[str, str | None]
    views: dict[str, Measurement]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; None for undefined."""
        return {
            "n": self.n,
            "acc": self.acc.to_dict(),
            "macro": {name: found.to_dict() for name, found in self.macro.items()},
            "worst": {name: found.to_dict() for name, found in self.worst.items()},
            "worst_view": self.worst_view,
            "views": {name: found.to_dict() for name, found in self.views.items()},
            "warnings": list(self.warnings),
        }


def measure_views(
    joint: JointTable,
    views: Mapping[str, tuple[Column, Column]],
    correct: NDArray[np.bool_],
    settings: MetricSettings,
    warnings: Sequence[str] = (),
) -> MultiMeasurement:
    """Measure every view, and sum up.

    Args:
        joint: the rows, C distinct kinds.
        views: name → truth and prediction of each kind, both (C,), as in
            :meth:`JointTable.cells`.
        correct: bool (C,), the kinds of rows that count for the accuracy.
        settings: as in :func:`measure`.
        warnings: to put in front.

    Raises:
        MeasurementError: an unknown group is excluded.
    """
    confidence = settings.confidence
    measured, found = {}, {}
    resampled = joint.resampled(list(views.values()), settings.draws, settings.seed)
    for (name, view), drawn in zip(views.items(), resampled, strict=True):
        table = CountTable(joint.groups, joint.patterns, joint.cells(*view))
        measured[name] = measure_table(table, settings)
        deciding = Deciding.of(table, settings)
        rng = np.random.default_rng([settings.seed, sorted(views).index(name)])
        found[name] = _View.of(table, drawn, deciding, settings.reference, rng)
    right = int(joint.counts[correct].sum())
    macro = {key: _macro(found, key, confidence) for key in _GAPS}
    worst = {key: _worst(found, key, confidence) for key in _GAPS}
    return MultiMeasurement(
        n=joint.n,
        acc=Interval(right / joint.n, *wilson(right, joint.n, confidence)),
        macro=macro,
        worst=worst,
        worst_view={key: _worst_view(found, key) for key in _GAPS},
        views=measured,
        warnings=(*warnings, *_notes(found, macro, worst), *draw_notes(settings)),
    )


@dataclass(frozen=True, eq=False)
class _View:
    """One view's gaps by name: values, and draws of the three kinds that `conservative` takes."""

    value: dict[str, float]
    drawn: dict[str, Values]
    smooth: dict[str, Values]
    errors: dict[str, Values]

    @classmethod
    def of(
        cls,
        table: CountTable,
        drawn: Counts,
        deciding: Deciding,
        reference: str,
        rng: np.random.Generator,
    ) -> _View:
        patterns, usable = table.patterns, deciding.comparable
        smooth = smoothed(table.cells, patterns)
        tables = table.cells, drawn, replicates(smooth, len(drawn), rng), smooth
        view = cls({}, {}, {}, {})
        for key, rates in _GAPS.items():
            value, sample, smooth_sample, centre = (
                deviations(rates, group_counts(cells, patterns), total(cells), usable, reference)
                for cells in tables
            )
            view.value[key] = float(gap(value, reference))
            view.drawn[key] = gap(sample, reference)
            view.smooth[key] = gap(smooth_sample, reference)
            view.errors[key] = gap(smooth_sample - centre, reference)
        return view


def _defined(views: dict[str, _View], key: str) -> dict[str, _View]:
    return {name: view for name, view in views.items() if not np.isnan(view.value[key])}


def _macro(views: dict[str, _View], key: str, confidence: float) -> Interval:
    kept = _defined(views, key).values()
    if not kept:
        return Interval(None)
    samples = (
        metrics.mean(np.stack([view.drawn[key] for view in kept], axis=-1)),
        metrics.mean(_ranked([view.smooth[key] for view in kept])),
        metrics.mean(_ranked([view.errors[key] for view in kept])),
    )
    value = float(np.mean([view.value[key] for view in kept]))
    return around(value, samples, conservative, confidence)


def _worst(views: dict[str, _View], key: str, confidence: float) -> Interval:
    kept = _defined(views, key).values()
    if not kept:
        return Interval(None)
    samples = (
        metrics.largest(np.stack([view.drawn[key] for view in kept], axis=-1)),
        metrics.largest(_ranked([view.smooth[key] for view in kept])),
        metrics.largest(np.stack([view.errors[key] for view in kept], axis=-1)),
    )
    value = max(view.value[key] for view in kept)
    return around(value, samples, conservative, confidence)


def _ranked(samples: list[Values]) -> Values:
    """Draws (draws,) of V views as (draws, V), smallest first; undefined ones last."""
    return np.asarray(np.sort(samples, axis=1).T)


def _worst_view(views: dict[str, _View], key: str) -> str | None:
    kept = _defined(views, key)
    return max(kept, key=lambda name: kept[name].value[key], default=None)


def _notes(
    views: dict[str, _View], macro: dict[str, Interval], worst: dict[str, Interval]
) -> Iterator[str]:
    for key in _GAPS:
        for name in views:
            if name not in _defined(views, key):
                yield f"the {key} of {name!r} is undefined: left out of macro and worst"
    yield from interval_notes(
        {f"{kind} {key}": found[key] for kind, found in (("macro", macro), ("worst", worst))
         for key in _GAPS}
    )  # fmt: skip
