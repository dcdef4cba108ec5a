"""The transfer matrix against plain loops, and verdicts that must not call a guess safe."""

import json
import time
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from transfers import answers, matrix

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import MetricSettings, measure
from mergekit_fair.sweep.outlook import outlook_of
from mergekit_fair.sweep.sweep_config import Inject
from mergekit_fair.sweep.transfer_effects import (
    METRICS,
    Answers,
    PairedRows,
    effects,
    soft,
    spread_of_scores,
    temperature,
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
        target = options.pop("target", self.target)
        return matrix(self.y, target, stepped, self.groups, step=STEP, **options)


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
    found = rows.matrix(stepped)
    for g, name in enumerate(found.injected):
        for h, group in enumerate(found.groups):
            before, after = (
                looped(rows.y, p, rows.groups[group]) for p in (rows.target, stepped[name])
            )
            for metric in METRICS:
                change = after[metric] - before[metric]
                assert found.change.value[metric][g, h] == pytest.approx(change, abs=1e-12)
                slope, low, high = (part[g, h] for part in found.slopes(metric))
                assert slope == pytest.approx(change / STEP, abs=1e-12)
                assert low <= slope <= high


def test_harm_is_the_mean_by_which_the_worst_group_is_chosen(rows):
    stepped = {"A": rows.harmed("A")}
    found = rows.matrix(stepped)
    before, after = (
        measure(rows.y, p, rows.groups, draws=10).to_dict()["one_vs_rest"]["groups"]
        for p in (rows.target, stepped["A"])
    )
    for h, name in enumerate(found.groups):
        harms = [(gaps[name]["dpd"] + gaps[name]["eod"]) / 2 for gaps in (before, after)]
        assert found.change.value["harm"][0, h] == pytest.approx(harms[1] - harms[0])


def test_intervals_are_those_of_resampled_rows():
    """Whole rows drawn one by one: the same percentiles but for the noise of drawing."""
    rows = Rows(1500, small=0.15, seed=5)
    stepped = {"A": rows.harmed("A"), "B": rows.helped(0.3)}
    found = rows.matrix(stepped)
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
        assert (found.change.low[metric] <= low[..., at] + 0.006).all()
        assert (found.change.high[metric] >= high[..., at] - 0.006).all()
        assert (found.change.low[metric] >= low[..., at] - 0.006 - one_row).all()
        assert (found.change.high[metric] <= high[..., at] + 0.006 + one_row).all()


def test_harm_ends_span_the_percentiles_of_its_replicates(rows):
    """Also where the plain percentile is much too optimistic: the target is fair."""
    stepped = {"A": rows.harmed("A")}
    found = rows.matrix(
        stepped,
    )
    rng, mask = np.random.default_rng(2), rows.groups["A"]
    drawn = []
    for _ in range(300):
        at = rng.integers(0, len(rows.y), len(rows.y))
        table = [_harm(rows.y[at], p[at], mask[at]) for p in (rows.target, stepped["A"])]
        drawn.append(table[1] - table[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.change.high["harm"][0, 0] >= high - 0.005
    assert found.change.low["harm"][0, 0] <= low + 0.005


def _harm(y, predicted, mask):
    parts = [
        predicted[mask & keep].mean() - predicted[~mask & keep].mean()
        for keep in (np.ones(len(y), bool), y == 1, y == 0)
    ]
    parity, tpr, fpr = np.abs(parts)
    return (parity + max(tpr, fpr)) / 2


def test_upper_ends_cover_where_plain_percentiles_do_not():
    """A fair target and a step that harms one group: 2.5 % may lie above; percentiles: 24 %."""
    rng, chance = np.random.default_rng(1), np.zeros((3, 2, 2, 2))
    for h in range(3):
        for y, rate in ((0, 0.2), (1, 0.8)):
            up, down = (0.15, 0.0) if h == 0 else (0.02, 0.02)
            chance[h, y, 0] = (1 - rate) * (1 - up) / 6, (1 - rate) * up / 6
            chance[h, y, 1] = rate * down / 6, rate * (1 - down) / 6
    # TPR of the first rises by .2 · .15 and of the others by less than nothing; FPR by .8 · .15.
    others = [(0.8 * 0.02 - 0.2 * 0.02), (0.2 * 0.02 - 0.8 * 0.02)]
    fpr, tpr = 0.8 * 0.15 - others[0], 0.2 * 0.15 - others[1]
    true = ((fpr + tpr) / 2 + max(fpr, tpr)) / 2
    above = 0
    for _ in range(150):
        drawn = rng.choice(chance.size, 600, p=chance.ravel() / chance.sum())
        h, y, before, after = np.unravel_index(drawn, chance.shape)
        found = matrix(y, before, {"A": after}, {"A": h == 0, "B": h == 1}, step=STEP)
        above += true > found.change.high["harm"][0, 0]
    assert above <= 9  # of 150 at 2.5 %: 3.75, with four standard deviations less than 12


def test_clusters_of_rows_count_as_one():
    """Every row four times, in a cluster: the interval is that of the rows once."""
    rows = Rows(800, seed=2)
    z = (2 * rows.y - 1) * 0.8 + rows.rng.normal(size=800)
    moved = z + 0.1 * rows.rng.normal(size=800)
    members, usable = np.stack(list(rows.groups.values()), axis=1), np.ones((4, 3), dtype=bool)

    def found(copies, clusters):
        again = np.repeat(np.arange(800), copies)
        paired = PairedRows(
            rows.y[again], members[again], np.ones(len(again)), clusters, usable[0], usable[1:]
        )
        return effects(paired, 0, Answers.soft(z[again], moved[again], 0.3), 0.95)

    once = found(1, None)
    for metric, ends in found(4, np.repeat(np.arange(800), 4)).items():
        assert ends == pytest.approx(once[metric], abs=1e-12)
    assert found(4, None)["acc"][2] < once["acc"][2]
    of_rows = answers(rows.y, rows.groups)
    before, after = of_rows.with_scores(z), {"A": of_rows.with_scores(moved)}
    codes = np.arange(800) // 4
    wide = transfer_matrix(replace(before, clusters=codes), after, MetricSettings(), step=STEP)
    plain = transfer_matrix(before, after, MetricSettings(), step=STEP)
    assert not np.array_equal(wide.change.high["acc"], plain.change.high["acc"])
    np.testing.assert_array_equal(wide.change.value["harm"], plain.change.value["harm"])


def test_weights_are_rows():
    """A row of weight 0 is no row, and equal weights are none."""
    rows = Rows(800, seed=3)
    stepped, alike = {"A": rows.helped(0.3)}, np.full(800, 0.7)
    plain = rows.matrix(stepped)
    assert rows.matrix(stepped, weights=alike).to_dict() == plain.to_dict()
    some = rows.rng.random(800) < 0.8
    fewer = matrix(rows.y[some], rows.target[some], {"A": stepped["A"][some]},
                   {k: v[some] for k, v in rows.groups.items()}, step=STEP)  # fmt: skip
    left_out = rows.matrix(stepped, weights=some.astype(float))
    assert left_out.to_dict() == fewer.to_dict()
    heavy = rows.matrix(stepped, weights=np.where(np.arange(800) % 4, 0.1, 1.0))
    width = heavy.change.high["acc"] - heavy.change.low["acc"]
    assert (width > 1.3 * (plain.change.high["acc"] - plain.change.low["acc"])).all()


def test_soft_rates_prove_more_with_the_same_rows():
    rows = Rows(3000, small=0.1, seed=4)
    z = (2 * rows.y - 1) * 0.9 + rows.rng.normal(size=3000)
    moved = z + 0.1 * rows.rng.normal(size=3000)
    blind = rows.matrix({"A": (moved > 0).astype(int)}, target=(z > 0).astype(int))
    found = rows.matrix({"A": moved}, target=z)
    assert (blind.to_dict()["rates"], found.to_dict()["rates"]) == ("hard", "soft")
    assert (verdicts(blind, 0.03)[0].status, verdicts(found, 0.03)[0].status) == (
        "unproven", "safe",
    )  # fmt: skip
    narrow, wide = (part["harm"][0] for part in (found.change.high, blind.change.high))
    assert (narrow < 0.6 * wide).all()
    np.testing.assert_array_equal(found.hard.value["harm"], blind.change.value["harm"])
    assert found.hard.level == pytest.approx(1 - 0.05 / 6)
    names = dict(zip(found.groups, found.temperatures, strict=True))
    for name, mask in rows.groups.items():
        assert names[name] == temperature(spread_of_scores(z, rows.y), mask.sum())


def test_predictions_may_contradict_soft_rates():
    """What a step does at the threshold alone is lost in soft rates, and not in predictions."""
    rows = Rows(20_000, small=0.1, seed=5)
    z = (2 * rows.y - 1) * 0.9 + rows.rng.normal(size=20_000) + 0.3 * rows.groups["A"]
    moved = z.copy()
    moved[rows.groups["A"] & (z < 0) & (z > -0.06)] = 1e-6
    (found,) = verdicts(rows.matrix({"A": moved}, target=z), 0.03)
    assert (found.status, found.worst.rates, found.worst.group) == ("unproven", "hard", "A")
    assert found.reason.endswith("harm that soft rates, within 0.03, do not see")
    (found,) = verdicts(rows.matrix({"A": moved}, target=z), 0.004)
    assert found.status == "unsafe"


def test_the_spread_of_scores_is_that_of_most_rows():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 5000)
    z = np.where(y == 1, 3.0, -3.0) + 2 * rng.normal(size=10_000)
    assert spread_of_scores(z, y) == pytest.approx(2, rel=0.02)
    z[:50] = np.finfo(np.float32).max
    assert spread_of_scores(z, y) == pytest.approx(2, rel=0.05)
    assert spread_of_scores(np.zeros(4), y[:4]) == 0
    assert spread_of_scores(np.full(4, np.nan), y[:4]) == 0
    assert soft(np.array([-1e300, 0.0, 1e300]), 0.1).tolist() == [0, 0.5, 1]


def test_what_can_be_shown_is_said_before(rows):
    """The half-width to expect, and the rows that are needed, are those that are found."""
    unread = answers(rows.y, rows.groups)
    inject = Inject(target="fft", groups="safe", step=0.1, tolerance=0.03)
    outlook = outlook_of(unread, MetricSettings(), inject)
    z = (2 * rows.y - 1) * 0.9 + rows.rng.normal(size=4000)
    found = rows.matrix({"A": z + 0.1 * rows.rng.normal(size=4000)}, target=z)
    for width, group in zip(found.change.high["harm"][0], outlook.groups.values(), strict=True):
        assert group.half_width == pytest.approx(width, rel=0.6)  # the noise of the change itself
    few = outlook.groups["C"]
    assert few.n == rows.groups["C"].sum()
    assert few.half_width < 0.03
    strict = inject.model_copy(update={"tolerance": 0.005})
    (warning,) = outlook_of(unread, MetricSettings(), strict).warnings
    assert all(f"{name} (n={group.n} " in warning for name, group in outlook.groups.items())
    least = outlook.least_tolerance
    again = inject.model_copy(update={"tolerance": least})
    assert outlook_of(unread, MetricSettings(), again).warnings == []
    auto = inject.model_copy(update={"tolerance": "auto"})
    for each in (unread, unread.with_scores(z)):
        assert outlook_of(each, MetricSettings(), auto).tolerance == least
    none = outlook_of(unread, MetricSettings(), inject.model_copy(update={"tolerance": 0.0}))
    assert {group.rows_needed for group in none.groups.values()} == {None}


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
