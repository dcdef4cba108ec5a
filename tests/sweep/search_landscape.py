"""A search problem with a known answer: three groups, logistic rates in λ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from evaluations import evaluation as read

from mergekit_fair.fairness.grouped import Grouped
from mergekit_fair.fairness.rates import (
    DPD_RATES,
    EOD_RATES,
    accuracy,
    false_positive_rate,
    gap_of,
    is_degenerate,
    selection_rate,
    true_positive_rate,
)
from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.search.proposers import Observation, Proposer, Space
from mergekit_fair.sweep.search.rate_model import GroupLayout
from mergekit_fair.sweep.selection import Rule

SPACE = Space(("weight.a", "weight.b", "weight.c"), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RULE = Rule(limits=(Limit("acc", ">=", 0.68),))
GROUPS = GroupLayout(is_partition=True)
_POSITIVE = np.array([400, 300, 250])
_NEGATIVE = np.array([600, 500, 750])


def evaluation(x: Sequence[float]) -> dict[str, Any]:
    """What a sweep would measure at λ = x: counts, rounded to rows."""
    lam = np.asarray(x)
    own, shared = lam * 2.5, lam.sum()
    up = np.array([-0.6, 0.0, -1.2]) + own + 0.7 * shared - 0.3 * shared**2
    down = np.array([-1.6, -0.4, -2.2]) + 1.2 * own - np.roll(lam, 1) + 0.4 * shared - own * lam
    hit = np.rint(_POSITIVE / (1 + np.exp(-up))).astype(int)
    alarm = np.rint(_NEGATIVE / (1 + np.exp(-down))).astype(int)
    zero = np.zeros(3, dtype=int)
    counts = np.stack(
        [
            np.stack([_NEGATIVE - alarm, alarm, zero], axis=-1),
            np.stack([_POSITIVE - hit, hit, zero], axis=-1),
        ],
        axis=-2,
    )
    overall, usable = counts.sum(axis=0), np.ones(3, dtype=bool)
    names = {
        "acc": accuracy,
        "selection_rate": selection_rate,
        "tpr": true_positive_rate,
        "fpr": false_positive_rate,
    }
    gaps = {
        "dpd": gap_of(DPD_RATES, Grouped(counts, overall), usable),
        "eod": gap_of(EOD_RATES, Grouped(counts, overall), usable),
    }
    content: dict[str, Any] = {
        "n": int(overall.sum()),
        "degenerate": bool(is_degenerate(overall)),
        "labels": {"base_rate": float(_POSITIVE.sum() / overall.sum()), "dpd": None},
        "groups": {
            name: {
                "n": int(table.sum()),
                "n_pos": int(table[1].sum()),
                "unanswered": 0,
                **{key: float(rate(table)) for key, rate in names.items()},
            }
            for name, table in zip("abc", counts, strict=True)
        },
    }
    values = {**{name: rate(overall) for name, rate in names.items()}, **gaps}
    return {**read({name: float(value) for name, value in values.items()}), **content}


def result(content: dict[str, Any] | None) -> PointResult:
    """A search point with this evaluation, or one that failed."""
    outcome = {"error": "NaN"} if content is None else {"evaluation": content}
    head = {"id": "x", "kind": "search", "label": "x", "settings": {}, "split": "validation"}
    return PointResult.model_validate({**head, "lambda": 1.0, "lambda_eff": None, **outcome})


def seen_at(x: tuple[float, ...], content: dict[str, Any] | None, rule: Rule = RULE) -> Observation:
    return Observation.of(x, result(content), rule)


def measure(x: tuple[float, ...], rule: Rule = RULE) -> Observation:
    return seen_at(x, evaluation(x), rule)


def failed(x: tuple[float, ...], rule: Rule = RULE) -> Observation:
    return seen_at(x, None, rule)


def search(proposer: Proposer, budget: int, size: int = 1, rule: Rule = RULE) -> list[Observation]:
    """Ask and measure until the budget is spent."""
    history: list[Observation] = []
    while len(history) < budget:
        asked = proposer.ask(history, min(size, budget - len(history)))
        if not asked:
            break
        history += [measure(x, rule) for x in asked]
    return history
