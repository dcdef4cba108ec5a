"""Racing: who is stopped early, and that with all rows seen it is the sweep's own rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_fair.errors import SweepError
from mergekit_fair.fairness.groups import Groups
from mergekit_fair.fairness.paired import Paired
from mergekit_fair.fairness.statistics import estimate
from mergekit_fair.fairness.thresholds import matching_threshold, predict_at
from mergekit_fair.sweep.race.judgement import Judgement, Terms, judgement
from mergekit_fair.sweep.race.predictive import Course, draw_weights, tabulate
from mergekit_fair.sweep.race.standings import Entrant, Standings, row_blocks, standings
from mergekit_fair.sweep.rule import Select
from mergekit_fair.sweep.select import choose

N = 600


def course(seed: int = 0, *, rows: int = N, overlap: bool = False) -> Course:
    """Three groups, a baseline that is right on most rows."""
    rng = np.random.default_rng(seed)
    member = np.eye(3, dtype=bool)[rng.integers(3, size=rows)]
    if overlap:
        member |= rng.random(member.shape) < 0.3
    labels = (rng.random(rows) < 0.4).astype(np.int8)
    known = 2.0 * labels - 1 + rng.normal(0, 1, rows)
    return Course(labels, Groups(("a", "b", "c"), member), known[np.newaxis])


def answers(of: Course, accuracy: list[float], seed: int = 1) -> np.ndarray:
    """Margins (P, N), each point right on an independent share of the rows."""
    rng = np.random.default_rng(seed)
    right = rng.random((len(accuracy), of.n)) < np.array(accuracy)[:, np.newaxis]
    return (2.0 * of.labels - 1) * np.where(right, 1, -1) * rng.uniform(0.5, 2, right.shape)


def entrants(count: int) -> list[Entrant]:
    return [Entrant(f"p{number}", 0.1 * (number + 1)) for number in range(count)]


def terms(*, maximize: str = "acc", level: float | None = 0.4, **limits: Any) -> Terms:
    rule = Select(
        maximize=maximize, subject_to={k.replace("__", "."): v for k, v in limits.items()}
    )
    return Terms(maximize, tuple((c, c.number) for c in rule.constraints()), level=level)


def ask(of: Course, rule: Terms, margins: np.ndarray, share: float = 1.0, seed: int = 0) -> Any:
    order = np.concatenate(row_blocks(of.labels, of.groups, seed))
    seen = order[: round(share * of.n)]
    return standings(of, rule, entrants(len(margins)), seen, margins[:, seen], seed=seed)


# --- Who goes on -----------------------------------------------------------------------------


def test_dominated_points_stop_early() -> None:
    of = course()
    found = ask(of, terms(), answers(of, [0.6, 0.9, 0.65, 0.5]), share=0.25)
    assert found.survivors() == ["p1"]
    assert found.chances()["p1"] > 0.98


def test_a_better_point_that_breaks_a_constraint_for_certain_stops() -> None:
    of = course()
    margins = answers(of, [0.98, 0.8])
    unfair = of.groups.membership[:, 0]
    margins[0, unfair] = 1.0
    found = ask(of, terms(dpd="<= 0.3"), margins, share=0.3)
    assert found.survivors() == ["p1"]


def test_points_that_are_equally_good_go_on() -> None:
    of = course()
    margins = answers(of, [0.8, 0.8, 0.5])
    found = ask(of, terms(), margins, share=0.3)
    assert set(found.survivors()) == {"p0", "p1"}


def test_the_best_goes_on_while_it_decides_who_is_tied() -> None:
    """p2 is best and never chosen; p1 is, being tied with it. Without p2, p0 would be."""
    found = Judgement(
        objective=np.tile([0.80, 0.81, 0.83], (50, 1)),
        violation=np.zeros((50, 3)),
        candidate=np.ones((50, 3), dtype=bool),
        margin=np.full((3, 3), 0.025),
        sizes=np.array([0.1, 0.2, 0.3]),
    )
    race = Standings(("p0", "p1", "p2"), found)
    assert race.chances() == {"p0": 0.0, "p1": 1.0, "p2": 0.0}
    # p1 alone is enough: p0 is what p2 was needed against, and p0 cannot be chosen.
    assert race.survivors(0.0) == ["p1"]
    chosen, _ = found.decide(np.array([True, True, False]))
    assert (chosen == 0).all()


def test_a_tie_goes_to_the_smaller_and_identical_points_to_one() -> None:
    of = course()
    margins = answers(of, [0.8])
    found = ask(of, terms(), np.concatenate([margins, margins, margins]), share=0.2)
    assert found.survivors() == ["p0"]
    assert found.chances() == {"p0": 1.0, "p1": 0.0, "p2": 0.0}


def test_without_a_satisfying_point_the_nearest_wins() -> None:
    of = course()
    found = ask(of, terms(acc=">= 0.99"), answers(of, [0.6, 0.8]), share=0.3)
    assert found.survivors() == ["p1"]


def test_degenerate_and_undefined_points_are_never_chosen() -> None:
    of = course()
    margins = answers(of, [0.9, 0.9, 0.6])
    margins[0] = -1.0
    margins[1, ::5] = np.nan  # more than 5 % unanswered: gaps are undefined
    found = ask(of, terms(dpd="<= 1"), margins, share=0.5)
    assert found.chances() == {"p0": 0.0, "p1": 0.0, "p2": 1.0}
    nobody = ask(of, terms(dpd="<= 1"), margins[:2], share=0.5)
    assert nobody.chances() == {"p0": 0.0, "p1": 0.0}
    assert len(nobody.survivors()) == 1
    no_level = ask(of, terms(level=None, saturated=False), margins[2:], share=0.5)
    assert no_level.chances() == {"p0": 0.0}


def test_answers_without_margins_have_no_matched_level() -> None:
    of = course()
    known = np.where(answers(of, [0.8, 0.7]) > 0, np.inf, -np.inf)
    assert ask(of, terms(), known, 0.5).chances()["p0"] > 0
    matched = ask(of, terms(level_matched__dpd="<= 1"), known, 0.5)
    assert matched.chances() == {"p0": 0.0, "p1": 0.0}


def test_refusals() -> None:
    of = course()
    with pytest.raises(SweepError, match="one task only"):
        Terms("other/acc")
    with pytest.raises(SweepError, match="nobody takes part"):
        standings(of, terms(), [], np.arange(3), np.zeros((0, 3)))
    with pytest.raises(SweepError, match=r"shape \(2, 3\)"):
        standings(of, terms(), entrants(2), np.arange(3), np.zeros((3, 2)))


# --- All rows seen: the rule itself ----------------------------------------------------------

RULES: list[dict[str, Any]] = [
    {"maximize": "acc", "dpd": "<= 0.12", "eod": "<= 0.2"},
    {"maximize": "bal_acc", "worst_group_acc": ">= 0.7", "selection_rate": "< 0.5"},
    {"maximize": "worst_group_acc", "level_matched__eod": "<= 0.15"},
    {"maximize": "level_matched.acc", "dpd": "<= 0.001"},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule))
@pytest.mark.parametrize("overlap", [False, True])
def test_with_all_rows_it_is_what_select_chooses(rule: dict[str, Any], overlap: bool) -> None:
    """Except where a point is tied by one kind of interval, normal or percentile, only."""
    compared = 0
    for seed in range(8):
        of = course(seed, overlap=overlap)
        margins = answers(of, [0.74, 0.78, 0.8, 0.81], seed)
        found = ask(of, terms(**rule), margins)
        everyone = np.ones(len(margins), dtype=bool)
        chosen, best = (draws[0] for draws in found.judgement.decide(everyone))
        lead = found.judgement.objective[0, best] - found.judgement.objective[0]
        others = np.arange(len(margins)) != best
        if (np.abs(lead / found.judgement.margin[best].clip(1e-9) - 1)[others] < 0.05).any():
            continue
        compared += 1
        assert found.chances()[_selected(of, rule, margins)] == 1.0
        assert found.survivors(0.0) == [f"p{chosen}"]
    assert compared >= 2


def _selected(of: Course, rule: dict[str, Any], margins: np.ndarray) -> str:
    """By `select.choose`, from lines and paired percentile intervals."""
    groups = {name: of.groups.membership[:, i] for i, name in enumerate(of.groups.names)}
    views = {
        "": {f"p{i}": (given > 0).astype(int) for i, given in enumerate(margins)},
        "level_matched": {
            f"p{i}": predict_at(given, matching_threshold(given, 0.4))
            for i, given in enumerate(margins)
        },
    }
    lines = [
        {
            **{"id": name, "label": name, "kind": "merge", "split": "validation"},
            **{"size": 0.1 * (int(name[1:]) + 1), "adds_nothing": False},
            **{"lambda": None, "lambda_eff": None},
            "evaluation": {
                "degenerate": False,
                "metrics": _values(of, views[""][name], groups),
                "level_matched": _values(of, views["level_matched"][name], groups),
            },
        }
        for name in views[""]
    ]
    maximize = rule["maximize"]
    block, _, metric = maximize.rpartition(".")
    paired = Paired.of(
        *(of.labels, views[block], groups),
        **{"reference": "between_groups", "min_group_size": 1, "exclude": ()},
        **{"draws": 2000, "seed": 0},
    )

    def tied(top: Any, others: Any) -> set[str]:
        lows = {
            line["id"]: paired.difference(line["id"], top["id"], "between_groups", 0.95)
            .metrics[metric]
            .low
            for line in others
        }
        return {name for name, low in lows.items() if low is None or low <= 0}

    limits = {k.replace("__", "."): v for k, v in rule.items() if k != "maximize"}
    chosen = choose(lines, {}, Select(maximize=maximize, subject_to=limits), tied=tied).id
    assert chosen is not None
    return chosen


def _values(of: Course, predicted: Any, groups: Any) -> dict[str, dict[str, float]]:
    found = estimate(of.labels, predicted, groups)
    return {name: {"value": value} for name, value in found.items()}


def test_with_all_rows_every_draw_is_the_full_evaluation() -> None:
    of = course(overlap=True)
    margins = answers(of, [0.7, 0.8])
    rule = terms(dpd="<= 0.05")
    found = judgement(of, rule, np.arange(of.n), margins, np.ones(2), draws=20)
    for point in range(2):
        full = estimate(of.labels, (margins[point] > 0).astype(int), of.groups)
        assert set(found.objective[:, point]) == {full["acc"]}
        assert found.violation[0, point] == max(0.0, full["dpd"] - 0.05)


# --- The predictive draws --------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60), st.booleans())
def test_draws_are_full_data_sets(seed: int, m: int, overlap: bool) -> None:
    """Every draw holds each label of each group as often as the N rows do, and all seen rows."""
    of = course(seed, rows=60, overlap=overlap)
    seen = np.random.default_rng(seed).permutation(of.n)[:m]
    said = (answers(of, [0.5, 0.9], seed)[:, seen] > 0).astype(np.int8)
    weights = draw_weights(of, seen, 7, np.random.default_rng(seed))
    counts = tabulate(of, seen, weights, said)
    member = np.column_stack([of.groups.membership, np.ones(of.n, dtype=bool)])
    for label in (0, 1):
        expected = member[of.labels == label].sum(axis=0)
        assert (counts[..., label, :].sum(axis=-1) == expected).all()
    for point in range(2):
        at_least = np.bincount(of.labels[seen] * 3 + said[point], minlength=6).reshape(2, 3)
        assert (counts[:, point, -1] >= at_least).all()
    assert weights.mean.sum() == pytest.approx(of.n)


def test_the_baselines_margins_sharpen_the_prediction() -> None:
    """A point that answers as the baseline does is known almost exactly."""
    of = course(rows=1500)
    blind = Course(of.labels, of.groups, np.zeros((0, of.n)))
    spread = []
    for each in (of, blind):
        seen = np.concatenate(row_blocks(each.labels, each.groups, 0))[:300]
        found = judgement(each, terms(), seen, of.known[:, seen], np.ones(1))
        spread.append(found.objective.std())
    assert spread[0] < 0.6 * spread[1]


def test_the_same_seed_gives_the_same_standings() -> None:
    of = course()
    margins = answers(of, [0.78, 0.8, 0.79])
    once, again = (ask(of, terms(dpd="<= 0.1"), margins, 0.3).chances() for _ in range(2))
    assert once == again
    assert sum(once.values()) == pytest.approx(1.0)


# --- Blocks of rows --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100), st.integers(1, 700), st.booleans())
def test_blocks_are_all_rows_once(seed: int, rows: int, overlap: bool) -> None:
    of = course(seed, rows=rows, overlap=overlap)
    blocks = row_blocks(of.labels, of.groups, seed)
    assert sorted(np.concatenate(blocks)) == list(range(rows))
    assert all(len(block) for block in blocks)
    assert len(blocks) == 1 or len(blocks[0]) >= 200


def test_every_block_holds_its_share_of_every_label_and_group() -> None:
    of = course(rows=1000)
    first, *_ = row_blocks(of.labels, of.groups, 3, rungs=(0.25, 1.0))
    for group in of.groups.membership.T:
        for label in (0, 1):
            mine = group & (of.labels == label)
            assert mine[first].sum() == pytest.approx(mine.sum() / 4, abs=1.5)
    other, *_ = row_blocks(of.labels, of.groups, 4, rungs=(0.25, 1.0))
    assert set(first.tolist()) != set(other.tolist())
