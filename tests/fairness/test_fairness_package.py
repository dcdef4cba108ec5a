"""The public surface, and what importing it must not cost."""

import subprocess
import sys
from inspect import isfunction

from mergekit_fair import fairness


def test_exports():
    assert fairness.__all__ == [
        "HEADLINE", "METRICS", "Comparison", "Comparisons", "CountTable", "Difference", "Groups",
        "Measurement", "MetricSettings",
        "MultiComparison", "MultiMeasurement", "ScoreMeasurement", "ScoreQuality", "compare",
        "compare_classes", "compare_labels", "compare_many",
        "cross", "estimate",
        "holm", "matching_threshold", "measure", "measure_classes", "measure_labels",
        "measure_scores", "measure_table", "predict_at", "score_quality",
    ]  # fmt: skip
    assert all(hasattr(fairness, name) for name in fairness.__all__)


def test_import_is_light():
    code = (
        "import sys, mergekit_fair.fairness;"
        "print([m for m in ('torch', 'pandas', 'fairlearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_function_has_a_worked_example():
    functions = [found for name in fairness.__all__ if isfunction(found := getattr(fairness, name))]
    assert len(functions) >= 10
    for function in functions:
        assert ">>> " in (function.__doc__ or ""), function.__name__
