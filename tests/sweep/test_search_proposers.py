"""What every proposer promises: no state, no point twice, the same after a kill."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import get_args

import pytest
from evaluations import interval
from refusals import raises
from search_landscape import GROUPS, RULE, SPACE, evaluation, failed, measure, search, seen_at

from mergekit_fair.errors import ConfigError
from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.search.proposers import (
    Observation,
    Proposer,
    Space,
    best,
    feasible_front,
)
from mergekit_fair.sweep.search.search_stage import PROPOSERS
from mergekit_fair.sweep.search.surrogate import SurrogateProposer
from mergekit_fair.sweep.selection import Rule
from mergekit_fair.sweep.sweep_config import Search

TINY = Space(SPACE.names, SPACE.low, SPACE.high, step=0.5)  # 27 points


@pytest.fixture(params=PROPOSERS)
def make(request: pytest.FixtureRequest) -> Callable[[Space, int], Proposer]:
    """A strategy of the sweep file; a new one is tested by being in the table."""
    if request.param == "optuna":
        pytest.importorskip("optuna")
    if request.param == "surrogate":  # fewer candidates are faster
        return lambda space, seed: SurrogateProposer(space, RULE, seed, GROUPS, candidates=100)
    return lambda space, seed: PROPOSERS[request.param](space, RULE, seed, GROUPS)


def test_every_method_of_the_sweep_file_has_its_strategy() -> None:
    assert tuple(PROPOSERS) == get_args(Search.model_fields["method"].annotation)


def test_asking_again_asks_the_same_and_never_what_is_known(
    make: Callable[[Space, int], Proposer],
) -> None:
    proposer = make(SPACE, 1)
    history = search(proposer, 14)
    points = [found.x for found in history]
    assert len(set(points)) == 14
    for length in (0, 5, 8, 13):  # from any prefix, in a new process or not
        assert make(SPACE, 1).ask(history[:length], 1) == [points[length]]
    batch = proposer.ask(history, 4)
    assert len(set(batch)) == 4
    assert not set(batch) & set(points)
    assert all(SPACE.snapped(point) == point for point in batch)
    assert proposer.ask(history, 4) == batch
    assert make(SPACE, 2).ask(history, 4) != batch


def test_seeds_differ_from_the_first_point_on(make: Callable[[Space, int], Proposer]) -> None:
    assert make(SPACE, 1).ask([], 5) != make(SPACE, 2).ask([], 5)


def test_an_exhausted_space_gives_fewer_points(make: Callable[[Space, int], Proposer]) -> None:
    proposer = make(TINY, 0)
    everything = [measure(x) for x in itertools.product((0.0, 0.5, 1.0), repeat=3)]
    assert proposer.ask(everything, 2) == []
    assert proposer.ask(everything[:-1], 2) == [everything[-1].x]
    history = search(proposer, 40, size=5)
    assert len({found.x for found in history}) == len(history) == 27


def test_failed_points_count_but_stop_nothing(make: Callable[[Space, int], Proposer]) -> None:
    broken = [failed(x) for x in SPACE.sobol(9, 0)]
    asked = make(SPACE, 0).ask(broken, 3)
    assert len(set(asked) - {seen.x for seen in broken}) == 3
    mixed = [*broken[:4], *(measure(seen.x) for seen in broken[4:])]
    assert len(make(SPACE, 0).ask(mixed, 1)) == 1


def test_objectives_are_minimised_and_limits_counted() -> None:
    rule = Rule(limits=(Limit("dpd", "<=", 0.0), Limit("acc", ">=", 1.0)))
    x, block = (0.5, 0.5, 0.5), evaluation((0.5, 0.5, 0.5))
    acc, dpd, eod = (block["metrics"][name]["value"] for name in ("acc", "dpd", "eod"))
    found = measure(x, rule)
    assert found.objectives == pytest.approx((1 - acc, dpd, eod))
    assert found.violation == pytest.approx(dpd + 1 - acc)
    assert not found.feasible
    assert found.n == 2800
    assert found.overall["n_pos"] == 950
    assert measure(x, Rule()).feasible


def test_degenerate_undefined_and_failed_points_are_infinitely_far() -> None:
    x = (0.1, 0.1, 0.1)
    block, rule = evaluation(x), Rule()
    undefined = {**block, "metrics": {**block["metrics"], "eod": interval(None)}}
    matched = Rule(gaps=("level_matched.dpd",))
    for found in (
        seen_at(x, {**block, "degenerate": True}, rule),
        seen_at(x, undefined, rule),
        seen_at(x, block, matched),
        failed(x, rule),
    ):
        assert found.violation == math.inf
    assert math.isnan(seen_at(x, undefined, rule).objectives[2])
    level = {"to": "fft", "rate": 0.5, "threshold": 0.0, "dpd": interval(0.25)}
    found = seen_at(x, {**block, "level_matched": level}, matched)
    assert found.objectives[1:] == (0.25,)


def test_where_to_look_closer() -> None:
    def point(name: float, violation: float, *objectives: float) -> Observation:
        return Observation((name,), {}, 1, objectives, violation)

    near, far, broken = point(1, 0.1, 0, 0), point(2, 0.5, 0, 0), point(3, math.inf, 0, 0)
    assert best([far, broken, near], 2) == [near, far]
    assert best([far, broken, near], 1) == [near]
    good, dominated = point(4, 0.0, 0.5, 0.5), point(5, 0.0, 0.6, 0.5)
    assert best([far, dominated, good], 1) == feasible_front([dominated, good]) == [good]
    assert feasible_front([far]) == []


def test_what_rates_do_not_compose_is_refused() -> None:
    with raises(ConfigError, where="surrogate search", got="level_matched.dpd"):
        SurrogateProposer(SPACE, Rule(gaps=("level_matched.dpd",)))
