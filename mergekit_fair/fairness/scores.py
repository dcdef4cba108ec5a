"""Scores instead of decisions: how far the mean scores of groups lie apart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import groups_of
from mergekit_fair.fairness.intervals import (
    Interval,
    around,
    check_settings,
    conservative,
    undefined_to_none,
)
from mergekit_fair.fairness.metrics import spread
from mergekit_fair.fairness.usable import usable_groups

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
    draws: int = 2000,
) -> ScoreMeasurement:
    """Measure the range of group mean scores, max_g mean(s | g) − min_g mean(s | g).

    The interval is the conservative one, from a bootstrap of rows: scores have no few cells, so
    that the cost grows with n · draws (about one second per 10⁸).

    Args:
        scores: shape (n,), numbers; NaN and infinite scores are counted and left out, and where
            they are more than 5 % of a deciding group the gap is undefined.
        groups, confidence, min_group_size, exclude, seed, draws: as in :func:`measure`.

    Raises:
        MeasurementError: no numbers, no rows, or as :func:`measure`.
    """
    check_settings(confidence, draws)
    values = _numbers(scores)
    members = groups_of(groups, len(values))
    finite = np.isfinite(values)
    sizes = members.membership.sum(axis=0)
    shape = np.zeros((len(members.names), 2, 2), dtype=np.int64)
    shape[:, 0, 0] = sizes
    usable = usable_groups(members.names, shape, min_group_size, exclude)
    membership = members.membership[finite].astype(np.float64)
    means = _means(values[finite], membership, np.ones((1, int(finite.sum()))))[0]
    missing = (members.membership & ~finite[:, np.newaxis]).sum(axis=0)
    warnings = _warnings(members.names, missing, sizes)
    comparable = usable & ~(missing[usable] > 0.05 * sizes[usable]).any()
    deciding = np.where(comparable, means, np.nan)
    gap = Interval(None)
    if np.isfinite(deciding).sum() >= 2:
        drawn = _resampled(values[finite], membership, draws, seed)
        drawn = np.where(comparable, drawn, np.nan)
        samples = spread(drawn), spread(drawn - deciding)
        gap = around(float(spread(deciding)), samples, conservative, confidence, (0.0, np.inf))
    else:
        warnings = (*warnings, "fewer than two groups can be compared: the gap is undefined")
    return ScoreMeasurement(
        n=len(values),
        unanswered=int((~finite).sum()),
        gap=gap,
        means=dict(zip(members.names, map(undefined_to_none, means.tolist()), strict=True)),
        sizes=dict(zip(members.names, (sizes - missing).tolist(), strict=True)),
        warnings=warnings,
    )


def _means(
    values: NDArray[np.float64], membership: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted mean of values (n,) by group: weights (b, n) -> (b, G); NaN without weight."""
    total = weights @ membership
    sums = (weights * values) @ membership
    return np.asarray(np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0))


def _resampled(
    values: NDArray[np.float64], membership: NDArray[np.float64], draws: int, seed: int
) -> NDArray[np.float64]:
    """Group means of bootstrap samples of rows: (draws, G)."""
    rng = np.random.default_rng(seed)
    n = len(values)
    at_once = max(1, _CHUNK // n)
    found = []
    for start in range(0, draws, at_once):
        rows = rng.integers(0, n, (min(at_once, draws - start), n))
        weights = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(np.float64)
        found.append(_means(values, membership, weights))
    return np.concatenate(found)


def _numbers(scores: ArrayLike) -> NDArray[np.float64]:
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MeasurementError("must be numbers", where="scores") from error
    if values.ndim != 1 or not values.size:
        raise MeasurementError(
            "needs one score per row", where="scores", got=f"shape {values.shape}", allowed="(n,)"
        )
    return values


def _warnings(
    names: tuple[str, ...], missing: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[str, ...]:
    return tuple(
        f"group {name!r}: {lost} of {size} scores are not finite, left out of its mean"
        for name, lost, size in zip(names, missing.tolist(), sizes.tolist(), strict=True)
        if lost
    )
