"""What may be said of two models: the one place that decides every mark, `!`, bold and headline.

b − a in accuracy, DPD or EOD is *claimed* where

    1. none of `DOUBTS` withholds it,
    2. its interval leaves out 0, at the models' own thresholds and at equal selection rates, and
    3. its p-value, corrected by Holm over everything that was looked at, is at most
       1 − confidence.

Whoever selects fewer people, or more, has smaller gaps. So a gap's p-value is that of an
intersection–union test (Berger 1982): b differs from a in the same direction at the models' own
thresholds, with both at a's selection rate, and with both at b's. "Not so" is a union of three
hypotheses, which the largest of their p-values tests without any correction:

    p = max(p_own, p_at_a, p_at_b) where all three have one sign, else 1

Holm (1979) then makes the chance of one or more false claims at most 1 − confidence, however the
tests depend on each other. Where a doubt makes the p-value blind it is 1, which is always valid.

All of it is symmetric: b − a is claimed exactly where a − b is, with the same p-values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self, TypeVar

from mergekit_fair.fairness.benchmark_pairs import BenchmarkDifferences
from mergekit_fair.fairness.compare import holm
from mergekit_fair.fairness.counts import CountTable
from mergekit_fair.fairness.deciding import Deciding, deciding_groups
from mergekit_fair.fairness.intervals import Interval, Number, Samples, undefined_to_none
from mergekit_fair.fairness.metrics import HEADLINE_GAPS
from mergekit_fair.fairness.one_vs_rest import MultiMeasurement
from mergekit_fair.fairness.pair import Difference
from mergekit_fair.fairness.rates import base_rate, is_degenerate, selection_rate
from mergekit_fair.fairness.settings import MetricSettings

Key = TypeVar("Key", bound=Hashable)

SATURATION = 0.1  # selection rates that are further apart are not equal
ONE_SIDED = 0.25  # of the share that a class has among the labels
_UNSAID = ("withheld", "near_0")
LEVEL = "level_matched."  # begins the name of a difference at the baseline's selection rate


def leaves_out_0(found: Interval) -> bool:
    """Whether an interval is known and holds numbers of one sign only.

    >>> leaves_out_0(Interval(value=-0.1, low=-0.2, high=-0.01))
    True
    >>> leaves_out_0(Interval(value=0.1, low=0.0, high=0.2)), leaves_out_0(Interval(value=0.1))
    (False, False)
    """
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def are_apart(rate: Number, other: Number, limit: float = SATURATION) -> bool:
    """Whether two selection rates are so far apart that gaps cannot be read side by side: a model
    is `saturated` that is this far from its reference. Unknown rates are apart.

    >>> are_apart(0.5, 0.65), are_apart(0.5, 0.55), are_apart(0.5, None)
    (True, False, True)
    """
    return rate is None or other is None or abs(rate - other) > limit + 1e-12


@dataclass(frozen=True)
class OwnFigures:
    """What a claim needs to know of each model by itself.

    Attributes:
        rates: "" → share of positive predictions, or class or label → its own; None without any.
        degenerate: predictions are (nearly) constant, see `rates.is_degenerate`.
        one_sided: one class is predicted less than `ONE_SIDED` as often as it occurs.
        gaps: `dpd` and `eod`, or mean and worst ones over classes or labels, with their intervals,
            at the model's own threshold.
        worse: the metrics in which it is worse than what it was made of, as thresholds by group
            may be than the model whose scores they cut.
        deciding: gap → the groups that make it; of classes and labels those of the worst one.
        worst_view: of classes and labels: `dpd` and `eod` → which of them has the largest gap.
    """

    rates: Mapping[str, Number]
    degenerate: bool
    one_sided: bool
    gaps: Mapping[str, Interval]
    worse: frozenset[str] = frozenset()
    deciding: Mapping[str, Deciding] = field(default_factory=dict)
    worst_view: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, table: CountTable, settings: MetricSettings) -> Self:
        """Of a model's counted rows."""
        samples = Samples.of(table, settings)
        overall = samples.counts.overall
        rate, share = float(selection_rate(overall)), float(base_rate(overall))
        return cls(
            rates={"": undefined_to_none(rate)},
            degenerate=bool(is_degenerate(overall)),
            one_sided=_is_one_sided(rate, share),
            gaps={name: metric.interval(samples) for name, metric in HEADLINE_GAPS.items()},
            deciding={k: v for k, v in deciding_groups(samples).items() if k in HEADLINE_GAPS},
        )

    @classmethod
    def of_views(cls, measured: MultiMeasurement) -> Self:
        """Of a model of classes or labels."""
        views = measured.views
        rates = {name: view.metrics["selection_rate"].value for name, view in views.items()}
        shares = [view.labels.base_rate for view in views.values()]
        return cls(
            rates=rates,
            degenerate=measured.degenerate,
            one_sided=any(
                rate is None or share is None or _is_one_sided(rate, share)
                for rate, share in zip(rates.values(), shares, strict=True)
            ),
            gaps={name: each for name, each in measured.metrics.items() if name != "acc"},
            deciding=measured.deciding,
            worst_view=measured.worst_view,
        )

    def selects_otherwise(self, other: OwnFigures, limit: float = SATURATION) -> bool:
        """Whether a selection rate is far from the other model's, see `are_apart`."""
        pairs = zip(self.rates.values(), other.rates.values(), strict=True)
        return any(are_apart(*each, limit) for each in pairs)

    @property
    def selection_rate(self) -> Number:
        """Of a binary task."""
        return self.rates[""]


def _is_one_sided(rate: float, share: float) -> bool:
    return rate < ONE_SIDED * share or 1 - rate < ONE_SIDED * (1 - share)


@dataclass(frozen=True)
class Evidence:
    """All that a claim about b − a rests on.

    Attributes:
        a, b: the models by themselves.
        own: metric → b − a, at their own thresholds.
        at_a, at_b: the same with both at a's selection rate, and with both at b's; None where
            thresholds on scores cannot bring them there.
        saturation: selection rates further apart than this are not equal.
    """

    a: OwnFigures
    b: OwnFigures
    own: Mapping[str, Difference]
    at_a: Mapping[str, Difference] | None = None
    at_b: Mapping[str, Difference] | None = None
    saturation: float = SATURATION

    def with_worse_a(self, metrics: Collection[str]) -> Self:
        """The same where a is worse than what it was made of."""
        return replace(self, a=replace(self.a, worse=frozenset(metrics)))

    def ranked(self, metric: str) -> tuple[OwnFigures, OwnFigures]:
        """The better model by its value, and the other one."""
        sign = -1 if metric in self.a.gaps else 1
        is_b = sign * (self.own[metric].value or 0.0) > 0
        return (self.b, self.a) if is_b else (self.a, self.b)

    def needs_levels(self, metric: str) -> bool:
        """A gap does; and the accuracy of a model that wins by saying the same to nearly all."""
        return metric in self.a.gaps or self.ranked(metric)[0].one_sided

    @property
    def headline(self) -> tuple[str, ...]:
        """What is judged: the accuracy and the gaps."""
        return ("acc", *self.a.gaps)

    def at_levels(self, metric: str) -> list[Difference]:
        """The differences at equal selection rates that a claim needs; empty if it needs none."""
        levels = (self.at_a, self.at_b) if self.needs_levels(metric) else ()
        return [differences[metric] for differences in levels if differences is not None]

    def parts(self, metric: str) -> list[Difference]:
        """The differences that all have to hold, the one at own thresholds first."""
        return [self.own[metric], *self.at_levels(metric)]


@dataclass(frozen=True)
class Doubt:
    """Why a difference is no claim although its interval leaves out 0.

    Attributes:
        name: for documents and tests.
        reason: in words, after "not claimed: ".
        withholds: whether it applies to a metric.
        is_blind: where it applies the p-value says nothing, and is 1.
    """

    name: str
    reason: str
    withholds: Callable[[Evidence, str], bool]
    is_blind: bool = False


def _is_degenerate(found: Evidence, metric: str) -> bool:
    return metric in found.a.gaps and (found.a.degenerate or found.b.degenerate)


def is_near_0(found: Evidence, metric: str) -> bool:
    """Both gaps may be 0 as far as their own intervals say; unknown ones may be."""
    if metric not in found.a.gaps:
        return False
    return all(not leaves_out_0(each.gaps[metric]) for each in (found.a, found.b))


def _is_handicapped(found: Evidence, metric: str) -> bool:
    return metric in found.ranked(metric)[1].worse


def _is_unlevel(found: Evidence, metric: str) -> bool:
    if not found.needs_levels(metric) or found.at_levels(metric):
        return False
    return metric not in found.a.gaps or found.a.selects_otherwise(found.b, found.saturation)


def _turns_around(found: Evidence, metric: str) -> bool:
    own = found.own[metric].value or 0.0
    levels = filter(leaves_out_0, found.at_levels(metric))
    return any(own * (level.value or 0.0) < 0 for level in levels)


def _is_gone(found: Evidence, metric: str) -> bool:
    return not all(map(leaves_out_0, found.at_levels(metric)))


NEAR_0 = Doubt(
    "near 0",
    "rests on gaps near 0: the intervals of both models' own gaps reach 0",
    is_near_0,
    is_blind=True,
)
DOUBTS: tuple[Doubt, ...] = (
    Doubt(
        "degenerate",
        "one of the two (nearly) always predicts the same, so that its gaps mean nothing",
        _is_degenerate,
        is_blind=True,
    ),
    NEAR_0,
    Doubt(
        "no level",
        "one of the two selects more, and no threshold on scores brings them to one selection rate",
        _is_unlevel,
        is_blind=True,
    ),
    Doubt(
        "own source",
        "is over a baseline that is itself worse there than the model that it was made of",
        _is_handicapped,
    ),
    Doubt("turned", "is the other way round at equal selection rates", _turns_around),
    Doubt("saturation", "is gone at equal selection rates", _is_gone),
)
"""In their order; the first that applies is said. What remains may still fail Holm's correction."""


@dataclass(frozen=True)
class Claim:
    """What may be said of b − a in one metric.

    Attributes:
        claimed: it is a difference that holds, whatever else was looked at.
        p_value: of the intersection–union test; None where undefined, or where none is made.
        adjusted_p_value: the same after Holm's correction.
        withheld: why it is not claimed although its interval leaves out 0; else None.
        near_0: both gaps may be 0, whatever their difference is.
    """

    claimed: bool = False
    p_value: Number = None
    adjusted_p_value: Number = None
    withheld: str | None = None
    near_0: bool = False


def withheld_by(found: Evidence, metric: str) -> Doubt | None:
    """The first doubt that applies; None: the p-value decides."""
    return next((doubt for doubt in DOUBTS if doubt.withholds(found, metric)), None)


def intersection_union(parts: Sequence[Difference]) -> Number:
    """The p-value of "all of them differ from 0, in one direction": the largest, or 1.

    Source: Berger 1982, Technometrics 24(4).

    Args:
        parts: differences of one metric; where the first is undefined, so is the result.

    >>> first = Difference(value=-0.2, low=-0.3, high=-0.1, p_value=0.001)
    >>> second = Difference(value=-0.1, low=-0.2, high=-0.01, p_value=0.03)
    >>> intersection_union([first, second])
    0.03
    >>> intersection_union([first, Difference(value=0.1, low=0.01, high=0.2, p_value=0.03)])
    1.0
    """
    if parts[0].value is None or parts[0].p_value is None:
        return None
    signs = {(part.value or 0.0) > 0 for part in parts}
    p_values = [1.0 if part.p_value is None else part.p_value for part in parts]
    return max(p_values) if len(signs) == 1 else 1.0


def claims(
    pairs: Mapping[Key, Evidence],
    confidence: float,
    benchmarks: Mapping[Key, BenchmarkDifferences] = MappingProxyType({}),
) -> dict[Key, dict[str, Claim]]:
    """Judge every pair in accuracy, DPD and EOD, of classes or labels in the mean and the worst of
    them, and every pair on a benchmark in all its scores.

    Args:
        pairs: name → what is known; Holm's correction is over all that are shown together.
        confidence: of the intervals; the chance of any false claim is at most 1 − confidence.
        benchmarks: further names → differences of scores, which need no equal selection rates.

    Returns:
        Name → metric → claim.
    """
    doubts: dict[tuple[Key, str], Doubt | None] = {
        (name, metric): withheld_by(found, metric)
        for name, found in pairs.items()
        for metric in found.headline
    }
    raw = {key: intersection_union(pairs[key[0]].parts(key[1])) for key in doubts}
    own = {key: pairs[key[0]].own[key[1]] for key in doubts}
    for name, scores in benchmarks.items():
        for metric, difference in scores.metrics.items():
            own[name, metric], raw[name, metric] = difference, difference.p_value
            doubts[name, metric] = NEAR_0 if metric in scores.near_0 else None
    p_values = {
        key: 1.0 if doubt is not None and doubt.is_blind else p_value
        for key, doubt in doubts.items()
        if (p_value := raw[key]) is not None
    }
    adjusted = holm(p_values)
    found: dict[Key, dict[str, Claim]] = {name: {} for name in (*pairs, *benchmarks)}
    for key, doubt in doubts.items():
        is_shown = leaves_out_0(own[key])
        is_claimed = is_shown and doubt is None and adjusted.get(key, 1.0) <= 1 - confidence
        reason = None
        if is_shown and not is_claimed:
            reason = _by_holm(adjusted.get(key), len(adjusted)) if doubt is None else doubt.reason
        name, metric = key
        near_0 = own[key].value is not None and (
            is_near_0(pairs[name], metric) if name in pairs else doubt is NEAR_0
        )
        found[name][metric] = Claim(
            is_claimed, p_values.get(key), adjusted.get(key), reason, near_0
        )
    return found


def _by_holm(p_value: Number, tests: int) -> str:
    if p_value is None:
        return "has no p-value"
    return f"p = {p_value:.2g} after Holm's correction over {tests} tests"


class JudgedDifference(Difference):
    """A difference b − a, and whether it is claimed: what `compare` writes as JSON.

    Attributes:
        adjusted_p_value: of the claim, after Holm's correction; None where none is looked for.
        claimed: see `claims`.
        withheld: why not, in words, where the interval leaves out 0; else left out.
        near_0: both models' own gaps may be 0; left out where not.
    """

    adjusted_p_value: Number = None
    claimed: bool = False
    withheld: str | None = None
    near_0: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON; what there is nothing to say about is left out."""
        content = super().to_dict()
        return {key: content[key] for key in content if key not in _UNSAID or content[key]}


def judged(
    pairs: Mapping[Key, Evidence],
    confidence: float,
    benchmarks: Mapping[Key, BenchmarkDifferences] = MappingProxyType({}),
) -> dict[Key, dict[str, JudgedDifference]]:
    """Every difference of every pair with what is claimed of it, as in `claims`; then those at a's
    selection rate, `level_matched.acc` and so on, which decide claims and are none of their own.
    """
    return {
        name: _judged(benchmarks[name].metrics, of)
        if name in benchmarks
        else {
            **_judged(pairs[name].own, of),
            **{
                f"{LEVEL}{metric}": each
                for metric, each in _judged(pairs[name].at_a or {}, {}).items()
                if metric in pairs[name].headline
            },
        }
        for name, of in claims(pairs, confidence, benchmarks).items()
    }


def _judged(
    differences: Mapping[str, Difference], of: Mapping[str, Claim]
) -> dict[str, JudgedDifference]:
    return {
        name: JudgedDifference(
            **dict(each),
            adjusted_p_value=claim.adjusted_p_value,
            claimed=claim.claimed,
            withheld=claim.withheld,
            near_0=claim.near_0,
        )
        for name, each in differences.items()
        for claim in [of.get(name, Claim())]
    }
