"""The transfer matrix against plain loops; its intervals, with and without scores."""

from dataclasses import replace

import numpy as np
import pytest
from transfers import STEP, TransferRows, answers, matrix

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
from mergekit_fair.sweep.verdicts import verdicts


@pytest.fixture(scope="module")
def rows():
    return TransferRows()


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
    rows = TransferRows(600, seed=3)
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
    rows = TransferRows(1500, small=0.15, seed=5)
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
    rows = TransferRows(800, seed=2)
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
    rows = TransferRows(800, seed=3)
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
    rows = TransferRows(3000, small=0.1, seed=4)
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
    rows = TransferRows(20_000, small=0.1, seed=5)
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
