"""Which groups may decide a maximum: present, large enough, and not excluded.

A rate of a few rows is noise, and the largest of several noisy rates is the noisiest one's. So a
group's rate takes part in a gap only where it is a share of at least `min_group_size` rows: of its
rows for selection rate, accuracy and predictive value, of its positive rows for TPR, of its
negative rows for FPR. Labels count, never predictions, so that no model chooses who decides.
Against the rest of the rows (`one_vs_rest`) the rest must be as large.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.grouped import Counts
from mergekit_fair.fairness.rates import DPD_RATES, EOD_RATES, Mask, Rate
from mergekit_fair.fairness.settings import MetricSettings

MAX_UNANSWERED = 0.05  # largest share of rows of a group whose prediction may be missing


@dataclass(frozen=True, eq=False)
class GroupSizes:
    """How many rows groups have: all that who decides depends on.

    Attributes:
        names: of the G groups.
        inside, outside: int (G, 2), rows of each group and of all others, by label.
        excluded: bool (G,), who is reported and never decides.
        least: rows that a rate that decides is at least a share of.

    >>> rows = [[60, 30], [50, 12], [40, 4]]
    >>> sizes = GroupSizes.of(("a", "b", "c"), rows, [150, 46], MetricSettings(min_group_size=30))
    >>> sizes.deciding(DPD_RATES)
    array([[ True,  True,  True]])
    >>> sizes.deciding(EOD_RATES)  # only a has 30 positive rows: nothing to compare its TPR with
    array([[False, False, False],
           [ True,  True,  True]])
    """

    names: tuple[str, ...]
    inside: NDArray[np.int64]
    outside: NDArray[np.int64]
    excluded: Mask
    least: int

    @classmethod
    def of(
        cls, names: Sequence[str], inside: ArrayLike, total: ArrayLike, settings: MetricSettings
    ) -> GroupSizes:
        """Of rows by label, of the groups (G, 2) and of all (2,).

        Raises:
            MeasurementError: an unknown name is excluded.
        """
        _require_known(settings.exclude, names)
        rows = np.asarray(inside, dtype=np.int64).reshape(len(names), 2)
        excluded = np.isin(np.asarray(names, dtype=str), list(settings.exclude))
        outside = np.asarray(total, dtype=np.int64) - rows
        return cls(tuple(names), rows, outside, excluded, int(settings.min_group_size))

    @classmethod
    def of_rows(
        cls,
        labels: NDArray[np.int8],
        groups: Mapping[str, NDArray[np.bool_]],
        weights: NDArray[np.float64] | None,
        settings: MetricSettings,
    ) -> GroupSizes:
        """Of labels (n,) and the members (n,) of every group; rows of weight 0 stand for nobody."""
        counted = np.ones(len(labels), bool) if weights is None else np.asarray(weights) > 0
        by_label = np.stack([counted & (labels == label) for label in (0, 1)], axis=-1)
        members = np.array(list(groups.values()), dtype=np.int64).reshape(len(groups), len(labels))
        return cls.of(tuple(groups), members @ by_label, by_label.sum(axis=0), settings)

    def large(self, labels: Sequence[int] = (0, 1)) -> Mask:
        """bool (G,), who has enough rows of these labels, and is not excluded."""
        enough = self.inside[:, list(labels)].sum(axis=-1) >= self.least
        return np.asarray(enough & ~self.excluded)

    def deciding(self, rates: Sequence[Rate], reference: str = "between_groups") -> Mask:
        """bool (R, G), whose rate takes part in a gap; nobody's where it is not two groups'."""
        return np.stack([self._deciding(rate.labels, reference) for rate in rates])

    def _deciding(self, labels: tuple[int, ...], reference: str) -> Mask:
        large = self.large(labels)
        if large.sum() < 2:
            return np.zeros_like(large)
        return large & self._has_rest(labels) if reference == "one_vs_rest" else large

    def against_rest(self, rates: Sequence[Rate]) -> Mask:
        """bool (G,), who has enough rows for all of these rates, and so has the rest of it."""
        enough = [self.large(rate.labels) & self._has_rest(rate.labels) for rate in rates]
        return np.asarray(np.all(enough, axis=0))

    def _has_rest(self, labels: Sequence[int]) -> Mask:
        return np.asarray(self.outside[:, list(labels)].sum(axis=-1) >= self.least)


@dataclass(frozen=True, eq=False)
class EligibleGroups:
    """Which groups decide a table's metrics; it stays fixed over bootstrap draws.

    Attributes:
        sizes: how many rows the groups have, whatever these count for.
        answers: (G, 2, 3), what was predicted.
        is_answered: predictions are missing for at most `MAX_UNANSWERED` of every deciding group
            and of all rows. To leave out only the others would let a model hide whom it treats
            worst.
    """

    sizes: GroupSizes
    answers: Counts
    is_answered: bool

    @classmethod
    def of(cls, table: CountTable, settings: MetricSettings) -> EligibleGroups:
        """Of a table of counts; raises MeasurementError where an unknown name is excluded."""
        rows, counts = table.rows, table.counts
        by_label = rows.groups.sum(axis=-1)
        sizes = GroupSizes.of(table.groups, by_label, rows.overall.sum(axis=-1), settings)
        decides = counts.groups[sizes.large()]
        answered = is_answered(
            np.append(decides[..., 2].sum(axis=-1), counts.overall[..., 2].sum()),
            np.append(decides.sum(axis=(-2, -1)), counts.overall.sum()),
        )
        return cls(sizes, counts.groups, answered)

    @property
    def deciding(self) -> Mask:
        """bool (G,), who may decide a minimum over groups such as worst-group accuracy."""
        return self.sizes.large()

    def comparable(self, rates: Sequence[Rate], reference: str = "between_groups") -> Mask:
        """bool (R, G), whose rate takes part in a gap of this table.

        As the sizes say; but nobody's where too many predictions are missing, or where a group
        that decides has no such rate, for no prediction of its rows is one that the rate is a
        share of.
        """
        deciding = self.sizes.deciding(rates, reference)
        wholes = np.stack([rate.whole(self.answers) for rate in rates])
        is_known = ~(deciding & (wholes <= 0)).any(axis=-1, keepdims=True)
        return np.asarray(deciding & is_known & self.is_answered)


def eligible_groups(names: Sequence[str], sizes: ArrayLike, settings: MetricSettings) -> Mask:
    """Mark the groups that may decide a maximum or a minimum over groups.

    Args:
        names: the G group names.
        sizes: their numbers of rows, (G,).
        settings: `min_group_size`, and `exclude`, the names of semantically empty groups
            ("other"): reported, never deciding.

    Returns:
        bool (G,).

    Raises:
        MeasurementError: an unknown name is excluded.

    >>> eligible_groups(("a", "b", "other"), [90, 4, 50], MetricSettings(min_group_size=5))
    array([ True, False,  True])
    """
    _require_known(settings.exclude, names)
    large = np.asarray(sizes) >= settings.min_group_size
    excluded = np.isin(np.asarray(names, dtype=str), list(settings.exclude))
    return np.asarray(large & ~excluded)


def _require_known(excluded: Collection[str], names: Sequence[str]) -> None:
    for name in excluded:
        if name not in names:
            raise MeasurementError(
                "no such group",
                where="exclude",
                got=name,
                allowed=names,
                fix="name groups as they are named in the data",
            )


def is_answered(missing: ArrayLike, sizes: ArrayLike) -> bool:
    """Whether few enough predictions are missing in each of several sets of rows, none empty."""
    shares = np.asarray(missing) / np.asarray(sizes)
    return not bool((shares > MAX_UNANSWERED).any())


def worst_group(
    evaluation: Mapping[str, Any],
    *,
    candidates: Collection[str],
    excluded: Collection[str] = (),
    min_group_size: int = 1,
) -> tuple[str, dict[str, float]]:
    """The group with the largest mean of one-vs-rest DPD and EOD, and that mean for every group.

    Source: arXiv 2505.24262 (worst group under FFT). Excluded groups and groups whose DPD or EOD is
    undefined do not take part, nor do those whose rates, or whose rest's, are shares of fewer than
    `min_group_size` rows; of equals, the first name wins.

    Args:
        evaluation: of the fully fine-tuned model, on the validation split, in JSON; with
            `positives_of`.
        candidates: the groups that have a model to inject.
        excluded: semantically empty groups such as "other".

    Raises:
        MeasurementError: no candidate has a defined DPD and EOD.
    """
    gaps = evaluation["one_vs_rest"]["groups"]
    names = sorted(gaps)
    present = [name for name in excluded if name in names]
    settings = MetricSettings(min_group_size=min_group_size, exclude=present)
    eligible = _sizes(evaluation, names, settings).against_rest((*DPD_RATES, *EOD_RATES))
    harms: dict[str, float] = {}
    for name, may in zip(names, eligible, strict=True):
        values = [gaps[name][key] for key in ("dpd", "eod")]
        if name in candidates and may and None not in values:
            harms[name] = sum(values) / len(values)
    if not harms:
        raise MeasurementError(
            "no candidate group has a defined DPD and EOD", allowed=sorted(candidates)
        )
    return max(harms, key=lambda name: harms[name]), harms


def positives_of(evaluation: Mapping[str, Any]) -> int | None:
    """Rows with a positive label, of an evaluation in JSON; None if it does not say it.

    Before version 0.2 it said their share, which of weighted rows is a share of weight.
    """
    if "n_pos" in evaluation or evaluation.get("weighted"):
        return evaluation.get("n_pos")
    share = evaluation.get("labels", {}).get("base_rate")
    return None if share is None else round(share * evaluation["n"])


def _sizes(
    evaluation: Mapping[str, Any], names: Sequence[str], settings: MetricSettings
) -> GroupSizes:
    """Of an evaluation in JSON whose `positives_of` are known."""
    positive = positives_of(evaluation)
    assert positive is not None
    groups = [evaluation["groups"][name] for name in names]
    by_label = [(group["n"] - group["n_pos"], group["n_pos"]) for group in groups]
    return GroupSizes.of(names, by_label, (evaluation["n"] - positive, positive), settings)
