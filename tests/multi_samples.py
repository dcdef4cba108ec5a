"""Samples of tasks of classes and of labels, as `eval` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mergekit_fair.evaluation.multi_predictions import predicted_of
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.fairness.views import Kind

NAMES = ("hate", "offensive", "neither")


def multi_samples(
    kind: Kind,
    labels: Any,
    log_probs: Any,
    groups: Sequence[Sequence[str]],
    names: Sequence[str] = NAMES,
) -> list[dict[str, Any]]:
    """One a row.

    Args:
        kind: of the answers.
        labels: (n,) numbers of classes, or (n, V) of 0 and 1.
        log_probs: (n, V).
        groups: of every row.
    """
    predicted = predicted_of(kind, np.asarray(log_probs))
    samples = []
    for row, (label, codes, of_row) in enumerate(zip(labels, predicted, groups, strict=True)):
        said = codes.tolist() if kind == "labels" else int(codes.argmax())
        truth = np.asarray(label).tolist()
        doc = {"id": row, "text": f"text {row}", "label": truth, kind: list(names)}
        doc |= {"groups": list(of_row), "excluded": []}
        item = [None if UNANSWERED in codes else said, truth, list(of_row), list(names)]
        samples.append(
            {
                "doc_id": row,
                "doc": doc,
                "filter": "none",
                "doc_hash": _digest(doc),
                "filtered_resps": [[float(value), False] for value in log_probs[row]],
                "metrics": ["acc", "macro_dpd", "worst_dpd", "macro_eod", "worst_eod"],
                **dict.fromkeys(("macro_dpd", "worst_dpd", "macro_eod", "worst_eod"), item),
            }
        )
    return samples


def _digest(doc: dict[str, Any]) -> str:
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


def three_classes(
    n: int = 600, skill: float = 1.0, bias: float = 0.0, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of two groups whose labels and texts are those of every call; a model of some skill that
    says `hate` more often about the group a by `bias` logits."""
    rows = np.random.default_rng(0)
    labels, groups = rows.integers(0, 3, n), rows.integers(0, 2, n)
    logits = skill * np.eye(3)[labels] + np.random.default_rng(seed).normal(size=(n, 3))
    logits[groups == 0, 0] += bias
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return multi_samples("classes", labels, log_probs, [["ab"[code]] for code in groups])
