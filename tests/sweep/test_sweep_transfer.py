"""The transfer matrix against plain loops, and verdicts that must not call a guess safe."""

import json
import time

import numpy as np
import pytest
from replicates import grouped

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import measure
from mergekit_fair.sweep.transfer_effects import (
    METRICS,
    Pair,
    Rates,
    drawn_pair,
    intervals,
    moved_rows,
)
from mergekit_fair.sweep.transfer_matrix import transfer_matrix
from mergekit_fair.sweep.verdicts import judged, verdicts

STEP = 0.2


class Rows:
    """Two large groups, a small one and a rest; a target that is right for 85 % of each."""

    def __init__(self, n=4000, small=0.05, seed=0):
        self.rng = np.random.default_rng(seed)
        label = self.rng.choice(4, n, p=[0.4, 0.4, small, 0.2 - small])
        self.y = self.rng.integers(0, 2, n).astype(np.int8)
        self.groups = {name: label == at for at, name in enumerate(("A", "B", "C"))}
        self.target = np.where(self.rng.random(n) < 0.85, self.y, 1 - self.y).astype(np.int8)

    def harmed(self, name, share=0.4):
        """Rows of a group are predicted 1 more often."""
        found = self.target.copy()
        found[self.groups[name] & (self.rng.random(len(self.y)) < share)] = 1
        return found

    def helped(self, share=0.8):
        """Most errors are mended, in every group."""
        found = self.target.copy()
        mended = (found != self.y) & (self.rng.random(len(self.y)) < share)
        found[mended] = self.y[mended]
        return found

    def matrix(self, stepped, **options):
        return transfer_matrix(self.y, self.target, stepped, self.groups, step=STEP, **options)


@pytest.fixture(scope="module")
def rows():
    return Rows()


def looped(y, predicted, mask):
    """Metrics of one group, row by row and in Python."""

    def rate(rows):
        chosen = [p for p, y_row in rows if p != 2]
        return sum(chosen) / len(chosen) if chosen else float("nan")

    def of(member):
        found = [(int(p), int(t)) for p, t, m in zip(predicted, y, mask, strict=True)
                 if bool(m) == member]  # fmt: skip
        right = sum(p == t for p, t in found) / len(found)
        return (
            right,
            rate(found),
            rate([row for row in found if row[1] == 1]),
            rate([row for row in found if row[1] == 0]),
        )

    acc, *inside = of(True)
    _, *outside = of(False)
    parity, tpr, fpr = (abs(a - b) for a, b in zip(inside, outside, strict=True))
    return {"harm": (parity + max(tpr, fpr)) / 2, "acc": acc,
            **dict(zip(("selection_rate", "tpr", "fpr"), inside, strict=True))}  # fmt: skip


def test_values_and_slopes_are_those_of_plain_loops():
    rows = Rows(600, seed=3)
    stepped = {"A": rows.harmed("A"), "B": rows.helped()}
    stepped["B"][::97] = 2
    found = rows.matrix(stepped, draws=50)
    for g, name in enumerate(found.injected):
        for h, group in enumerate(found.groups):
            before, after = (
                looped(rows.y, p, rows.groups[group]) for p in (rows.target, stepped[name])
            )
            for metric in METRICS:
                change = after[metric] - before[metric]
                assert found.value[metric][g, h] == pytest.approx(change, abs=1e-12)
                slope, low, high = (part[g, h] for part in found.slopes(metric))
                assert slope == pytest.approx(change / STEP, abs=1e-12)
                assert low <= slope <= high


def test_harm_is_the_mean_by_which_the_worst_group_is_chosen(rows):
    stepped = {"A": rows.harmed("A")}
    found = rows.matrix(stepped, draws=50)
    before, after = (
        measure(rows.y, p, rows.groups, draws=10).to_dict()["one_vs_rest"]["groups"]
        for p in (rows.target, stepped["A"])
    )
    for h, name in enumerate(found.groups):
        harms = [(gaps[name]["dpd"] + gaps[name]["eod"]) / 2 for gaps in (before, after)]
        assert found.value["harm"][0, h] == pytest.approx(harms[1] - harms[0])


def test_intervals_are_those_of_resampled_rows():
    """Whole rows drawn one by one: the same percentiles but for the noise of drawing."""
    rows = Rows(1500, small=0.15, seed=5)
    stepped = {"A": rows.harmed("A"), "B": rows.helped(0.3)}
    found = rows.matrix(stepped, draws=4000)
    rng, names = np.random.default_rng(11), list(found.groups)
    samples = np.empty((1500, 2, len(names), 2))
    for draw in range(len(samples)):
        at = rng.integers(0, len(rows.y), len(rows.y))
        y = rows.y[at]
        for h, group in enumerate(names):
            mask = rows.groups[group][at]
            for g, p in enumerate(stepped.values()):
                old, new = rows.target[at][mask], p[at][mask]
                samples[draw, g, h, 0] = (new == y[mask]).mean() - (old == y[mask]).mean()
                samples[draw, g, h, 1] = new.mean() - old.mean()
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    for at, metric in enumerate(("acc", "selection_rate")):
        # Never narrower; wider by a row or two of the group.
        one_row = 3 / np.array([mask.sum() for mask in rows.groups.values()])
        assert (found.low[metric] <= low[..., at] + 0.006).all()
        assert (found.high[metric] >= high[..., at] - 0.006).all()
        assert (found.low[metric] >= low[..., at] - 0.006 - one_row).all()
        assert (found.high[metric] <= high[..., at] + 0.006 + one_row).all()


def test_harm_ends_span_the_percentiles_of_its_replicates(rows):
    """Also where the plain percentile is much too optimistic: the target is fair."""
    stepped = {"A": rows.harmed("A")}
    found = rows.matrix(stepped, draws=1000)
    rng, mask = np.random.default_rng(2), rows.groups["A"]
    drawn = []
    for _ in range(300):
        at = rng.integers(0, len(rows.y), len(rows.y))
        table = [_harm(rows.y[at], p[at], mask[at]) for p in (rows.target, stepped["A"])]
        drawn.append(table[1] - table[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.high["harm"][0, 0] >= high - 0.005
    assert found.low["harm"][0, 0] <= low + 0.005


def _harm(y, predicted, mask):
    parts = [
        predicted[mask & keep].mean() - predicted[~mask & keep].mean()
        for keep in (np.ones(len(y), bool), y == 1, y == 0)
    ]
    parity, tpr, fpr = np.abs(parts)
    return (parity + max(tpr, fpr)) / 2


def test_upper_ends_cover_where_plain_percentiles_do_not():
    """A fair target and a step that harms one group: 2.5 % may lie above, 24 % would."""
    patterns, rng = np.eye(3, dtype=bool), np.random.default_rng(1)
    chance = np.zeros((3, 2, 3, 3))
    for h in range(3):
        for y, rate in ((0, 0.2), (1, 0.8)):
            up, down = (0.15, 0.0) if h == 0 else (0.02, 0.02)
            chance[h, y, 0, :2] = (1 - rate) * (1 - up) / 6, (1 - rate) * up / 6
            chance[h, y, 1, :2] = rate * down / 6, rate * (1 - down) / 6
    true = _change(chance, patterns)
    above = plain_above = 0
    for sample in range(120):
        cells = rng.multinomial(600, chance.ravel() / chance.sum()).reshape(chance.shape)
        estimate = Pair(*(Rates.of(grouped(cells.sum(axis), patterns)) for axis in (-1, -2)))
        plain = drawn_pair(cells, patterns, 300, sample)
        samples = (plain, drawn_pair(moved_rows(cells, patterns), patterns, 300, sample))
        above += true > intervals(estimate, samples, 0.95)["harm"][1][0]
        changes = plain.before.changes(plain.after)["harm"][:, 0]
        plain_above += true > np.quantile(changes, 0.975)
    assert above <= 7
    assert plain_above >= 15


def _change(cells, patterns):
    before, after = (Rates.of(grouped(cells.sum(axis), patterns)) for axis in (-1, -2))
    return before.changes(after)["harm"][0]


def test_moved_rows_keep_totals_and_move_a_row_a_group_and_label():
    patterns = np.array([[True, False], [True, True], [False, False]])
    cells = np.random.default_rng(0).integers(0, 9, (3, 2, 3, 3))
    found = moved_rows(cells, patterns)
    np.testing.assert_allclose(found.sum((-1, -2)), cells.sum((-1, -2)))
    np.testing.assert_array_equal(found[2], cells[2])  # in no group
    np.testing.assert_array_equal(found[..., 2], cells[..., 2])  # unanswered
    same = np.zeros((2, 2, 3, 3), dtype=int)
    same[:, :, 0, 0] = 50
    found = moved_rows(same, np.eye(2, dtype=bool))
    np.testing.assert_allclose(found[:, :, 0, 1], 50 / 52)
    np.testing.assert_allclose(found[:, :, 1, 0], 50 / 52)


def test_harm_help_and_too_few_rows_have_their_verdicts(rows):
    stepped = {"harms": rows.harmed("A"), "helps": rows.helped()}
    found = rows.matrix(stepped, min_group_size=500, simultaneous=False)
    harmful, helpful = verdicts(found, 0.1)
    assert (harmful.group, harmful.status) == ("harms", "unsafe")
    assert harmful.worst.group == "A"
    assert harmful.worst.low > 0.1
    assert harmful.reason.startswith("harms at 0.2: the mean of one-vs-rest DPD and EOD of A ")
    assert f"changes by {harmful.worst.value:+.3f} [{harmful.worst.low:+.3f}, " in harmful.reason
    assert harmful.reason.endswith("harm of more than 0.1")
    assert helpful.status == "safe"
    assert helpful.worst.high <= 0.1
    assert helpful.reason.startswith("helps at 0.2: at worst the mean of one-vs-rest")
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
    found = transfer_matrix(rows.y, rows.target, {"A": rows.target.copy()}, groups, step=STEP)
    (verdict,) = verdicts(found, 0.05)
    assert verdict.status == "unproven"
    assert verdict.worst.group == "tiny"
    assert (verdict.worst.value, verdict.worst.high > 0.05) == (0, True)
    assert found.high["acc"][0, 3] > 0.05
    large = transfer_matrix(rows.y, rows.target, {"A": rows.target}, groups, step=STEP,
                            min_group_size=500)  # fmt: skip
    assert verdicts(large, 0.05)[0].status == "safe"
    assert not large.value["harm"].any()


def test_undefined_is_never_safe(rows):
    groups = {**rows.groups, "no positives": (rows.y == 0) & rows.groups["A"]}
    found = transfer_matrix(rows.y, rows.target, {"A": rows.helped()}, groups, step=STEP)
    (verdict,) = verdicts(found, 0.9)
    assert verdict.status == "unproven"
    assert "of no positives is undefined, for want of rows of one label" in verdict.reason
    assert verdict.reason.endswith("what is unknown is not safe")
    assert verdict.to_dict()["worst"]["value"] is None
    assert found.to_dict()["change"]["tpr"]["value"][0][3] is None
    without = transfer_matrix(
        rows.y, rows.target, {"A": rows.helped()}, groups, step=STEP, exclude=["no positives"]
    )
    assert verdicts(without, 0.9)[0].status == "safe"
    assert not without.to_dict()["groups"]["no positives"]["decides"]


def test_too_few_of_one_label_for_an_interval_is_not_safe(rows):
    member = rows.groups["A"].copy()
    member &= (rows.y == 0) | (np.cumsum(member & (rows.y == 1)) <= 2)
    found = transfer_matrix(
        rows.y, rows.target, {"A": rows.helped()}, {"A": member, "B": rows.groups["B"]}, step=STEP
    )
    assert np.isfinite(found.value["harm"]).all()
    (verdict,) = verdicts(found, 1.0)
    assert verdict.status == "unproven"
    assert "undefined in too many bootstrap draws" in verdict.reason


def test_silence_cannot_hide_harm(rows):
    """A model that leaves the harmed group unanswered has no rates to be harmed in."""
    silent = rows.helped()
    silent[rows.groups["A"] & (rows.rng.random(len(rows.y)) < 0.2)] = 2
    found = rows.matrix({"A": silent})
    assert np.isnan(found.value["harm"]).all()
    assert np.isfinite(found.value["acc"]).all()
    assert found.warnings == (
        "A leaves more than 5% of a group or of all rows unanswered: every rate but accuracy is "
        "undefined",
    )
    assert verdicts(found, 0.9)[0].status == "unproven"
    few = rows.helped().astype(float)
    few[::200] = np.nan
    assert np.isfinite(rows.matrix({"A": few}).value["harm"]).all()


def test_a_constant_predictor_is_never_safe():
    """One row in fifty is positive: a model that says 0 always has no gaps and 98 % accuracy."""
    rng = np.random.default_rng(4)
    y = (rng.random(20_000) < 0.02).astype(int)
    target = np.where(rng.random(len(y)) < 0.99, y, 1 - y)
    groups = {"A": np.arange(len(y)) % 2 == 0, "B": np.arange(len(y)) % 2 == 1}
    found = transfer_matrix(y, target, {"A": np.zeros_like(y)}, groups, step=STEP)
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


def test_simultaneous_intervals_are_wider(rows):
    stepped = {"A": rows.harmed("A", 0.1)}
    alone, together = (rows.matrix(stepped, simultaneous=yes) for yes in (False, True))
    assert (alone.level, together.level) == (0.95, pytest.approx(1 - 0.05 / 6))
    for metric in METRICS:
        np.testing.assert_array_equal(alone.value[metric], together.value[metric])
        width = alone.high[metric] - alone.low[metric]
        assert (together.high[metric] - together.low[metric] > 0.99 * width).all()
    assert rows.matrix(stepped, simultaneous=True, exclude=["C"]).level == pytest.approx(0.9875)


def test_order_and_seed(rows):
    stepped = {"B": rows.helped(), "A": rows.harmed("A")}
    one = rows.matrix(stepped, draws=200).to_dict()
    other = transfer_matrix(
        rows.y, rows.target, dict(reversed(stepped.items())),
        dict(reversed(rows.groups.items())), step=STEP, draws=200,
    ).to_dict()  # fmt: skip
    assert one["injected"] == ["B", "A"]
    for kind in ("change", "slope"):
        for parts in (one[kind][metric] for metric in METRICS):
            assert set(parts) == {"value", "low", "high"}
    turned = [row[::-1] for row in other["change"]["harm"]["high"][::-1]]
    assert one["change"]["harm"]["high"] == turned
    assert one == rows.matrix(stepped, draws=200).to_dict()
    assert one != rows.matrix(stepped, draws=200, seed=1).to_dict()
    json.dumps(judged(rows.matrix(stepped, draws=200), 0.1).to_dict(), allow_nan=False)


def test_a_negative_step_turns_the_slope_and_not_the_change(rows):
    stepped = {"A": rows.harmed("A")}
    ahead = rows.matrix(stepped, draws=200)
    back = transfer_matrix(rows.y, rows.target, stepped, rows.groups, step=-STEP, draws=200)
    np.testing.assert_array_equal(ahead.high["harm"], back.high["harm"])
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
        ({"stepped": {"A": rows.target[1:]}}, "A: differs in length from y_true"),
        ({"stepped": {"A": rows.target + 2}}, "A: labels must be binary integers"),
        ({"exclude": ["x"]}, "exclude: no such group"),
        ({"confidence": 1.0}, "confidence: must lie strictly between 0 and 1"),
        ({"draws": 0}, "draws: must be an integer, at least 1"),
        ({"min_group_size": 0}, "min_group_size: must be an integer, at least 1"),
    ):
        settings = {"stepped": good, "step": STEP, **change}
        stepped = settings.pop("stepped")
        with pytest.raises(MeasurementError) as caught:
            transfer_matrix(rows.y, rows.target, stepped, rows.groups, **settings)
        assert str(caught.value).startswith(text)
    for tolerance in (-0.1, float("nan"), float("inf")):
        with pytest.raises(MeasurementError, match="tolerance: must be a number of metric units"):
            verdicts(rows.matrix(good, draws=50), tolerance)


def test_eight_by_eight_groups_take_seconds():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 5000)
    target = np.where(rng.random(5000) < 0.8, y, 1 - y)
    label = rng.integers(0, 8, 5000)
    names = [f"g{number}" for number in range(8)]
    groups = {name: label == at for at, name in enumerate(names)}
    stepped = {name: np.where(rng.random(5000) < 0.97, target, 1 - target) for name in names}
    start = time.process_time()
    found = transfer_matrix(y, target, stepped, groups, step=STEP)
    # About half a second when nothing else runs; the rest is for slow machines.
    assert time.process_time() - start < 6
    assert found.value["harm"].shape == (8, 8)
