"""What every proposer promises: no state, no point twice, the same after a kill."""

from __future__ import annotations

import math

import pytest
from search_landscape import GOAL, SPACE, evaluation, search

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.search import (
    Goal,
    Limit,
    Observation,
    Proposer,
    RandomProposer,
    Space,
    SurrogateProposer,
    failed,
    observed,
)
from mergekit_fair.sweep.search.observation import best, feasible_front

PROPOSERS: dict[str, Proposer] = {
    "random": RandomProposer(SPACE, seed=1),
    "surrogate": SurrogateProposer(SPACE, GOAL, seed=1, candidates=100),
}
TINY = Space(SPACE.names, SPACE.low, SPACE.high, step=0.5)  # 27 points


@pytest.mark.parametrize("name", PROPOSERS)
def test_asking_again_asks_the_same_and_never_what_is_known(name: str) -> None:
    proposer = PROPOSERS[name]
    history = search(proposer, 14)
    points = [found.x for found in history]
    assert len(set(points)) == 14
    for length in (0, 5, 8, 13):  # from any prefix, in a new process or not
        assert proposer.ask(history[:length], 1) == [points[length]]
    batch = proposer.ask(history, 4)
    assert len(set(batch)) == 4
    assert not set(batch) & set(points)
    assert all(SPACE.snapped(point) == point for point in batch)
    assert proposer.ask(history, 4) == batch


def test_an_exhausted_space_gives_fewer_points() -> None:
    proposers: tuple[Proposer, ...] = (
        RandomProposer(TINY),
        SurrogateProposer(TINY, GOAL, candidates=200),
    )
    for proposer in proposers:
        history = search(proposer, 40, size=5)
        assert len({found.x for found in history}) == len(history) == 27
        assert proposer.ask(history, 3) == []


def test_seeds_differ() -> None:
    for kind in (RandomProposer, lambda space, seed: SurrogateProposer(space, GOAL, seed)):
        assert kind(SPACE, 1).ask([], 5) != kind(SPACE, 2).ask([], 5)


def test_objectives_are_minimised_and_limits_counted() -> None:
    goal = Goal(limits=(Limit("dpd", "<=", 0.0), Limit("acc", ">=", 1.0)))
    block = evaluation((0.5, 0.5, 0.5))
    acc, dpd, eod = (block["metrics"][name]["value"] for name in ("acc", "dpd", "eod"))
    found = observed((0.5, 0.5, 0.5), block, goal)
    assert found.objectives == pytest.approx((1 - acc, dpd, eod))
    assert found.violation == pytest.approx(dpd + 1 - acc)
    assert not found.feasible
    assert found.n == 2800
    assert found.overall["n_pos"] == 950
    assert observed((0.5,) * 3, block, Goal()).feasible


def test_strict_limits_are_missed_by_equality() -> None:
    block = evaluation((0.5, 0.5, 0.5))
    dpd = block["metrics"]["dpd"]["value"]
    assert observed((0.5,) * 3, block, Goal(limits=(Limit("dpd", "<=", dpd),))).feasible
    assert not observed((0.5,) * 3, block, Goal(limits=(Limit("dpd", "<", dpd),))).feasible


def test_degenerate_undefined_and_failed_points_are_infinitely_far() -> None:
    x = (0.1, 0.1, 0.1)
    block = evaluation(x)
    undefined = {**block, "metrics": {**block["metrics"], "eod": {"value": None}}}
    for found in (
        observed(x, {**block, "degenerate": True}, Goal()),
        observed(x, undefined, Goal()),
        observed(x, block, Goal(objectives=("level_matched.dpd",))),
        failed(x, Goal()),
    ):
        assert found.violation == math.inf
    assert math.isnan(observed(x, undefined, Goal()).objectives[2])
    blocks = {**block, "level_matched": {"dpd": {"value": 0.25}}}
    assert observed(x, blocks, Goal(objectives=("level_matched.dpd",))).objectives == (0.25,)


def test_where_to_look_closer() -> None:
    def point(name: float, violation: float, *objectives: float) -> Observation:
        return Observation((name,), {}, 1, objectives, violation)

    near, far, broken = point(1, 0.1, 0, 0), point(2, 0.5, 0, 0), point(3, math.inf, 0, 0)
    assert best([far, broken, near], 2) == [near, far]
    assert best([far, broken, near], 1) == [near]
    good, dominated = point(4, 0.0, 0.5, 0.5), point(5, 0.0, 0.6, 0.5)
    assert best([far, dominated, good], 1) == feasible_front([dominated, good]) == [good]
    assert feasible_front([far]) == []


def test_goals_are_checked() -> None:
    with pytest.raises(ConfigError, match="dpd: unknown operator; got '=='; allowed: <=, >=, <, >"):
        Limit("dpd", "==", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dpd: a limit must be a finite number; got nan"):
        Limit("dpd", "<=", math.nan)
    for objectives in ((), ("acc", "acc")):
        with pytest.raises(ConfigError, match="objectives: a search needs objectives, each once"):
            Goal(objectives=objectives)
    with pytest.raises(ConfigError, match=r"is no metric that group rates compose; got 'level_m"):
        SurrogateProposer(SPACE, Goal(objectives=("acc", "level_matched.dpd")))
