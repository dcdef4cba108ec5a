"""Verdicts on injections, which must not call a guess safe."""

import json
import time
from statistics import NormalDist

import numpy as np
import pytest
from transfers import STEP, TransferRows, matrix

from mergekit_fair.errors import MeasurementError
from mergekit_fair.sweep.transfer_effects import (
    METRICS,
)
from mergekit_fair.sweep.verdicts import judged, verdicts


@pytest.fixture(scope="module")
def rows():
    return TransferRows()


def test_harm_help_and_too_few_rows_have_their_verdicts(rows):
    stepped = {"harms": rows.harmed("A"), "helps": rows.helped()}
    found = rows.matrix(stepped, min_group_size=500)
    harmful, helpful = verdicts(found, 0.1)
    assert (harmful.group, harmful.status) == ("harms", "unsafe")
    assert harmful.worst.group == "A"
    assert harmful.worst.low > 0.1
    assert harmful.reason.startswith("the mean of one-vs-rest DPD and EOD of A ")
    assert f"changes by {harmful.worst.value:+.3f} [{harmful.worst.low:+.3f}, " in harmful.reason
    assert harmful.reason.endswith("harm of more than 0.1")
    assert helpful.status == "safe"
    assert helpful.worst.high <= 0.1
    assert helpful.reason.startswith("at worst the mean of one-vs-rest")
    assert helpful.reason.endswith(", within 0.1")
    # C has about 200 rows: with it, no step is proven within a point.
    few = verdicts(rows.matrix(stepped, min_group_size=1), 0.04)[1]
    assert few.status == "unproven"
    assert few.worst.group == "C"
    assert few.worst.low < 0.04 < few.worst.high
    assert few.reason.endswith("it takes more rows of C or a larger tolerance")


def test_a_loss_of_accuracy_alone_is_harm(rows):
    """Both labels are confused in every group alike: gaps stay, accuracy falls."""
    flipped = np.where(rows.rng.random(len(rows.y)) < 0.2, 1 - rows.target, rows.target)
    (found,) = verdicts(rows.matrix({"A": flipped}), 0.02)
    assert found.status == "unsafe"
    assert found.worst.kind == "acc"
    assert found.worst.value > 0.1
    assert f"accuracy of {found.worst.group} changes by -0.1" in found.reason


def test_thirty_rows_that_do_not_change_prove_nothing(rows):
    """Every plain replicate of such a group is the same: an interval of no width at 0."""
    groups = {**rows.groups, "tiny": np.arange(len(rows.y)) < 30}
    found = matrix(rows.y, rows.target, {"A": rows.target.copy()}, groups, step=STEP)
    (verdict,) = verdicts(found, 0.05)
    assert verdict.status == "unproven"
    assert verdict.worst.group == "tiny"
    assert (verdict.worst.value, verdict.worst.high > 0.05) == (0, True)
    assert found.change.high["acc"][0, 3] > 0.05
    large = matrix(rows.y, rows.target, {"A": rows.target}, groups, step=STEP,
                            min_group_size=500)  # fmt: skip
    assert verdicts(large, 0.05)[0].status == "safe"
    assert not large.change.value["harm"].any()


def test_a_rate_of_too_few_rows_takes_no_part(rows):
    """Without positive rows a group's gap is that of selection rate and FPR."""
    groups = {**rows.groups, "no positives": (rows.y == 0) & rows.groups["A"]}
    stepped = {"helps": rows.helped(), "harms": np.where(groups["no positives"], 1, rows.target)}
    found = matrix(rows.y, rows.target, stepped, groups, step=STEP)
    at = found.groups.index("no positives")
    assert np.isnan(found.change.value["tpr"][:, at]).all()
    assert found.to_dict()["change"]["tpr"]["value"][0][at] is None
    own, others = groups["no positives"], ~groups["no positives"]

    def gap(predicted):
        apart = [predicted[own].mean() - predicted[others & known].mean()
                 for known in (np.ones_like(own), rows.y == 0)]  # fmt: skip
        return np.abs(apart).sum() / 2

    harm = gap(stepped["harms"]) - gap(rows.target)
    assert found.change.value["harm"][1, at] == pytest.approx(harm)
    assert [verdict.status for verdict in verdicts(found, 0.2)] == ["safe", "unsafe"]
    without = matrix(
        rows.y, rows.target, {"A": rows.helped()}, groups, step=STEP, exclude=["no positives"]
    )
    assert not without.to_dict()["groups"]["no positives"]["decides"]


def test_a_group_with_few_rows_of_each_label_is_judged_by_its_accuracy(rows):
    groups = {**rows.groups, "few": np.arange(len(rows.y)) < 40}
    found = matrix(rows.y, rows.target, {"A": rows.target}, groups, step=STEP, min_group_size=30)
    assert found.warnings == (
        "few: fewer than min_group_size rows of either label, there or outside: accuracy alone is "
        "judged",
    )
    at = found.groups.index("few")
    assert np.isnan(found.change.value["harm"][0, at])
    (verdict,) = verdicts(found, 0.02)
    assert (verdict.worst.group, verdict.worst.kind) == ("few", "acc")


def test_too_few_of_one_label_are_not_safe(rows):
    member = rows.groups["A"].copy()
    member &= (rows.y == 0) | (np.cumsum(member & (rows.y == 1)) <= 2)
    found = matrix(
        rows.y, rows.target, {"A": rows.helped()}, {"A": member, "B": rows.groups["B"]}, step=STEP
    )
    (verdict,) = verdicts(found, 0.4)
    assert verdict.status == "unproven"
    assert verdict.reason.endswith("it takes more rows of A or a larger tolerance")


def test_silence_cannot_hide_harm(rows):
    """A model that leaves the harmed group unanswered has no rates to be harmed in."""
    silent = rows.helped()
    silent[rows.groups["A"] & (rows.rng.random(len(rows.y)) < 0.2)] = 2
    found = rows.matrix({"A": silent})
    assert np.isnan(found.change.value["harm"]).all()
    assert np.isfinite(found.change.value["acc"]).all()
    assert found.warnings == (
        "A leaves more than 5% of a group or of all rows unanswered: every rate but accuracy is "
        "undefined",
    )
    assert verdicts(found, 0.9)[0].status == "unproven"
    few = rows.helped()
    few[::200] = 2
    assert np.isfinite(rows.matrix({"A": few}).change.value["harm"]).all()


def test_a_constant_predictor_is_never_safe():
    """One row in fifty is positive: a model that says 0 always has no gaps and 98 % accuracy."""
    rng = np.random.default_rng(4)
    y = (rng.random(20_000) < 0.02).astype(int)
    target = np.where(rng.random(len(y)) < 0.99, y, 1 - y)
    groups = {"A": np.arange(len(y)) % 2 == 0, "B": np.arange(len(y)) % 2 == 1}
    found = matrix(y, target, {"A": np.zeros_like(y)}, groups, step=STEP)
    assert found.degenerate.all()
    (verdict,) = verdicts(found, 0.2)
    assert verdict.status == "unproven"
    assert "predictions are (nearly) constant" in verdict.reason
    assert found.to_dict()["degenerate"] == ["A"]


def test_no_deciding_group(rows):
    found = rows.matrix({"A": rows.helped()}, min_group_size=10_000)
    assert found.warnings == ("no group decides: all are excluded or below min_group_size",)
    (verdict,) = verdicts(found, 0.1)
    assert (verdict.status, verdict.worst) == ("unproven", None)


def test_order_does_not_count(rows):
    stepped = {"B": rows.helped(), "A": rows.harmed("A")}
    one = rows.matrix(stepped).to_dict()
    other = matrix(
        rows.y, rows.target, dict(reversed(stepped.items())),
        dict(reversed(rows.groups.items())), step=STEP,
    ).to_dict()  # fmt: skip
    assert one["injected"] == ["B", "A"]
    for kind in ("change", "slope"):
        for parts in (one[kind][metric] for metric in METRICS):
            assert set(parts) == {"value", "low", "high"}
    turned = [row[::-1] for row in other["change"]["harm"]["high"][::-1]]
    assert one["change"]["harm"]["high"] == turned
    json.dumps(judged(rows.matrix(stepped), 0.1).to_dict(), allow_nan=False)


def test_a_negative_step_turns_the_slope_and_not_the_change(rows):
    stepped = {"A": rows.harmed("A")}
    ahead = rows.matrix(stepped)
    back = matrix(rows.y, rows.target, stepped, rows.groups, step=-STEP)
    np.testing.assert_array_equal(ahead.change.high["harm"], back.change.high["harm"])
    value, low, high = back.slopes("harm")
    np.testing.assert_array_equal(value, -ahead.slopes("harm")[0])
    assert (low <= value).all()
    assert (value <= high).all()


def test_refusals(rows):
    good = {"A": rows.target}
    for change, text in (
        ({"step": 0.0}, "step: must be a finite number other than 0; got 0.0"),
        ({"step": float("nan")}, "step: must be a finite number other than 0"),
        ({"stepped": {}}, "stepped: holds no model"),
    ):
        settings = {"stepped": good, "step": STEP, **change}
        stepped = settings.pop("stepped")
        with pytest.raises(MeasurementError) as caught:
            matrix(rows.y, rows.target, stepped, rows.groups, **settings)
        assert str(caught.value).startswith(text)
    for tolerance in (-0.1, float("nan"), float("inf")):
        with pytest.raises(MeasurementError, match="tolerance: must be a number of metric units"):
            verdicts(rows.matrix(good), tolerance)


def test_eight_by_eight_groups_take_seconds():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 5000)
    target = np.where(rng.random(5000) < 0.8, y, 1 - y)
    label = rng.integers(0, 8, 5000)
    names = [f"g{number}" for number in range(8)]
    groups = {name: label == at for at, name in enumerate(names)}
    stepped = {name: np.where(rng.random(5000) < 0.97, target, 1 - target) for name in names}
    start = time.process_time()
    found = matrix(y, target, stepped, groups, step=STEP)
    # About half a second when nothing else runs; the rest is for slow machines.
    assert time.process_time() - start < 6
    assert found.change.value["harm"].shape == (8, 8)


@pytest.mark.parametrize(
    ("harm", "status", "least", "most"),
    [(0.0, "safe", 32, 40), (0.03, "safe", 0, 4), (0.1, "unsafe", 32, 40)],
)
def test_verdicts_where_the_truth_is_known(harm, status, least, most):
    """`benchmarks/safe_injection.py` in small: idle, harmful by the tolerance, and by far more.

    Scores are N(±0.9, 1), those of A 0.3 higher; all move by N(0, 0.1²), those of A by a shift.
    """
    rng, normal = np.random.default_rng(9), NormalDist()

    def gap(shift, spread):
        of_a, others = ([normal.cdf((centre + at) / spread) for centre in (-0.9, 0.9)]
                        for at in (0.3 + shift, 0.0))  # fmt: skip
        apart = np.subtract(of_a, others)
        return (abs(apart.mean()) + np.abs(apart).max()) / 2

    moved = np.hypot(1, 0.1)
    shifts = np.linspace(0, 1, 2001)
    increase = np.array([gap(shift, moved) for shift in shifts]) - gap(0, 1)
    shift = shifts[np.searchsorted(increase, harm)] if harm else 0.0
    found = 0
    for _ in range(40):
        y, in_a = rng.integers(0, 2, 1000), rng.random(1000) < 0.4
        z = (2 * y - 1) * 0.9 + 0.3 * in_a + rng.normal(size=1000)
        after = z + shift * in_a + 0.1 * rng.normal(size=1000)
        matrix_of = matrix(y, z, {"A": after}, {"A": in_a, "B": ~in_a}, step=0.1)
        found += verdicts(matrix_of, 0.03)[0].status == status
    assert least <= found <= most
