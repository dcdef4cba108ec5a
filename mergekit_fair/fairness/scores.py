"""Scores instead of decisions: how far the mean scores of groups lie apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import groups_of
from mergekit_fair.fairness.eligible_groups import usable_groups
from mergekit_fair.fairness.intervals import (
    Ends,
    Interval,
    around,
    conservative,
    undefined_to_none,
)
from mergekit_fair.fairness.labels import is_nan, unmasked
from mergekit_fair.fairness.measure_warnings import draw_notes, interval_notes
from mergekit_fair.fairness.metrics import Mask, Values, spread
from mergekit_fair.fairness.point_metrics import MAX_UNANSWERED
from mergekit_fair.fairness.settings import DRAWS, MetricSettings

_CHUNK = 2**22  # resampled rows in memory at once


@dataclass(frozen=True)
class ScoreMeasurement:
    """Mean scores by group and their range.

    Attributes:
        n: number of rows.
        unanswered: rows whose score is NaN or infinite; left out of the means.
        gap: max_g mean(s | g) − min_g mean(s | g), in units of the score, with its interval.
        means: group → mean score; None without a finite score.
        sizes: group → rows with a finite score.
        warnings: what is undefined or left out, and why.
    """

    n: int
    unanswered: int
    gap: Interval
    means: dict[str, float | None]
    sizes: dict[str, int]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; None for undefined."""
        return {
            "n": self.n,
            "unanswered": self.unanswered,
            "gap": self.gap.to_dict(),
            "means": self.means,
            "sizes": self.sizes,
            "warnings": list(self.warnings),
        }


def measure_scores(
    scores: ArrayLike,
    groups: Any,
    *,
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> ScoreMeasurement:
    """Measure the range of group mean scores, max_g mean(s | g) − min_g mean(s | g).

    The interval is the conservative one, from a bootstrap of rows: scores have no few cells, so
    that the cost grows with n · draws (about one second per 10⁸). It sees the spread of scores in
    a group only as far as the group's rows show it; groups of a few rows have too narrow ones.

    Args:
        scores: shape (n,), numbers; None, NaN and infinite scores are counted and left out, and
            where they are more than 5 % of a deciding group or of all rows the gap is undefined.
        groups, confidence, min_group_size, exclude, seed, draws: as in :func:`measure`.

    Raises:
        MeasurementError: no numbers, no rows, or as :func:`measure`.
    """
    settings = MetricSettings(
        confidence=confidence,
        min_group_size=min_group_size,
        exclude=exclude,
        seed=seed,
        draws=draws,
    )
    return measure_score_rows(scores, groups, settings)


def measure_score_rows(
    scores: ArrayLike, groups: Any, settings: MetricSettings
) -> ScoreMeasurement:
    """As :func:`measure_scores`; there is no reference but the groups themselves."""
    rows = _Rows.of(scores, groups)
    usable = rows.deciding(settings)
    means = _means(rows.values, rows.membership, np.ones((1, len(rows.values))))[0]
    deciding = np.where(usable & rows.comparable(usable), means, np.nan)
    gap = Interval(None)
    if np.isfinite(deciding).sum() >= 2:
        drawn = _resampled(rows, settings.draws, settings.seed)
        samples = spread(np.where(usable, drawn, np.nan)), spread(drawn - deciding)
        gap = around(float(spread(deciding)), samples, _limits, settings.confidence, (0.0, np.inf))
    return ScoreMeasurement(
        n=rows.n,
        unanswered=rows.n - len(rows.values),
        gap=gap,
        means=dict(zip(rows.names, map(undefined_to_none, means.tolist()), strict=True)),
        sizes=dict(zip(rows.names, (rows.sizes - rows.missing).tolist(), strict=True)),
        warnings=(*_warnings(rows, usable, gap), *draw_notes(settings)),
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Finite scores (m,) with their membership (m, G), in an order of their own.

    Attributes:
        names, sizes, missing: per group; its rows, and those among them without a finite score.
        n: number of rows, those without a finite score included.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    membership: NDArray[np.float64]
    sizes: NDArray[np.int64]
    missing: NDArray[np.int64]
    n: int

    @classmethod
    def of(cls, scores: ArrayLike, groups: Any) -> _Rows:
        values = _numbers(scores)
        members = groups_of(groups, len(values))
        finite = np.isfinite(values)
        kept = members.membership[finite]
        # Sorted, so that neither the order of rows nor that of groups decides what is drawn.
        by_name = np.argsort(np.asarray(members.names, dtype=str), kind="stable")
        order = np.lexsort((*kept[:, by_name].T, values[finite]))
        return cls(
            members.names,
            values[finite][order],
            kept[order].astype(np.float64),
            members.membership.sum(axis=0),
            (members.membership & ~finite[:, np.newaxis]).sum(axis=0),
            len(values),
        )

    def deciding(self, settings: MetricSettings) -> Mask:
        """Which groups may decide the gap, missing scores or not."""
        counts = np.zeros((len(self.names), 2, 3), dtype=np.int64)
        counts[:, 0, 0] = self.sizes
        return usable_groups(self.names, counts, settings)

    def comparable(self, usable: Mask) -> bool:
        """Whether few enough scores are missing in every deciding group and overall."""
        overall = self.n - len(self.values) <= MAX_UNANSWERED * self.n
        in_groups = self.missing[usable] <= MAX_UNANSWERED * self.sizes[usable]
        return bool(overall and in_groups.all())


def _limits(value: float, drawn: Values, errors: Values, confidence: float) -> Ends:
    """The conservative kind without a smoothed table, which scores do not have."""
    return conservative(value, drawn, drawn, errors, confidence)


def _means(
    values: NDArray[np.float64], membership: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted mean of values (n,) by group: weights (b, n) -> (b, G); NaN without weight."""
    total = weights @ membership
    sums = (weights * values) @ membership
    return np.asarray(np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0))


def _resampled(rows: _Rows, draws: int, seed: int) -> NDArray[np.float64]:
    """Group means of bootstrap samples of rows: (draws, G)."""
    rng = np.random.default_rng(seed)
    m = len(rows.values)
    at_once = max(1, _CHUNK // m)
    found = []
    for start in range(0, draws, at_once):
        picked = rng.integers(0, m, (min(at_once, draws - start), m))
        weights = np.stack([np.bincount(pick, minlength=m) for pick in picked])
        found.append(_means(rows.values, rows.membership, weights.astype(np.float64)))
    return np.concatenate(found)


def _numbers(scores: ArrayLike) -> NDArray[np.float64]:
    try:
        values = np.asarray(unmasked(scores))
        if values.dtype.kind == "O":
            values = np.array([None if is_nan(value) else value for value in values])
        if values.dtype.kind not in "biufO":  # "0.5" would be parsed, complex numbers cut
            raise TypeError
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise MeasurementError(
            "must be numbers", where="scores", fix="convert them, None where there is none"
        ) from error
    if values.ndim != 1 or not values.size:
        raise MeasurementError(
            "needs one score per row", where="scores", got=f"shape {values.shape}", allowed="(n,)"
        )
    return values


def _warnings(rows: _Rows, usable: Mask, gap: Interval) -> Iterator[str]:
    for name, lost, size in zip(
        rows.names, rows.missing.tolist(), rows.sizes.tolist(), strict=True
    ):
        if lost:
            yield f"group {name!r}: {lost} of {size} scores are not finite, left out of its mean"
    if gap.value is None:
        few = usable.sum() < 2
        yield (
            f"{usable.sum()} usable group(s), two are needed: the gap is undefined"
            if few
            else f"more than {MAX_UNANSWERED:.0%} of the scores of a group or of all rows are not "
            "finite: the gap is undefined"
        )
        return
    for name, column in zip(np.array(rows.names)[usable], rows.membership.T[usable], strict=True):
        if np.unique(rows.values[column > 0]).size < 2:
            yield (
                f"all scores of group {str(name)!r} are the same: how far its mean is off cannot "
                "be seen, and the interval is too narrow"
            )
    yield from interval_notes({"gap": gap})
