"""Every metric against a plain loop over rows: overlaps, missing predictions, weights."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.fairness import estimate, measure
from mergekit_fair.fairness.settings import REFERENCES

NAN = math.nan


def share(rows, hit):
    """Share of the rows' weight where `hit(y, ŷ)`; NaN of nothing."""
    whole = sum(w for *_, w in rows)
    return sum(w for y, p, _, w in rows if hit(y, p)) / whole if whole else NAN


def rates(rows):
    """Selection rate, TPR, FPR, PPV and accuracy of (y, ŷ, groups, weight) rows; ŷ None is left
    out of all but accuracy."""
    answered = [row for row in rows if row[1] is not None]

    def selected(_, p):
        return p == 1

    return (
        share(answered, selected),
        share([row for row in answered if row[0] == 1], selected),
        share([row for row in answered if row[0] == 0], selected),
        share([row for row in answered if row[1] == 1], lambda y, _: y == 1),
        accuracy(rows),
    )


def accuracy(rows):
    return share(rows, lambda y, p: y == p)


def unanswered(rows):
    return share(rows, lambda _, p: p is None)


def deciding(rows, names, kind):
    """Who has a row of a label that a rate of this kind is about."""
    labels = {1: [1], 2: [0]}.get(kind, [0, 1])
    return [g for g in names if any(g in r[2] and r[0] in labels for r in rows)]


def gap_of_rate(rows, names, kind, reference):
    """Largest difference of one rate; NaN unless two groups decide it, and all of these have it."""
    inside = {g: rates([r for r in rows if g in r[2]])[kind] for g in names}
    outside = {g: rates([r for r in rows if g not in r[2]])[kind] for g in names}
    defined = deciding(rows, names, kind)
    if len(defined) < 2 or any(math.isnan(inside[g]) for g in defined):
        return NAN
    if reference == "between_groups":
        pairs = [(inside[g], inside[h]) for g in defined for h in defined]
    elif reference == "one_vs_rest":
        pairs = [(inside[g], outside[g]) for g in defined]
    else:
        pairs = [(inside[g], rates(rows)[kind]) for g in defined]
    return largest([abs(a - b) for a, b in pairs])


def largest(values):
    return max((v for v in values if not math.isnan(v)), default=NAN)


def ratio_of(rows, names, kinds):
    """The smallest ratio of rates above 0; NaN unless two groups decide each of the rates."""
    ratios = []
    for kind in kinds:
        found = [rates([r for r in rows if g in r[2]])[kind] for g in deciding(rows, names, kind)]
        if len(found) < 2 or any(map(math.isnan, found)):
            return NAN
        if max(found) > 0:
            ratios.append(min(found) / max(found))
    return min(ratios, default=NAN)


def loop(rows, reference, allowed=0.05):
    """Every metric, one membership at a time."""
    names = sorted(set().union(*(groups for _, _, groups, _ in rows)))
    rows = [row for row in rows if row[3] > 0]
    of = {g: [r for r in rows if g in r[2]] for g in names}
    lost = [unanswered(part) for part in (rows, *of.values()) if part]
    comparable = names if max(lost) <= allowed + 1e-12 else []
    selection, tpr, fpr, *_ = rates(rows)
    gaps = [gap_of_rate(rows, comparable, kind, reference) for kind in range(5)]
    return {
        "acc": accuracy(rows),
        "dpd": gaps[0],
        "eod": NAN if math.isnan(gaps[1] + gaps[2]) else max(gaps[1:3]),
        "bal_acc": (tpr + 1 - fpr) / 2,
        "worst_group_acc": -largest([-accuracy(part) for part in of.values()]),
        "selection_rate": selection,
        "tpr": tpr,
        "fpr": fpr,
        "fnr": 1 - tpr,
        "equal_opportunity": gaps[1],
        "fpr_gap": gaps[2],
        "acc_gap": gaps[4],
        "predictive_parity": gaps[3],
        "dp_ratio": ratio_of(rows, comparable, [0]),
        "eo_ratio": ratio_of(rows, comparable, [1, 2]),
        "unanswered": unanswered(rows),
    }


def check(rows, reference):
    y_true, y_pred, groups, weights = ([row[i] for row in rows] for i in range(4))
    names = sorted(set().union(*groups))
    masks = {name: np.array([name in row for row in groups]) for name in names}
    found = estimate(y_true, y_pred, masks, weights=weights, reference=reference)
    assert found == pytest.approx(loop(rows, reference), abs=1e-12, nan_ok=True)


few_rows = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([0, 1, 0, 1, None]),
        st.frozensets(st.sampled_from("abc")),
        st.sampled_from([1, 1, 2, 0.3, 7.7, 0]),
    ),
    min_size=1,
    max_size=14,
).filter(lambda rows: any(w for *_, w in rows))


@settings(max_examples=250, deadline=None)
@given(few_rows, st.sampled_from(REFERENCES))
def test_a_handful_of_rows(rows, reference):
    check(rows, reference)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.02, 0.2])
def test_many_rows(reference, missing, weighted):
    rng = np.random.default_rng(7)
    rows = [
        (
            int(rng.integers(2)),
            None if rng.random() < missing else int(rng.integers(2)),
            {g for g in "abcd" if rng.random() < 0.4},
            float(rng.gamma(2.0)) if weighted else 1.0,
        )
        for _ in range(400)
    ]
    check(rows, reference)
    found = loop(rows, reference)
    assert math.isnan(found["dpd"]) == (missing == 0.2)


@pytest.mark.parametrize("reference", REFERENCES)
def test_estimate_gives_the_values_of_measure(reference):
    rng = np.random.default_rng(2)
    y_true = rng.integers(0, 2, 300)
    y_pred = [None if rng.random() < 0.02 else int(p) for p in rng.integers(0, 2, 300)]
    groups = [[g for g in "abc" if rng.random() < 0.5] for _ in range(300)]
    options = {"reference": reference, "min_group_size": 5, "exclude": ["c"]}
    found = estimate(y_true, y_pred, groups, **options)
    result = measure(y_true, y_pred, groups, **options, draws=50).to_dict()
    assert result["unanswered"] == round(found.pop("unanswered") * 300) > 0
    assert {name: entry["value"] for name, entry in result["metrics"].items()} == pytest.approx(
        found, abs=1e-15
    )


def test_one_vs_rest_of_every_group():
    rng = np.random.default_rng(5)
    rows = [
        (int(rng.integers(2)), int(rng.integers(2)), {g for g in "abc" if rng.random() < 0.4}, 1)
        for _ in range(200)
    ]
    y_true, y_pred, groups = ([row[i] for row in rows] for i in range(3))
    result = measure(y_true, y_pred, [sorted(g) for g in groups], draws=50).to_dict()
    for name, found in result["one_vs_rest"]["groups"].items():
        inside = rates([r for r in rows if name in r[2]])
        outside = rates([r for r in rows if name not in r[2]])
        apart = [abs(a - b) for a, b in zip(inside, outside, strict=True)]
        assert found == pytest.approx({"dpd": apart[0], "eod": max(apart[1:3])})
