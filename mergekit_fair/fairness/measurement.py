"""The result of one evaluation: types that write and read the same JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, StrictFloat, model_serializer, model_validator

from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.intervals import Interval, Number
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.schema import Record, nearest

_UNSAID = ("n_pos", "weighted", "clusters", "against", "deciding")
Limits = Annotated[tuple[StrictFloat, StrictFloat], Field(strict=False)]  # JSON knows lists only


class PermutedGap(Record):
    """A gap's distribution under permuted group labels.

    Attributes:
        high: the gap that it stays below with the given confidence, in [0, 1].
        p_value: chance of a gap at least as large as the one measured.
    """

    high: float
    p_value: float


class Uncertainty(Record):
    """How sure a gap is, beside its interval; None where it cannot be said.

    Attributes:
        bias: bootstrap estimate of the bias, mean replicate − value; near 0 a gap is biased
            upward.
        standard_error: standard deviation of the replicates.
        basic, bias_corrected: intervals of these kinds; both cover too seldom near 0.
        band: simultaneous Wilson/Šidák limits.
        null: the gap under permuted group labels.
        distinguishable_from_0: the interval leaves out 0, and chance alone gives a gap this
            large in at most 1 − confidence of all permutations.
    """

    bias: Number
    standard_error: Number
    basic: Limits | None
    bias_corrected: Limits | None
    band: Limits | None
    null: PermutedGap | None
    distinguishable_from_0: bool | None


class Gaps(Record):
    """DPD and EOD, each in [0, 1]; None means undefined."""

    dpd: Number
    eod: Number


class GapSummary(Record):
    """One-vs-rest gaps over groups: their mean, the largest, and whose it is."""

    macro: Number
    worst: Number
    worst_group: str | None


class OneVsRest(Record):
    """Every group against all rows outside it: summaries of DPD and EOD, and both by group."""

    dpd: GapSummary
    eod: GapSummary
    groups: dict[str, Gaps]


class Against(Record):
    """Signed differences from one group.

    Attributes:
        group: the one that is subtracted.
        groups: every other group → rate of `metrics.GROUP_RATES` (those that are shares of rows) →
            its rate minus that of `group`, in [−1, 1].
    """

    group: str
    groups: dict[str, dict[str, Interval]]


class LabelRates(Record):
    """Of the labels themselves: share of positives, and the DPD that a perfect predictor has."""

    base_rate: Number
    dpd: Number


class GroupRates(Record):
    """Counts of one group, and one attribute for every rate of `metrics.GROUP_RATES`.

    Attributes:
        n: rows.
        n_pos: rows with a positive label.
        unanswered: rows without a usable prediction.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]

    n: int
    n_pos: int
    unanswered: int

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @model_validator(mode="after")
    def _known_rates(self) -> GroupRates:
        for name in self.__pydantic_extra__:
            if name not in GROUP_RATES:
                raise ValueError(f"unknown rate {name!r}{nearest(name, list(GROUP_RATES))}")
        return self

    @model_serializer
    def _in_order(self) -> dict[str, Any]:
        rates = {name: getattr(self, name) for name in GROUP_RATES if name in self.model_fields_set}
        return {"n": self.n, "n_pos": self.n_pos, **rates, "unanswered": self.unanswered}


class Measurement(Record):
    """Metrics of one predictor on one set of rows.

    Attributes:
        n, n_pos: number of rows, and of those with a positive label; None before version 0.2.
        weighted: rates are shares of the rows' weights; written only where they are. Weights that
            are all equal are none.
        clusters: how many of them are resampled; written only where rows are not single.
        unanswered: rows without a usable prediction.
        reference: what `metrics["dpd"]` and `metrics["eod"]` compare with.
        confidence: of every interval.
        degenerate: predictions are (nearly) constant, so that small gaps mean nothing.
        metrics: name → value with interval, of `metrics.METRICS`.
        uncertainty: of `dpd` and `eod`.
        between_groups, one_vs_rest, to_overall: DPD and EOD under each reference.
        labels: share of positive labels, and the DPD of the labels themselves.
        groups: rates by group, excluded and small groups included.
        deciding: gap or minimum → the groups that make it. Of the gaps and of worst-group accuracy,
            where they are defined.
        against: differences from a chosen group; written only where one was chosen.
        warnings: why something is undefined or left out.
    """

    n: int
    n_pos: int | None = None
    weighted: bool = False
    clusters: int | None = None
    unanswered: int
    reference: str
    confidence: float
    degenerate: bool
    metrics: dict[str, Interval]
    uncertainty: dict[str, Uncertainty]
    between_groups: Gaps
    one_vs_rest: OneVsRest
    to_overall: Gaps
    labels: LabelRates
    groups: dict[str, GroupRates]
    deciding: dict[str, Deciding] = {}
    against: Against | None = None
    warnings: Annotated[tuple[str, ...], Field(strict=False)]

    @model_serializer(mode="wrap")
    def _stated(self, serialize: Any) -> dict[str, Any]:
        return without_unsaid(serialize(self))


def without_unsaid(fields: dict[str, Any]) -> dict[str, Any]:
    """What a measurement writes: what there is nothing to say about is left out."""
    return {
        name: value
        for name, value in fields.items()
        if name not in _UNSAID or not (value is None or value is False or value == {})
    }
