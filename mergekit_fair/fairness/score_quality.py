"""How good scores are, overall and by group: AUC and calibration with intervals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_serializer

from mergekit_fair.fairness.counts import groups_of
from mergekit_fair.fairness.deciding import Deciding, ends
from mergekit_fair.fairness.eligible_groups import MAX_UNANSWERED, GroupSizes
from mergekit_fair.fairness.intervals import Interval, Number, undefined_to_none
from mergekit_fair.fairness.jackknife import Estimate, range_interval
from mergekit_fair.fairness.labels import binary_labels
from mergekit_fair.fairness.measure_warnings import draw_warnings, small_group_warnings
from mergekit_fair.fairness.measurement import without_unsaid
from mergekit_fair.fairness.ranking import RankedRows, power_mean
from mergekit_fair.fairness.rates import Mask
from mergekit_fair.fairness.scored_rows import ScoredRows
from mergekit_fair.fairness.settings import DRAWS, MetricSettings
from mergekit_fair.schema import Record

RANKINGS: Mapping[str, Callable[[RankedRows, int], Estimate | None]] = MappingProxyType(
    {"auc": RankedRows.subgroup, "bpsn_auc": RankedRows.bpsn, "bnsp_auc": RankedRows.bnsp}
)
"""Name → AUC of a group, in the order of columns."""


class GroupQuality(Record):
    """Of one group; None means undefined.

    Attributes:
        n, n_pos: rows with a score, and those of them with a positive label.
        missing: rows without a score.
        auc, bpsn_auc, bnsp_auc: as `ranking` defines them.
        calibration: mean(p) − mean(y); None without probabilities.
    """

    n: int
    n_pos: int
    missing: int
    auc: Interval
    bpsn_auc: Interval
    bnsp_auc: Interval
    calibration: Interval


class PowerMeans(Record):
    """Mean over the deciding groups with the power −5, near the worst of them.

    Attributes:
        auc, bpsn_auc, bnsp_auc: of each AUC.
        combined: the mean of these three and of the AUC over all rows.
    """

    auc: Number
    bpsn_auc: Number
    bnsp_auc: Number
    combined: Number


class ScoreQuality(Record):
    """AUC and calibration of one predictor on one set of rows.

    Attributes:
        n: rows with a score.
        missing: rows without one, which are left out.
        auc: over all rows.
        auc_gap, bpsn_auc_gap, bnsp_auc_gap: max − min between the deciding groups.
        power_means: summaries over these groups.
        calibration: mean(p) − mean(y) over all rows; None without probabilities.
        calibration_gap: max − min of it between the deciding groups, in [0, 2].
        groups: by group, excluded and small groups included.
        deciding: gap → the groups that make it, where it is defined.
        warnings: why something is undefined or left out.
    """

    n: int
    missing: int
    auc: Interval
    auc_gap: Interval
    bpsn_auc_gap: Interval
    bnsp_auc_gap: Interval
    power_means: PowerMeans
    calibration: Interval
    calibration_gap: Interval
    groups: dict[str, GroupQuality]
    deciding: dict[str, Deciding] = {}
    warnings: Annotated[tuple[str, ...], Field(strict=False)]

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))


def score_quality(
    y_true: ArrayLike,
    scores: ArrayLike,
    groups: Any,
    *,
    probabilities: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    clusters: Any = None,
    confidence: float = 0.95,
    min_group_size: int = 1,
    exclude: Collection[str] = (),
    seed: int = 0,
    draws: int = DRAWS,
) -> ScoreQuality:
    """Measure AUC and calibration of scores, overall and by group.

    Args:
        y_true: shape (n,), labels, integers or booleans 0 and 1.
        scores: shape (n,), higher means more positive; None, NaN and infinite ones are left out
            and counted, and where they are more than 5 % of a deciding group or of all rows, gaps
            are undefined.
        groups: as in `measure`.
        probabilities: shape (n,), the chance of 1 that each score means, in [0, 1]; None where
            scores mean none, and calibration is undefined.
        weights: shape (n,), of the rows, finite and not negative; None: 1 each.
        clusters: shape (n,), what each row belongs to, as in `measure`; None: each is its own.
        confidence: of the intervals, in (0, 1).
        min_group_size: an AUC that ranks fewer positive or fewer negative rows, and a calibration
            of fewer rows, is reported, but decides no gap and no mean.
        exclude: names of groups that are reported, but decide none.
        seed: of the gaps' intervals; the same rows, in any order, give the same result.
        draws: of these.

    Returns:
        A `ScoreQuality`. Of a set without a positive or without a negative row, AUC is None, and
        the reason is under `warnings`.

    Raises:
        MeasurementError: input that no metric is defined on, or an unknown setting.

    Source: `mergekit_fair.fairness.ranking`; equal to scikit-learn's `roc_auc_score`.

    >>> y = [0, 0, 1, 1, 0, 1, 0, 1] * 25
    >>> p = [0.1, 0.4, 0.35, 0.8, 0.3, 0.2, 0.1, 0.9] * 25
    >>> found = score_quality(y, p, ["a", "a", "a", "a", "b", "b", "b", "b"] * 25, probabilities=p)
    >>> found.auc.value, found.groups["a"].auc.value, found.groups["b"].bpsn_auc.value
    (0.8125, 0.75, 1.0)
    >>> round(found.groups["b"].calibration.value, 4)
    -0.125
    >>> score_quality([1, 1], [0.3, 0.4], ["a", "b"]).auc.value is None
    True
    """
    settings = MetricSettings(
        confidence=confidence,
        min_group_size=min_group_size,
        exclude=exclude,
        seed=seed,
        draws=draws,
    )
    labels = binary_labels(y_true, "y_true")
    return measure_quality(labels, scores, groups, settings, probabilities, weights, clusters)


def measure_quality(
    labels: NDArray[np.int8],
    scores: ArrayLike,
    groups: Any,
    settings: MetricSettings,
    probabilities: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    clusters: Any = None,
) -> ScoreQuality:
    """As `score_quality`, of labels that are codes already; its gaps are max − min."""
    members = groups_of(groups, len(labels))
    rows = ScoredRows.of(labels, scores, members, probabilities, weights, clusters)
    sizes, is_answered = rows.sizes(settings), rows.is_answered(settings)
    aucs = {
        name: _by_group(
            partial(auc_of, rows.ranked), _ranks(sizes, name) & is_answered, len(rows), settings
        )
        for name, auc_of in RANKINGS.items()
    }
    calibrated = _by_group(
        rows.calibration, sizes.large() & is_answered, len(rows), settings, highest=2.0
    )
    families = {**aucs, "calibration": calibrated}
    auc = _interval(rows.ranked.overall(), settings)
    quality = ScoreQuality(
        n=len(rows),
        missing=int(rows.is_missing.sum()),
        auc=auc,
        **{f"{name}_gap": family.gap for name, family in aucs.items()},
        power_means=_power_means(auc, aucs),
        calibration=_interval(rows.calibration(), settings),
        calibration_gap=calibrated.gap,
        groups=_group_qualities(members.names, rows, families),
        deciding=_deciding(rows.members.names, families),
        warnings=(),
    )
    warnings = (*_warnings(rows, quality, settings), *draw_warnings(settings))
    return quality.model_copy(update={"warnings": warnings})


def _ranks(sizes: GroupSizes, name: str) -> Mask:
    """bool (G,), whose AUC decides: enough rows of both of the kinds that it ranks."""
    positive = sizes.outside if name == "bpsn_auc" else sizes.inside
    negative = sizes.outside if name == "bnsp_auc" else sizes.inside
    enough = (positive[:, 1] >= sizes.least) & (negative[:, 0] >= sizes.least)
    return np.asarray(enough & ~sizes.excluded)


@dataclass(frozen=True)
class _ByGroup:
    """One statistic of every group.

    Attributes:
        intervals: one a group.
        deciding: number of a group → its value, of those that decide; none at all where one of
            these has no value.
        gap: max − min of these.
    """

    intervals: list[Interval]
    deciding: dict[int, float]
    gap: Interval


def _by_group(
    of_group: Callable[[int], Estimate | None],
    decides: Mask,
    n: int,
    settings: MetricSettings,
    highest: float = 1.0,
) -> _ByGroup:
    """Of `of_group`, number of a group → its estimate, whose gap is at most `highest`."""
    intervals = [_interval(of_group(group), settings) for group in range(len(decides))]
    values = {group: intervals[group].value for group in np.flatnonzero(decides).tolist()}
    defined = {group: value for group, value in values.items() if value is not None}
    if len(defined) < len(values):
        defined = {}

    def estimate(number: int) -> Estimate:
        found = of_group(list(defined)[number])
        assert found is not None
        return found

    gap = range_interval(estimate, list(defined.values()), n, settings, highest)
    return _ByGroup(intervals, defined, gap)


def _deciding(names: tuple[str, ...], families: Mapping[str, _ByGroup]) -> dict[str, Deciding]:
    """Gap → the groups that make it."""
    found = {}
    for name, family in families.items():
        values = np.array([family.deciding.get(group, np.nan) for group in range(len(names))])
        if apart := ends(names, values):
            found[f"{name}_gap"] = Deciding(highest=apart[0], lowest=apart[1])
    return found


def _interval(estimate: Estimate | None, settings: MetricSettings) -> Interval:
    return Interval() if estimate is None else estimate.interval(settings.confidence)


def _power_means(auc: Interval, aucs: Mapping[str, _ByGroup]) -> PowerMeans:
    means = {
        name: undefined_to_none(power_mean(np.array(list(family.deciding.values()))))
        for name, family in aucs.items()
    }
    parts = [value for value in (auc.value, *means.values()) if value is not None]
    combined = sum(parts) / len(parts) if len(parts) == 1 + len(means) else None
    return PowerMeans(**means, combined=combined)


def _group_qualities(
    names: tuple[str, ...], rows: ScoredRows, families: Mapping[str, _ByGroup]
) -> dict[str, GroupQuality]:
    members, positive = rows.ranked.members, rows.ranked.positive
    scored, positives = members.sum(axis=0), members[positive].sum(axis=0)
    missing = rows.members.membership[rows.is_missing].sum(axis=0)
    qualities = {
        name: GroupQuality(
            n=int(scored[group]),
            n_pos=int(positives[group]),
            missing=int(missing[group]),
            **{key: family.intervals[group] for key, family in families.items()},
        )
        for group, name in enumerate(rows.members.names)
    }
    return {name: qualities[name] for name in names}


def _warnings(rows: ScoredRows, quality: ScoreQuality, settings: MetricSettings) -> Iterator[str]:
    if quality.missing:
        of_all = f"{quality.missing} of {len(rows.weights)} rows"
        yield f"{of_all} have no score: left out of AUC and calibration"
    if rows.probabilities is None:
        yield "the scores are no probabilities: calibration is undefined"
    if quality.auc.value is None:
        yield "AUC is undefined: it needs a positive and a negative row with a score"
        return
    positives = int(rows.ranked.positive.sum())
    for name, group in quality.groups.items():
        lacking = [key for key in RANKINGS if getattr(group, key).value is None]
        if lacking:
            yield (
                f"{', '.join(lacking)} of group {name!r} are undefined, and left out of gaps and "
                f"means: it has {group.n_pos} positive and {group.n - group.n_pos} negative rows "
                f"with a score, of {positives} and {quality.n - positives}"
            )
    if quality.auc_gap.value is None:
        yield "the gap of AUC is undefined: " + (
            "fewer than two groups that decide have enough rows of both classes with a score"
            if rows.is_answered(settings)
            else f"more than {MAX_UNANSWERED:.0%} of the scores of a group or of all rows are "
            "missing"
        )
    yield from small_group_warnings(rows.sizes(settings), settings.reference)
