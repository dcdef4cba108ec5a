"""mean(p) − mean(y) by group, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mergekit_fair.fairness import score_quality


@pytest.mark.parametrize("seed", range(10))
def test_by_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 80
    y, p, weights = rng.integers(0, 2, n), rng.random(n), rng.random(n)
    masks = {"a": rng.random(n) < 0.3, "b": rng.random(n) < 0.6, "none": np.zeros(n, bool)}
    found = score_quality(y, np.log(p), masks, probabilities=p, weights=weights)
    expected = {
        name: np.average((p - y)[mask], weights=weights[mask])
        for name, mask in masks.items()
        if mask.any()
    }
    actual = {name: found.groups[name].calibration.value for name in expected}
    assert actual == pytest.approx(expected, abs=1e-12)
    assert found.groups["none"].calibration.value is None
    assert found.calibration.value == pytest.approx(np.average(p - y, weights=weights), abs=1e-12)
    gap = found.calibration_gap
    assert gap.value == pytest.approx(np.ptp(list(expected.values())))
    assert 0 <= gap.low <= gap.value <= gap.high <= 2


def test_a_plain_group_has_the_interval_of_its_base_rate() -> None:
    """All p alike: what is uncertain is the share of positives, as Wilson's interval says."""
    y = [0] * 30 + [1] * 10
    found = score_quality(y, [0.2] * 40, ["a"] * 40, probabilities=[0.2] * 40).groups["a"]
    assert found.calibration.value == pytest.approx(-0.05)
    assert (found.calibration.low, found.calibration.high) == pytest.approx(
        (-0.20, 0.058), abs=0.02
    )
    none = score_quality([0] * 40, [0.2] * 40, ["a"] * 40, probabilities=[0.2] * 40).groups["a"]
    assert none.calibration.high == pytest.approx(0.2)
    assert none.calibration.low == pytest.approx(0.11, abs=0.02)


def test_without_probabilities_it_is_undefined_and_said() -> None:
    found = score_quality([0, 1], [-3.0, 3.0], ["a", "b"])
    assert found.calibration.value is found.calibration_gap.value is None
    assert any("no probabilities" in text for text in found.warnings)
