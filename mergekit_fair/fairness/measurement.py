"""The result of one evaluation, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergekit_fair.fairness.intervals import Ends, Interval
from mergekit_fair.fairness.permutation import Null

Number = float | None


@dataclass(frozen=True)
class Uncertainty:
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
    basic: Ends | None
    bias_corrected: Ends | None
    band: Ends | None
    null: Null | None
    distinguishable_from_0: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain values; limits as lists."""
        return {
            "bias": self.bias,
            "standard_error": self.standard_error,
            "basic": self.basic and list(self.basic),
            "bias_corrected": self.bias_corrected and list(self.bias_corrected),
            "band": self.band and list(self.band),
            "null": self.null and {"high": self.null.high, "p_value": self.null.p_value},
            "distinguishable_from_0": self.distinguishable_from_0,
        }


@dataclass(frozen=True)
class Gaps:
    """DPD and EOD, each in [0, 1]; None means undefined."""

    dpd: Number
    eod: Number

    def to_dict(self) -> dict[str, Number]:
        """Return ``{"dpd", "eod"}``."""
        return {"dpd": self.dpd, "eod": self.eod}


@dataclass(frozen=True)
class Summary:
    """One-vs-rest gaps over groups: their mean, the largest, and whose it is."""

    macro: Number
    worst: Number
    worst_group: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"macro", "worst", "worst_group"}``."""
        return {"macro": self.macro, "worst": self.worst, "worst_group": self.worst_group}


@dataclass(frozen=True)
class GroupRates:
    """Counts and rates of one group, and its gaps to all rows outside it."""

    n: int
    n_pos: int
    selection_rate: Number
    tpr: Number
    fpr: Number
    acc: Number
    bal_acc: Number
    unanswered: int
    against_rest: Gaps

    def to_dict(self) -> dict[str, Any]:
        """Return everything but ``against_rest``."""
        return {
            "n": self.n,
            "n_pos": self.n_pos,
            "selection_rate": self.selection_rate,
            "tpr": self.tpr,
            "fpr": self.fpr,
            "acc": self.acc,
            "bal_acc": self.bal_acc,
            "unanswered": self.unanswered,
        }


@dataclass(frozen=True)
class Measurement:
    """Metrics of one predictor on one set of rows.

    Attributes:
        n: number of rows.
        unanswered: rows without a usable prediction.
        reference: what ``metrics["dpd"]`` and ``metrics["eod"]`` compare with.
        confidence: of every interval.
        degenerate: predictions are (nearly) constant, so that small gaps mean nothing.
        metrics: ``acc``, ``dpd``, ``eod``, ``bal_acc``, ``worst_group_acc``, ``selection_rate``,
            ``tpr``, ``fpr``, ``equal_opportunity``, and the ratios ``dp_ratio``, ``eo_ratio``.
        uncertainty: of ``dpd`` and ``eod``.
        between_groups, to_overall: gaps under these references.
        one_vs_rest: summaries ``dpd`` and ``eod``.
        base_rate, label_dpd: share of positive labels, and the DPD of the labels themselves.
        groups: rates by group, excluded and small groups included.
        warnings: why something is undefined or left out.
    """

    n: int
    unanswered: int
    reference: str
    confidence: float
    degenerate: bool
    metrics: dict[str, Interval]
    uncertainty: dict[str, Uncertainty]
    between_groups: Gaps
    to_overall: Gaps
    one_vs_rest: dict[str, Summary]
    base_rate: Number
    label_dpd: Number
    groups: dict[str, GroupRates]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation JSON: plain Python values, None for undefined."""
        against_rest = {name: rates.against_rest.to_dict() for name, rates in self.groups.items()}
        return {
            "n": self.n,
            "unanswered": self.unanswered,
            "reference": self.reference,
            "confidence": self.confidence,
            "degenerate": self.degenerate,
            "metrics": {name: interval.to_dict() for name, interval in self.metrics.items()},
            "uncertainty": {name: found.to_dict() for name, found in self.uncertainty.items()},
            "between_groups": self.between_groups.to_dict(),
            "one_vs_rest": {
                **{name: summary.to_dict() for name, summary in self.one_vs_rest.items()},
                "groups": against_rest,
            },
            "to_overall": self.to_overall.to_dict(),
            "labels": {"base_rate": self.base_rate, "dpd": self.label_dpd},
            "groups": {name: rates.to_dict() for name, rates in self.groups.items()},
            "warnings": list(self.warnings),
        }
