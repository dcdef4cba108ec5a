"""Scores instead of decisions: how far their group means lie apart, and thresholds on them.

Level matching is one global threshold that gives a wanted overall selection rate. Large λ can
raise the selection rate until DPD and EOD shrink by saturation. Measuring every merge at the same
rate removes that effect (METHODS §1, "level-matched"). Group labels are never used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_serializer

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.clusters import FEW, Codes, cluster_codes, times_drawn, widened
from mergekit_fair.fairness.counts import groups_of
from mergekit_fair.fairness.deciding import Deciding, ends
from mergekit_fair.fairness.eligible_groups import (
    MAX_UNANSWERED,
    eligible_groups,
    is_answered,
)
from mergekit_fair.fairness.intervals import (
    Ends,
    Interval,
    Number,
    around,
    conservative,
    undefined_to_none,
)
from mergekit_fair.fairness.labels import is_nan, unmasked
from mergekit_fair.fairness.measure_warnings import (
    draw_warnings,
    interval_warnings,
    weightless_warnings,
)
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.rates import Mask, Values, max_min_gap
from mergekit_fair.fairness.settings import DRAWS, MetricSettings
from mergekit_fair.fairness.weights import Weighted
from mergekit_fair.schema import Record

_CHUNK = 2**22  # resampled rows in memory at once


class ScoreMeasurement(Record):
    """Mean scores by group and their range.

    Attributes:
        n: number of rows.
        weighted, clusters: as in `Measurement`.
        unanswered: rows whose score is NaN or infinite; left out of the means.
        gap: max_g mean(s | g) − min_g mean(s | g), in units of the score, with its interval.
        means: group → mean score; None without a finite score.
        sizes: group → rows with a finite score.
        deciding: under `gap` the groups that make it, where it is defined.
        warnings: what is undefined or left out, and why.
    """

    n: int
    weighted: bool = False
    clusters: int | None = None
    unanswered: int
    gap: Interval
    means: dict[str, Number]
    sizes: dict[str, int]
    deciding: dict[str, Deciding] = {}
    warnings: Annotated[tuple[str, ...], Field(strict=False)]

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))


def measure_scores(
    scores: ArrayLike,
    groups: Any,
    *,
    weights: ArrayLike | None = None,
    clusters: Any = None,
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
        groups, weights, clusters, confidence, min_group_size, exclude, seed, draws: as in
            `measure`.

    Raises:
        MeasurementError: no numbers, no rows, or as `measure`.

    >>> result = measure_scores([0.1, 0.3, 0.5, 0.9] * 20, ["a", "a", "b", "b"] * 20)
    >>> result.gap
    Interval(value=0.5000000000000002, low=0.42280594779632047, high=0.5700787764381116)
    >>> result.means
    {'a': 0.19999999999999993, 'b': 0.7000000000000002}
    """
    settings = MetricSettings(
        confidence=confidence,
        min_group_size=min_group_size,
        exclude=exclude,
        seed=seed,
        draws=draws,
    )
    return measure_score_rows(scores, groups, settings, weights, clusters)


def measure_score_rows(
    scores: ArrayLike,
    groups: Any,
    settings: MetricSettings,
    weights: ArrayLike | None = None,
    clusters: Any = None,
) -> ScoreMeasurement:
    """As `measure_scores`; there is no reference but the groups themselves."""
    rows = _Rows.of(scores, groups, weights, clusters)
    eligible = eligible_groups(rows.names, rows.sizes, settings)
    means = _means(rows.values, rows.membership, rows.weights[np.newaxis])[0]
    deciding = np.where(eligible & rows.is_comparable(eligible), means, np.nan)
    gap, apart = Interval(), ends(rows.names, deciding)
    if apart is not None:
        drawn = _resampled(rows, settings.draws, settings.seed)
        samples = max_min_gap(np.where(eligible, drawn, np.nan)), max_min_gap(drawn - deciding)
        confidence = settings.confidence
        if rows.clusters is not None:
            confidence = widened(confidence, rows.n_clusters)
        gap = around(float(max_min_gap(deciding)), samples, _limits, confidence, (0.0, np.inf))
    return ScoreMeasurement(
        n=rows.n,
        weighted=rows.is_weighted,
        clusters=rows.n_clusters or None,
        unanswered=rows.n - len(rows.values),
        gap=gap,
        means=dict(zip(rows.names, map(undefined_to_none, means.tolist()), strict=True)),
        sizes=dict(zip(rows.names, (rows.sizes - rows.missing).tolist(), strict=True)),
        deciding=({} if apart is None else {"gap": Deciding(highest=apart[0], lowest=apart[1])}),
        warnings=(
            *weightless_warnings(rows.weightless),
            *_small(rows, settings),
            *_warnings(rows, eligible, gap),
            *_few_clusters(rows),
            *draw_warnings(settings),
        ),
    )


def matching_threshold(scores: ArrayLike, rate: float, weights: ArrayLike | None = None) -> float:
    """Threshold t with share(scores >= t) as near to `rate` as possible.

    Equal scores are never split, so the share reached may differ from `rate`. Of two equally
    near shares the lower one (the higher threshold) is taken.

    Args:
        scores: shape (n,), higher means more positive; set them on validation rows.
        rate: wanted share of positive predictions, in [0, 1].
        weights: shape (n,), what each row counts for in that share, as in `measure`.

    Returns:
        A score that occurs, or, where selecting no row is nearest, the next float above the
        highest one.

    Raises:
        MeasurementError: no scores, a score that is not finite, a rate outside [0, 1], or weights
            that no row can have.

    >>> matching_threshold([0.1, 0.4, 0.6, 0.9], rate=0.5)
    0.6
    >>> matching_threshold([0.1, 0.9, 0.9, 0.9], rate=0.5)  # three equal scores are not split
    0.9
    """
    values = _checked_scores(scores)
    if not 0.0 <= rate <= 1.0:
        raise MeasurementError("must lie in [0, 1]", where="rate", got=rate)
    weighted = Weighted.of(weights, len(values))
    distinct, place = np.unique(values[weighted.rows], return_inverse=True)
    counts = np.bincount(place.reshape(-1), weighted.weights)
    candidates = np.append(np.nextafter(distinct[-1], np.inf), distinct[::-1])
    selected = np.concatenate(([0], np.cumsum(counts[::-1])))
    # argmin takes the first of equals, and candidates run from the highest threshold down.
    return float(candidates[np.abs(selected - rate * selected[-1]).argmin()])


def predict_at(scores: ArrayLike, threshold: float) -> NDArray[np.int8]:
    """Predictions 1[score >= threshold]: shape (n,), int8.

    Raises:
        MeasurementError: no scores, a score that is not finite, or a NaN threshold.

    >>> predict_at([0.1, 0.4, 0.6, 0.9], 0.6)
    array([0, 0, 1, 1], dtype=int8)
    """
    if np.isnan(threshold):
        raise MeasurementError("is NaN", where="threshold", fix="use matching_threshold")
    return (_checked_scores(scores) >= threshold).astype(np.int8)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Finite scores (m,) with their membership (m, G), in an order of their own.

    Attributes:
        names, sizes, missing: per group; its rows, and those among them without a finite score.
        weights: (m,), what each counts for; 1 where all are alike.
        shares: per group, then of all rows, the share of weight without a finite score.
        n: number of rows, those without a finite score included.
        weightless: rows of weight 0, which are not among them.
        clusters: (m,), what each belongs to; None: each is its own.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    membership: NDArray[np.float64]
    weights: NDArray[np.float64]
    is_weighted: bool
    sizes: NDArray[np.int64]
    missing: NDArray[np.int64]
    shares: NDArray[np.float64]
    n: int
    weightless: int
    clusters: Codes | None

    @classmethod
    def of(cls, scores: ArrayLike, groups: Any, weights: ArrayLike | None, clusters: Any) -> _Rows:
        values = score_values(scores)
        members = groups_of(groups, len(values))
        weighted = Weighted.of(weights, len(values))
        codes = cluster_codes(clusters, len(values))
        codes = None if codes is None else codes[weighted.rows]
        values, inside = values[weighted.rows], members.membership[weighted.rows]
        counted = np.ones(len(values)) if weighted.weights is None else weighted.weights
        finite = np.isfinite(values)
        everybody = np.hstack([inside, np.ones((len(values), 1), dtype=bool)])
        sums, lost = (weight @ everybody for weight in (counted, counted * ~finite))
        # Sorted, so that neither the order of rows nor that of groups decides what is drawn.
        by_name = np.argsort(np.asarray(members.names, dtype=str), kind="stable")
        keys = (counted[finite], *inside[finite][:, by_name].T, values[finite])
        order = np.lexsort(keys)
        return cls(
            members.names,
            values[finite][order],
            inside[finite][order].astype(np.float64),
            counted[finite][order],
            weighted.weights is not None,
            inside.sum(axis=0),
            (inside & ~finite[:, np.newaxis]).sum(axis=0),
            np.divide(lost, sums, out=np.zeros_like(sums), where=sums > 0),
            len(values),
            weighted.weightless,
            None if codes is None else cluster_codes(codes[finite][order], len(order)),
        )

    @property
    def n_clusters(self) -> int:
        """0 where every row is its own."""
        return 0 if self.clusters is None else int(self.clusters.max()) + 1

    def is_comparable(self, eligible: Mask) -> bool:
        """Whether few enough scores are missing in every deciding group and overall."""
        shares = self.shares[np.append(eligible, True)]
        return is_answered(shares, np.ones(len(shares)))


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
    """Group means of bootstrap samples of rows or clusters: (draws, G)."""
    rng = np.random.default_rng(seed)
    if rows.clusters is not None:
        return _of_clusters(rows, rows.clusters, draws, rng)
    m = len(rows.values)
    at_once = max(1, _CHUNK // m)
    means = []
    for start in range(0, draws, at_once):
        picked = rng.integers(0, m, (min(at_once, draws - start), m))
        times = np.stack([np.bincount(pick, minlength=m) for pick in picked])
        means.append(_means(rows.values, rows.membership, times * rows.weights))
    return np.concatenate(means)


def _of_clusters(rows: _Rows, codes: Codes, draws: int, rng: np.random.Generator) -> Values:
    """The same of clusters: what each adds to the groups' weights and scores is summed first."""
    mass, size = rows.membership * rows.weights[:, np.newaxis], rows.n_clusters
    held = [
        np.stack([np.bincount(codes, column, size) for column in columns.T], axis=1)
        for columns in (mass, mass * rows.values[:, np.newaxis])
    ]
    means, at_once = [], max(1, _CHUNK // size)
    for start in range(0, draws, at_once):
        times = times_drawn(rng, size, min(at_once, draws - start), size)
        total, sums = (times @ of_clusters for of_clusters in held)
        means.append(np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0))
    return np.concatenate(means)


def score_values(scores: ArrayLike, name: str = "scores") -> NDArray[np.float64]:
    """Scores as float64 (n,), NaN where there is none.

    Raises:
        MeasurementError: no numbers, or not one a row.
    """
    try:
        values = np.asarray(unmasked(scores))
        if values.dtype.kind == "O":
            values = np.array([None if is_nan(value) else value for value in values])
        if values.dtype.kind not in "biufO":  # "0.5" would be parsed, complex numbers cut
            raise TypeError
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise MeasurementError(
            "must be numbers", where=name, fix="convert them, None where there is none"
        ) from error
    if values.ndim != 1 or not values.size:
        raise MeasurementError(
            "needs one score per row", where=name, got=f"shape {values.shape}", allowed="(n,)"
        )
    return values


def _few_clusters(rows: _Rows) -> Iterator[str]:
    if 0 < rows.n_clusters < FEW:
        yield f"{rows.n_clusters} clusters, fewer than {FEW}: intervals are a rough guide"


def _small(rows: _Rows, settings: MetricSettings) -> Iterator[str]:
    """Warn, once, about groups that are too small to decide."""
    small = [
        f"{name!r} ({size})"
        for name, size in zip(rows.names, rows.sizes.tolist(), strict=True)
        if 0 < size < settings.min_group_size and name not in settings.exclude
    ]
    if small:
        yield (
            f"too few rows to decide the gap (min_group_size {settings.min_group_size}): "
            f"{', '.join(small)}"
        )


def _warnings(rows: _Rows, eligible: Mask, gap: Interval) -> Iterator[str]:
    for name, lost, size in zip(
        rows.names, rows.missing.tolist(), rows.sizes.tolist(), strict=True
    ):
        if lost:
            yield f"group {name!r}: {lost} of {size} scores are not finite, left out of its mean"
    if gap.value is None:
        few = eligible.sum() < 2
        yield (
            f"{eligible.sum()} usable group(s), two are needed: the gap is undefined"
            if few
            else f"more than {MAX_UNANSWERED:.0%} of the scores of a group or of all rows are not "
            "finite: the gap is undefined"
        )
        return
    for name, column in zip(
        np.array(rows.names)[eligible], rows.membership.T[eligible], strict=True
    ):
        if np.unique(rows.values[column > 0]).size < 2:
            yield (
                f"all scores of group {str(name)!r} are the same: how far its mean is off cannot "
                "be seen, and the interval is too narrow"
            )
    yield from interval_warnings({"gap": gap})


def _checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MeasurementError(
            "must be numbers", where="scores", fix="pass the score of the positive class"
        ) from error
    if values.ndim != 1:
        raise MeasurementError(
            "needs one score per row",
            where="scores",
            got=f"shape {values.shape}",
            allowed="shape (n,)",
            fix="pass the score of the positive class",
        )
    if values.size == 0:
        raise MeasurementError("there are no rows", where="scores", fix="check the split")
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(wrong.argmax())
        raise MeasurementError(
            f"row {row} is not finite",
            where="scores",
            got=float(values[row]),
            allowed="finite numbers",
            fix="look for overflow in the merged weights, or drop the row",
        )
    return values
