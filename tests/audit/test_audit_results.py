"""Which of two figures is better."""

from __future__ import annotations

from typing import Any

import pytest

from mergekit_fair.audit.audit_results import AuditedTask


@pytest.mark.parametrize(
    ("better", "base", "merge", "is_gain"),
    [
        *(("higher", 0.2, 0.4, True), ("lower", 0.2, 0.4, False)),
        *(("zero", -0.2, 0.1, True), ("zero", 0.1, -0.2, False)),
        # A share of preferences is best at 0.5: 0.3 is as far from it as 0.7.
        *(("half", 0.6, 0.3, False), ("half", 0.3, 0.6, True), ("half", 0.5, 0.5, None)),
    ],
)
def test_a_gain(better: Any, base: float, merge: float, is_gain: bool | None) -> None:
    models = {"base": {"score": {"value": base}}, "merge": {"score": {"value": merge}}}
    task = AuditedTask.from_dict(
        {"n": 1, "models": models, "differences": {}, "better": {"score": better}}, where="task"
    )
    assert task.is_gain("base", "score") is is_gain
