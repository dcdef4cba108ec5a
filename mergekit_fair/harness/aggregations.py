"""DPD and EOD as lm-eval aggregations: one item a document, (prediction, label, groups)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mergekit_fair.fairness import measure

Item = tuple[int, int, Collection[str]]


def dpd(items: Sequence[Item]) -> float:
    """Demographic parity difference between groups, in [0, 1]; NaN where it is undefined.

    max_g SR_g − min_g SR_g, see `mergekit_fair.fairness`.
    """
    return _gap(items, "dpd")


def eod(items: Sequence[Item]) -> float:
    """Equalized odds difference between groups, in [0, 1]; NaN where it is undefined.

    max(range of TPR_g, range of FPR_g), see `mergekit_fair.fairness`.
    """
    return _gap(items, "eod")


def _gap(items: Sequence[Item], name: str) -> float:
    predicted, labels, groups = zip(*items, strict=True)
    # lm-eval bootstraps aggregations itself in later versions: no draws of our own here.
    value = measure(labels, predicted, groups, draws=1).to_dict()["metrics"][name]["value"]
    return float("nan") if value is None else float(value)
