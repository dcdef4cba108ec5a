"""Selection rates far from the level: they are predicted, and not asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import expit

from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.search.level_model import LevelModel, at_level, likely, start
from mergekit_fair.sweep.search.proposers import Coordinates, Observation, Space
from mergekit_fair.sweep.search.rate_model import GroupLayout
from mergekit_fair.sweep.search.search_stage import PROPOSERS
from mergekit_fair.sweep.search.surrogate import SurrogateProposer
from mergekit_fair.sweep.selection import Rule

SIX = Space(tuple("abcdef"), (0.0,) * 6, (1.0,) * 6, size=(1.0,) * 6)
LIMITS = (Limit("selection_rate", ">=", 0.4), Limit("selection_rate", "<=", 0.6))
RULE = Rule("acc", LIMITS)


def rate(x: Sequence[float]) -> float:
    """0.35 for nothing, 0.5 for one vector, and ever more rows for more."""
    return float(expit(np.sum(x) * 0.62 - 0.62 + 0.1 * (x[0] - x[1])))


def seen_at(x: Coordinates) -> Observation:
    """Two halves of 1,000 rows whose rates lie apart."""
    own, apart = rate(x), 0.1 - 0.05 * x[2]
    blocks = {
        name: {"n": 500, "n_pos": 250, "selection_rate": own + sign * apart, "acc": 0.7,
               "tpr": min(own + sign * apart + 0.2, 1.0), "fpr": max(own + sign * apart - 0.2, 0.0)}
        for name, sign in (("p", 1), ("q", -1))
    }  # fmt: skip
    values = {"acc": 0.7, "dpd": 2 * apart, "eod": 2 * apart, "selection_rate": own}
    arrays = {name: np.array(value) for name, value in values.items()}
    overall = {"n": 1000, "n_pos": 500, "selection_rate": own, "acc": 0.7, "tpr": own, "fpr": own}
    objectives = tuple(RULE.to_minimise(arrays).tolist())
    return Observation(x, blocks, 1000, objectives, float(RULE.violation(arrays)), overall)


def test_the_chance_of_the_level_follows_what_was_measured() -> None:
    diagonal = [seen_at((s / 6,) * 6) for s in (0.0, 0.5, 1.0, 1.5)]
    level = LevelModel.of(SIX, RULE, diagonal)
    assert level is not None
    here, twice, far = level.chance([(1 / 6,) * 6, (0.4,) * 6, (1.0,) * 6])
    assert here > 0.95
    assert far < 0.05 < twice + 0.05
    # One vector alone may do something else than their mean: it is less sure.
    assert far < level.chance([(1.0, 0, 0, 0, 0, 0)])[0] < here
    points = [(1.0,) * 6, (1 / 6,) * 6]
    assert likely(level, points) == points[1:]
    assert likely(level, points[:1]) == points[:1]  # the best there is
    assert likely(None, points) == points
    assert LevelModel.of(SIX, Rule("acc"), diagonal) is None
    assert LevelModel.of(SIX, RULE, []) is None


def test_a_start_ends_when_the_points_span_the_space() -> None:
    history: list[Observation] = []
    while asked := start(SIX, RULE, 0, history, 1):
        history.append(seen_at(asked[0]))
    assert len(history) == 7
    assert sum(at_level(RULE, found) for found in history) >= 6
    grid = [seen_at((s / 6,) * 6) for s in (0.5, 1.0, 1.5)]  # one direction of six
    shorter = list(grid)
    while asked := start(SIX, RULE, 0, shorter, 1):
        shorter.append(seen_at(asked[0]))
    assert len(shorter) - len(grid) == 5
    assert len(start(SIX, RULE, 0, [], 4)) == 4
    assert len(start(SIX, RULE, 0, [], 40)) == 7


def test_vectors_that_lead_less_far_are_looked_for_further_out() -> None:
    weak = [seen_at((s / 6,) * 6) for s in (3.0, 4.0)]
    near = Rule("acc", (Limit("selection_rate", ">=", rate((0.5,) * 6) - 0.05),))
    asked = start(SIX, near, 0, weak, 5)
    assert SIX.sizes(asked).min() > 1.5


@pytest.mark.parametrize("method", PROPOSERS)
def test_hardly_a_point_is_far_from_the_level(method: str) -> None:
    if method == "optuna":
        pytest.importorskip("optuna")
    in_the_box = [rate(x) <= 0.6 for x in SIX.random(500, np.random.default_rng(0))]
    assert np.mean(in_the_box) < 0.05
    groups = GroupLayout(is_partition=True)
    for seed in range(3):
        proposer = (
            SurrogateProposer(SIX, RULE, seed, groups, candidates=200)
            if method == "surrogate"
            else PROPOSERS[method](SIX, RULE, seed, groups)
        )
        history: list[Observation] = []
        while len(history) < 16:
            history += [seen_at(x) for x in proposer.ask(history, 2)]
        assert np.mean([at_level(RULE, found) for found in history]) >= 0.75
