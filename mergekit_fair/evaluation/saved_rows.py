"""The rows that something was measured on, as a file: labels, groups and keys, no texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mergekit_fair.evaluation.multi_predictions import AnyPredictions, MultiPredictions
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness.labels import UNANSWERED
from mergekit_fair.schema import parse_json


def rows_text(tasks: Mapping[str, AnyPredictions]) -> str:
    """JSON of the rows of each task, in their order; equal rows give equal text.

    >>> rows = Predictions(
    ...     "toxic", (7, 8), np.array([0, 1]), np.array([0, 1]),
    ...     {"a": np.array([True, False])}, (),
    ... )
    >>> print(rows_text({"toxic": rows}))
    {"toxic": {"keys": [7, 8], "labels": [0, 1], "groups": {"a": "10"}, "excluded": []}}
    >>> read_rows_text(rows_text({"toxic": rows}))["toxic"].labels
    array([0, 1], dtype=int8)
    """
    content: dict[str, dict[str, Any]] = {}
    for name, rows in tasks.items():
        content[name] = {
            "keys": list(rows.keys),
            "labels": rows.labels.tolist(),
            "groups": {
                group: np.where(inside, b"1", b"0").tobytes().decode()
                for group, inside in rows.groups.items()
            },
            "excluded": list(rows.excluded),
        }
        if isinstance(rows, MultiPredictions):
            content[name] |= {"kind": rows.kind, "names": list(rows.names)}
        if rows.weights is not None:
            content[name]["weights"] = rows.weights.tolist()
        if rows.clusters is not None:
            content[name]["clusters"] = rows.clusters.tolist()
    return json.dumps(content, ensure_ascii=True)


def rows_digest(tasks: Mapping[str, AnyPredictions]) -> str:
    """SHA-256 of `rows_text`, in hexadecimal digits."""
    return hashlib.sha256(rows_text(tasks).encode()).hexdigest()


def read_rows_text(text: str) -> dict[str, AnyPredictions]:
    """Task → its rows, unanswered.

    Raises:
        ValueError, LookupError, TypeError: it is not what `rows_text` gives.
    """
    return {name: _read(name, rows) for name, rows in parse_json(text).items()}


def _read(name: str, rows: Mapping[str, Any]) -> AnyPredictions:
    labels = np.array(rows["labels"], dtype=np.int8)
    common: dict[str, Any] = {
        "task": name,
        "keys": tuple(tuple(key) if isinstance(key, list) else key for key in rows["keys"]),
        "labels": labels,
        "predicted": np.full(labels.shape, UNANSWERED, dtype=np.int8),
        "groups": {
            group: np.array([each == "1" for each in inside], dtype=bool)
            for group, inside in rows["groups"].items()
        },
        "excluded": tuple(rows["excluded"]),
        "weights": np.array(rows["weights"], dtype=float) if "weights" in rows else None,
        "clusters": np.array(rows["clusters"], dtype=np.int64) if "clusters" in rows else None,
    }
    if "names" in rows:
        return MultiPredictions(kind=rows["kind"], names=tuple(rows["names"]), **common)
    return Predictions(**common)
