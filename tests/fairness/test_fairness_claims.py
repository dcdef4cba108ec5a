"""The rules that decide every mark: what is claimed of two models, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mergekit_fair.fairness import HEADLINE, Difference
from mergekit_fair.fairness.claims import (
    DOUBTS,
    Claim,
    Evidence,
    OwnFigures,
    are_apart,
    claims,
    intersection_union,
    judged,
    leaves_out_0,
    withheld_by,
)
from mergekit_fair.fairness.intervals import Interval

WIDE = {name: Interval(value=0.3, low=0.2, high=0.4) for name in ("dpd", "eod")}
SMALL = {name: Interval(value=0.05, low=0.0, high=0.2) for name in ("dpd", "eod")}
MODEL = OwnFigures(rates={"": 0.5}, degenerate=False, one_sided=False, gaps=WIDE)


def gap(value: float, half: float = 0.05, p_value: float = 0.001) -> Difference:
    return Difference(value=value, low=value - half, high=value + half, p_value=p_value)


def every(found: Difference) -> Mapping[str, Difference]:
    return dict.fromkeys(HEADLINE, found)


def evidence(**changes: Any) -> Evidence:
    """Two models that differ everywhere by −0.1, but for what is changed."""
    least = every(gap(-0.1))
    return replace(Evidence(MODEL, MODEL, least, least, least), **changes)


def claimed(found: Evidence, metric: str = "dpd") -> Claim:
    return claims({"b": found}, 0.95)["b"][metric]


def opposite(found: Evidence) -> Evidence:
    def turned(differences: Mapping[str, Difference] | None) -> dict[str, Difference] | None:
        if differences is None:
            return None
        return {
            name: Difference(
                value=None if each.value is None else -each.value,
                low=None if each.high is None else -each.high,
                high=None if each.low is None else -each.low,
                p_value=each.p_value,
            )
            for name, each in differences.items()
        }

    own = turned(found.own)
    assert own is not None
    # The level of a is now that of b.
    return replace(
        found, a=found.b, b=found.a, own=own, at_a=turned(found.at_b), at_b=turned(found.at_a)
    )


NEAR = {"a": replace(MODEL, gaps=SMALL), "b": replace(MODEL, gaps=SMALL)}
APART = {"b": replace(MODEL, rates={"": 0.7}), "at_a": None, "at_b": None}
CASES: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    (None, {"at_a": None, "at_b": None}),  # no scores, and the same level
    (None, {"b": replace(MODEL, gaps=SMALL)}),  # one gap is not near 0
    (None, {"b": replace(MODEL, rates={"": 0.7})}),
    (None, {"at_b": None, "b": replace(MODEL, rates={"": 0.7})}),
    ("degenerate", {"b": replace(MODEL, degenerate=True)}),
    ("degenerate", {"a": replace(MODEL, degenerate=True), **APART}),
    ("near 0", NEAR),
    ("near 0", {**NEAR, "b": replace(MODEL, gaps=dict.fromkeys(WIDE, Interval(value=0.3)))}),
    ("no level", APART),
    ("no level", {**APART, "b": replace(MODEL, rates={"": None})}),
    ("saturation", {"at_a": every(gap(-0.01))}),
    ("saturation", {"at_b": every(gap(-0.01))}),
    ("saturation", {"at_b": every(gap(0.01))}),
    ("saturation", {"at_b": every(Difference())}),
    ("turned", {"at_a": every(gap(0.1))}),
]


@pytest.mark.parametrize(("rule", "changes"), CASES)
def test_the_first_rule_that_applies_withholds_a_gap(
    rule: str | None, changes: dict[str, Any]
) -> None:
    found = evidence(**changes)
    by = withheld_by(found, "dpd")
    assert (by and by.name) == rule
    claim = claimed(found)
    assert claim.claimed is (rule is None)
    assert claim.withheld == (by and by.reason)
    if by is not None and by.is_blind:
        assert claim.p_value == 1.0
    if rule in ("degenerate", "near 0", "no level"):
        assert claimed(found, "acc").claimed  # these are about gaps


@pytest.mark.parametrize(("rule", "changes"), CASES)
def test_the_other_way_round_the_same_is_claimed(rule: str | None, changes: dict[str, Any]) -> None:
    del rule
    found = evidence(**changes)
    for metric in HEADLINE:
        assert claimed(found, metric) == claimed(opposite(found), metric)


def test_the_p_value_is_the_largest_of_three() -> None:
    found = evidence(at_a=every(gap(-0.1, p_value=0.004)), at_b=every(gap(-0.1, p_value=0.002)))
    claim = claimed(found)
    assert claim.p_value == 0.004
    assert claim.adjusted_p_value == pytest.approx(0.008)  # accuracy has 0.001, EOD the same
    assert claimed(found, "acc").p_value == 0.001
    assert intersection_union([Difference(), gap(-0.1)]) is None
    assert intersection_union([gap(-0.1), Difference()]) == 1.0
    assert intersection_union([gap(-0.1), gap(0.1)]) == 1.0


def test_holm_is_over_all_that_is_shown_together_and_named() -> None:
    own = every(gap(-0.1, p_value=0.008))
    one = evidence(own=own, at_a=own, at_b=own)
    assert claimed(one).claimed
    many = {f"m{n}": evidence(own=every(gap(-0.1, p_value=0.04))) for n in range(2)}
    found = claims({"b": one, **many}, 0.95)["b"]["dpd"]
    assert not found.claimed
    assert found.adjusted_p_value == pytest.approx(9 * 0.008)
    assert found.withheld == "p = 0.072 after Holm's correction over 9 tests"
    undefined = evidence(own=every(Difference()), at_a=None, at_b=None)
    found = claims({"b": one, "x": undefined}, 0.95)["b"]["dpd"]
    assert found.adjusted_p_value == pytest.approx(3 * 0.008)  # what is undefined is no test
    assert claimed(undefined) == Claim()


def test_what_reaches_0_is_neither_claimed_nor_explained() -> None:
    own = every(gap(-0.04, p_value=0.001))  # p-values and intervals may disagree by a draw
    assert claimed(evidence(own=own)) == Claim(False, 0.001, 0.003)
    near = claimed(evidence(own=own, **NEAR))
    assert (near.claimed, near.withheld, near.near_0) == (False, None, True)


def test_who_says_the_same_to_nearly_all_wins_no_accuracy_by_it() -> None:
    """Its scores may be better all the same, which shows at equal selection rates."""
    better, worse = every(gap(0.1)), every(gap(-0.1))
    one_sided = replace(MODEL, rates={"": 0.97}, one_sided=True)
    none = {"at_a": None, "at_b": None}
    assert not claimed(evidence(b=one_sided, own=better, **none), "acc").claimed
    assert not claimed(evidence(b=one_sided, own=better), "acc").claimed
    assert claimed(evidence(b=one_sided, own=better, at_a=better, at_b=better), "acc").claimed
    assert claimed(evidence(b=one_sided, own=worse, **none), "acc").claimed  # it lost
    assert claimed(evidence(a=one_sided, own=better, **none), "acc").claimed


def test_no_win_over_a_baseline_that_is_worse_than_its_own_source() -> None:
    worse = evidence().with_worse_a(["dpd"])
    found = claimed(worse)
    assert not found.claimed
    assert found.withheld is not None
    assert "made of" in found.withheld
    assert claimed(worse, "eod").claimed
    assert claimed(opposite(worse)) == found
    lost = every(gap(0.1))  # a loss to it is one all the more
    assert claimed(evidence(own=lost, at_a=lost, at_b=lost).with_worse_a(["dpd"])).claimed


def test_differences_with_their_claims_are_written() -> None:
    found = judged({"b": evidence(**NEAR)}, 0.95)["b"]
    assert list(found) == [*HEADLINE, *(f"level_matched.{name}" for name in HEADLINE)]
    assert found["acc"].to_dict() == {
        **{"value": -0.1, "low": -0.15000000000000002, "high": -0.05, "p_value": 0.001},
        **{"adjusted_p_value": 0.003, "claimed": True},
    }
    written = found["dpd"].to_dict()
    assert (written["claimed"], written["near_0"]) == (False, True)
    assert "near 0" in written["withheld"]
    assert type(found["dpd"]).from_dict(written) == found["dpd"]
    level = found["level_matched.dpd"]
    assert (level.value, level.claimed, level.adjusted_p_value) == (-0.1, False, None)
    alone = judged({"b": evidence(at_a=None, at_b=None)}, 0.95)["b"]
    assert list(alone) == list(HEADLINE)


def test_intervals_and_rates() -> None:
    assert [leaves_out_0(gap(v)) for v in (-0.1, -0.05, 0.0, 0.05, 0.1)] == [
        *(True, False, False, False, True)
    ]
    assert not are_apart(0.5, 0.6)
    assert are_apart(0.5, 0.58, 0.05)


def test_the_document_has_every_rule() -> None:
    text = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text(encoding="utf-8")
    assert all(f"| {doubt.name} | {doubt.reason} |" in text for doubt in DOUBTS)
