"""Names that would do something where they are shown, and results that are full of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from evaluations import evaluation, interval

from mergekit_fair.evaluation.evaluate import Evaluation, MultiEvaluation, evaluate
from mergekit_fair.evaluation.multi_predictions import MultiPredictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.metrics import GROUP_RATES, METRICS
from mergekit_fair.fairness.one_vs_rest import MULTI_METRICS
from mergekit_fair.sweep.record import PointResult
from mergekit_fair.sweep.results import SweepResults

NAMES = {
    "escape sequence": "\x1b[2J\x1b]0;owned\x07red",
    "single-byte CSI": "\x9b31mred",
    "carriage return": "good\rbad",
    "line": "one\ntwo",
    "windows line": "one\r\ntwo",
    "line separator": "one\u2028two\u2029three\x85four",
    "tab": "a\tb",
    "backspaces": "bad\b\b\bgood",
    "null": "a\x00b",
    "delete": "a\x7fb",
    "right to left": "\u202egpj.exe",
    "isolates": "\u2066a\u2069\u2067b",
    "zero width": "Ma\u200ble",
    "word joiner": "Fe\u2060male",
    "byte order mark": "\ufeffMale",
    "soft hyphen": "Ma\u00adle",
    "tag letters": "Male\U000e0041\U000e0042",
    "filler": "Male\u3164",
    "half a pair": "a\ud800b",
    "pipe": "a|b | c |",
    "image": "![x](http://evil.example/x.png)",
    "link": "[x](javascript:alert(1))",
    "definition": "[x]: http://evil.example",
    "heading": "# big",
    "underline": "===",
    "rule": "---",
    "list": "- item",
    "number": "1. item",
    "quote": "> quoted",
    "code": "`rm -rf /` ```",
    "emphasis": "**strong** _em_ ~~gone~~",
    "math": "$\\x$",
    "script": "<script>alert(1)</script>",
    "image tag": "<img src=x onerror=alert(1)>",
    "entity": "&lt;b&gt;&#x1b;",
    "comment": "<!-- a -- > b -->",
    "template": "{{ 7*7 }}{% raw %}",
    "format": "{0.__class__}%s%n",
    "backslash": "a\\",
    "quotes": '"\'"',
    "sum": "=1+1",
    "command": "=cmd|' /C calc'!A0",
    "plus": "+1+1",
    "minus": "-1+1",
    "at": "@SUM(A1)",
    "tab before": "\t=1+1",
    "return before": "\r=1+1",
    "wide sign": "\uff1d1+1",
    "blank before": " =1+1",
    "front matter": "x\n---\ntags: [evil]\n---",
    "yaml": "!!python/object/apply:os.system ['x']",
    "long": "long " * 200 + "name",
}


def measured(name: str, **changes: Any) -> Evaluation:
    """An evaluation of a group, task and model of this name."""
    metrics = dict.fromkeys(
        (m for m in METRICS if not METRICS[m].is_point), interval(0.5, 0.4, 0.6)
    )
    rates = dict.fromkeys(GROUP_RATES, 0.5)
    group = {"n": 4, "n_pos": 2, "unanswered": 0, **rates}
    content = evaluation(
        metrics,
        **{"task": name, "model": name, "split": "report", "warnings": [f"{name} is small"]},
        **{"groups": {name: group, "other": group}, "n": 8},
        **changes,
    )
    return Evaluation.from_dict(content)


def measured_classes(name: str, *, turn: int = 0) -> MultiEvaluation:
    """An evaluation of a class, group, task and model of this name; `turn` makes it another."""
    rows, names = np.arange(24), (name, "other", "third")
    predictions = MultiPredictions(
        task=name,
        keys=tuple(rows.tolist()),
        kind="classes",
        names=names,
        labels=np.eye(3, dtype=np.int8)[rows % 3],
        predicted=np.eye(3, dtype=np.int8)[(rows % 2) * ((rows + turn * (rows > 12)) % 3)],
        groups={name: rows % 2 == 0, "rest": rows % 2 == 1},
        excluded=(),
    )
    settings = MetricSettings(draws=20, min_group_size=1)
    return evaluate(predictions, settings, model=name, split="report")


def swept(name: str) -> SweepResults:
    """A sweep whose point, baseline, rule, group and task have this name."""
    found = measured(name)

    def point(kind: str, label: str) -> PointResult:
        return PointResult(
            id=kind, kind=kind, label=label, settings={}, lambda_=0.5, lambda_eff=0.5,
            split="report", evaluation=found,
        )  # fmt: skip

    gap = interval(-0.1, -0.2, -0.05) | {"p_value": 0.001, "adjusted_p_value": 0.001}
    gap |= {"claimed": True}
    return SweepResults.model_validate(
        {
            **{"sweep": name, "task": name, "confidence": 0.95, "selected_on": "validation"},
            "level": {"to": name, "rate": 0.5},
            "points": [point("baseline", name).to_dict(), point("merge", f"{name}!").to_dict()],
            "selected": {
                **{"label": f"{name}!", "id": "merge", "feasible": True, "rule": name},
                **{"reason": name, "candidates": (1, 1), "ties": ()},
            },
            **{"worst_group": None, "transfer": None, "warnings": [name], "versions": {}},
            "report": [point("baseline", name).to_dict(), point("merge", f"{name}!").to_dict()],
            "report_opened_for_another_selection": False,
            "comparison": {name: {metric: gap for metric, m in METRICS.items() if m.compared}},
        },
        strict=False,
    )


def swept_classes(name: str) -> SweepResults:
    """A sweep over classes whose class, point, baseline, rule, group and task have this name."""
    points = [
        PointResult(
            id=kind, kind=kind, label=label, settings={}, lambda_=0.5, lambda_eff=0.5,
            split="report", evaluation=measured_classes(name, turn=turn),
        )
        for turn, (kind, label) in enumerate([("baseline", name), ("merge", f"{name}!")])
    ]  # fmt: skip
    gap = interval(-0.1, -0.2, -0.05) | {"p_value": 0.001, "adjusted_p_value": 0.001}
    binary, views = swept(name).to_dict(), (name, "other", "third")
    every = {metric: gap | {"claimed": metric == "acc"} for metric in MULTI_METRICS}
    content = binary | {
        "points": [point.to_dict() for point in points],
        "report": [point.to_dict() for point in points],
        "level": {"to": name, "rates": dict.fromkeys(views, 0.5)},
        "comparison": {name: every},
        "comparison_views": {name: {view: {"dpd": gap, "eod": gap} for view in views}},
    }
    return SweepResults.model_validate(content, strict=False)
